package chain

import (
	"context"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// asInAPod starts the daemon of a node with no more than its container in
// Kubernetes has: root, of whose capabilities one is left.
func (l *lab) asInAPod(t *testing.T, n *netlab.Node) *netlab.Process {
	t.Helper()
	d, err := n.Start("twilld", "setpriv", "--no-new-privs", "--bounding-set", "-all,+net_admin",
		netlabtest.Binaries(t).Twilld, "--etcd-endpoints="+strings.Join(l.EtcdEndpoints(), ","), "--node-name="+n.Name,
		"--ip-masq", "--healthz-ip=127.0.0.1", "--healthz-port=8471")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), netlabtest.Patience)
	defer cancel()
	require.NoError(t, n.WaitReady(ctx, d))
	return d
}

// A daemon that has nothing but CAP_NET_ADMIN clears away all that a pod has
// left for which no DEL was made; the pods beside it keep what they have.
func TestDaemonClearsAway(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.backend(t, "nftables")
	caps := func(port int) map[string]any {
		return map[string]any{
			"portMappings": []map[string]any{{"hostPort": port, "containerPort": podPort, "protocol": "tcp"}},
			"bandwidth":    map[string]int{"ingressRate": 10_000_000, "ingressBurst": math.MaxUint32, "egressRate": 10_000_000, "egressBurst": math.MaxUint32},
		}
	}
	lives, err := l.addPod(t, "lives", caps(7070))
	require.NoError(t, err)
	const traces = `nft list ruleset | grep -E 'dnat|cnitool' || :
		ip -o link show type ifb | cut -d: -f2; ls /var/lib/cni/networks/cbr0 /var/lib/cni/results | grep -v last_`
	before := sh(t, &l.one.Host, traces)
	_, err = l.addPod(t, "lost", caps(hostPort))
	require.NoError(t, err)
	require.Contains(t, sh(t, &l.one.Host, traces), fmt.Sprint(hostPort))
	ctx, cancel := context.WithTimeout(t.Context(), netlabtest.Patience)
	defer cancel()
	sh(t, &l.one.Host, `ip netns del lost
		find /var/lib/cni/networks/cbr0 /var/lib/cni/results -type f -exec touch -d '1 hour ago' {} +`)
	require.NoError(t, l.daemon.Stop(ctx))
	l.asInAPod(t, l.one)
	netlabtest.Eventually(t, "nothing is left of it", func() error {
		if now := sh(t, &l.one.Host, traces); now != before {
			return fmt.Errorf("there is\n%s\nbut should be\n%s", now, before)
		}
		return nil
	})
	_, err = lives.cnitool(t.Context(), "check")
	require.NoError(t, err)
	lives.del(t)
}

// The one gateway of pods that somebody takes from their bridge is put back.
func TestLostGateway(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t, netlab.Options{Nodes: 1, Overlay: netlab.IPv4Only})
	n := lab.Node(1)
	ctx, cancel := context.WithTimeout(t.Context(), netlabtest.Patience)
	defer cancel()
	d, err := n.StartTwilld()
	require.NoError(t, err)
	require.NoError(t, n.WaitReady(ctx, d))
	p, err := n.AddPod(ctx, "a")
	require.NoError(t, err)
	require.False(t, p.Addrs[subnet.IPv6].IsValid())
	for range 3 {
		sh(t, &n.Host, "ip addr flush dev cni0")
		netlabtest.Eventually(t, "the pod reaches its node", func() error {
			_, err := p.Ping(ctx, n.Addrs[subnet.IPv4], 56)
			return err
		})
	}
}

// STATUS, which a runtime asks for every few seconds and by which it makes the
// node NotReady, is well all the while that the daemon is stopped, killed and
// started, and tells when a device is really gone.
func TestStatusWhileTheDaemonRestarts(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t, netlab.Options{Nodes: 1})
	n := lab.Node(1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*netlabtest.Patience)
	defer cancel()
	status := func() error {
		_, err := n.Exec(ctx, "env", "CNI_PATH=/opt/cni/bin", "NETCONFPATH=/etc/cni/net.d", "/opt/cni/bin/cnitool", "status", "cbr0", "/proc/self/ns/net")
		return err
	}
	list, err := os.ReadFile("../../../dist/cni-conf/10-twill.conflist")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(n.Path(confFile), list, 0o644))
	require.ErrorContains(t, status(), "is twilld running and ready on this node?")
	d, err := n.StartTwilld()
	require.NoError(t, err)
	require.NoError(t, n.WaitReady(ctx, d))

	asked, stop := 0, make(chan struct{})
	wrong := make(chan error, 1)
	go func() {
		defer close(wrong)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := status(); err != nil {
				wrong <- err
				return
			}
			asked++
		}
	}()
	for range 2 {
		for _, end := range []func(context.Context) error{d.Stop, d.Kill} {
			require.NoError(t, end(ctx))
			require.NoError(t, d.Restart())
			require.NoError(t, n.WaitReady(ctx, d))
		}
	}
	close(stop)
	require.NoError(t, <-wrong)
	require.Positive(t, asked)

	require.NoError(t, d.Kill(ctx))
	sh(t, &n.Host, "ip link del twill.1; ip link del twill-v6.1")
	require.ErrorContains(t, status(), "no VXLAN device of twill has the address")
}
