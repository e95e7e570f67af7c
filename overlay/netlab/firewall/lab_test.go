package firewall

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = netlabtest.Patience

// lab is two nodes with pods. The rules are looked at on node one.
type lab struct {
	*netlab.Lab
	one, two               *netlab.Node
	daemons                map[*netlab.Node]*netlab.Process
	pod, neighbour, remote *netlab.Pod // the first two on node one
	gateway, overlay       subnet.PerFamily[netip.Addr]
}

// newLab starts the daemons on nodes where prepare was run before.
func newLab(t *testing.T, prepare string, flags ...string) *lab {
	t.Helper()
	l := &lab{Lab: netlabtest.New(t, netlab.Options{Nodes: 2, NetConf: conf(nil)}), daemons: map[*netlab.Node]*netlab.Process{}}
	l.one, l.two = l.Node(1), l.Node(2)
	for _, n := range l.Nodes {
		netlabtest.Run(t, &n.Host, prepare)
		l.start(t, n, flags...)
	}
	l.pod, l.neighbour, l.remote = netlabtest.AddPod(t, l.one, "a"), netlabtest.AddPod(t, l.one, "b"), netlabtest.AddPod(t, l.two, "a")
	for _, n := range l.Nodes {
		env := netlabtest.Env(t, n)
		for _, f := range subnet.Families {
			// The way for clients from outside, and for answers to pods that keep
			// their addresses: by node one, to node two's pods too.
			netlabtest.Run(t, l.Lan, fmt.Sprintf("ip route add %s via %s", env.Subnets[f].Masked(), l.one.Addrs[f]))
			if n == l.one {
				l.gateway[f], l.overlay[f] = env.Subnets[f].Addr(), env.Subnets[f].Masked().Addr()
			}
		}
	}
	l.eventuallyPings(t)
	return l
}

// conf is the network config with further keys.
func conf(more map[string]any) string {
	c := map[string]any{"Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48", "EnableIPv6": true}
	for k, v := range more {
		c[k] = v
	}
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and booleans
	}
	return string(text)
}

func (l *lab) start(t *testing.T, n *netlab.Node, flags ...string) {
	t.Helper()
	if d := l.daemons[n]; d != nil {
		require.NoError(t, d.Stop(t.Context()))
	}
	l.daemons[n] = netlabtest.StartTwilld(t, n, append([]string{"--iptables-resync=1"}, flags...)...)
}

// configure puts another network config into etcd.
func (l *lab) configure(t *testing.T, more map[string]any) {
	t.Helper()
	client, err := clientv3.New(l.EtcdConfig())
	require.NoError(t, err)
	defer client.Close()
	_, err = client.Put(t.Context(), netlab.ConfigKey, conf(more))
	require.NoError(t, err)
}

// await waits for a status of node one.
func (l *lab) await(t *testing.T, what string, is func(overlay.Status) bool) (s overlay.Status) {
	t.Helper()
	netlabtest.Eventually(t, what, func() error {
		s = overlay.Status{}
		if err := l.one.Status(t.Context(), &s); err != nil {
			return err
		}
		if !is(s) {
			return errors.New("the status is:\n" + s.Text())
		}
		return nil
	})
	return s
}

// awaitMode waits until the rules are where they are wanted.
func (l *lab) awaitMode(t *testing.T, mode string) {
	t.Helper()
	l.await(t, "the rules are in "+mode, func(s overlay.Status) bool {
		return s.Ready && s.Firewall != nil && s.Firewall.Mode == mode && len(s.Firewall.Blocked) == 0
	})
}

// eventuallyPings waits until pods reach each other, between nodes, and the outside.
func (l *lab) eventuallyPings(t *testing.T) {
	t.Helper()
	for _, f := range subnet.Families {
		for _, w := range [][2]*netlab.Host{{&l.pod.Host, &l.remote.Host}, {&l.pod.Host, l.Outside}, {l.Outside, &l.pod.Host}} {
			netlabtest.Eventually(t, fmt.Sprintf("%s reaches %s", w[0].Name, w[1].Addrs[f]), func() error {
				out, err := w[0].Exec(t.Context(), "ping", "-n", "-c", "1", "-W", "0.2", w[1].Addrs[f].String())
				if err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			})
		}
	}
}

// others is what the firewalls of a host hold, without what is ours in them
// and without built-in chains as they are when nobody has written to them.
func others(t *testing.T, h *netlab.Host) string {
	t.Helper()
	return netlabtest.Run(t, h, `nft list ruleset | sed '/^table [a-z]* twill/,/^}/d; /^table ip6* \(filter\|nat\) /,/^}/d; /"twill: /d'
		for v in nft legacy; do for p in ip ip6; do for table in nat filter; do
			if [ $v = nft ]; then nft list table $p $table >/dev/null 2>&1 || continue
			else grep -q $table /proc/net/${p}_tables_names || continue; fi
			${p}tables-$v -t $table -S | sed "/TWILL-/d; /^-P .* ACCEPT/d; s/^/$p $v $table /"
		done; done; done`)
}

// ours is what is ours in a host's firewalls, but for VTEP hygiene.
func ours(t *testing.T, h *netlab.Host) string {
	t.Helper()
	return netlabtest.Run(t, h, `nft list table inet twill 2>/dev/null || :
		nft list ruleset | grep '"twill: ' || :
		for v in nft legacy; do for p in ip ip6; do for table in nat filter; do
			if [ $v = nft ]; then nft list table $p $table >/dev/null 2>&1 || continue
			else grep -q $table /proc/net/${p}_tables_names || continue; fi
			${p}tables-$v -t $table -S | grep TWILL- | sed "s/^/$p $v $table /" || :
		done; done; done`)
}
