package hygiene

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

const off = "--vtep-hygiene=false"

func TestDualStack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 3})
	c.attacks(t)
	step(t, "who says so routes for others", func(t *testing.T) {
		p := c.unchecked(t, "router")
		c.arrive(t, append(c.spoofs(t, p), c.owns(t, p)...)...)
		c.forget(t)
		c.dropped(t, c.spoofs(t, c.pod)...)
		require.NoError(t, c.one.DelPod(t.Context(), p))
	})
	step(t, "other VNIs", c.otherVNIs)
	step(t, "peers come and go", c.peersComeAndGo)
	step(t, "a peer behind NAT", c.behindNAT)
	step(t, "the daemon is away", c.daemonAway)
	step(t, "no packet is lost", c.nothingIsLost)
}

// One tunnel carries the pods of both families.
func TestIPv4Underlay(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 2, Underlay: netlab.IPv4Only})
	c.attacks(t)
}

// step runs a part of a test that the next ones build upon.
func step(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	if !t.Run(name, f) {
		t.FailNow()
	}
}

// attacks makes all attacks with hygiene and without.
func (c *cluster) attacks(t *testing.T) {
	attacks := slices.Concat(c.fromStrangers(), c.fromPods(), c.spoofs(t, c.pod))
	regular := slices.Concat(c.fromPeers(), c.podsMay(), c.owns(t, c.pod))
	step(t, "attacks are dropped", func(t *testing.T) { c.dropped(t, attacks...) })
	step(t, "what is regular arrives", func(t *testing.T) {
		c.arrive(t, regular...)
		c.forget(t)
		c.pings(t, c.pod, c.remote)
		c.pings(t, c.pod, c.neighbour)
	})
	step(t, "it is told", c.told)
	step(t, "without hygiene all arrives", func(t *testing.T) {
		had := []string{guard(t, c.one), guard(t, c.two)}
		for _, n := range c.Nodes[:2] {
			c.start(t, n, off)
			awaitGuard(t, n, "")
			require.Nil(t, status(t, n).Dropped)
		}
		c.arrive(t, attacks...)
		c.forget(t)
		c.arrive(t, regular...)
		c.forget(t)
		for i, n := range c.Nodes[:2] {
			c.start(t, n)
			awaitGuard(t, n, had[i])
		}
	})
	c.dropped(t, attacks[0], attacks[len(attacks)-1])
}

// An overlay of the admin's own, with the same port, between nodes and one that
// is no node, goes its way; and so does nothing of ours in it.
func (c *cluster) otherVNIs(t *testing.T) {
	const vni = 7
	hosts := []*netlab.Host{&c.one.Host, &c.two.Host, c.Lan}
	own := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{172, 20, 0, byte(i + 1)}) }
	want := c.drops(t)
	for _, f := range c.underlay {
		for i, h := range hosts {
			script := fmt.Sprintf("ip link add admin type vxlan id %d dstport %d dev %s local %s\n", vni, vtepPort, map[bool]string{true: "br0", false: "eth0"}[h == c.Lan], h.Addrs[f])
			for _, peer := range hosts {
				if peer != h {
					script += fmt.Sprintf("bridge fdb append 00:00:00:00:00:00 dev admin dst %s\n", peer.Addrs[f])
				}
			}
			sh(t, h, script+fmt.Sprintf("ip addr add %s/24 dev admin; ip link set admin up", own(i)))
		}
		for _, from := range hosts {
			for i, to := range hosts {
				if from != to {
					_, err := from.Ping(t.Context(), own(i), 0)
					require.NoError(t, err, "from %s to %s, %s", from.Name, to.Name, versions[f])
				}
			}
		}
		require.Equal(t, want, c.drops(t))

		// A pod may not even get there.
		admin := newTap(t, &c.one.Host, "admin")
		to := func(h *netlab.Host, vni byte) func(*testing.T, string) {
			return func(t *testing.T, text string) {
				udpFrom(t, h, c.one.Addrs[f], vxlan(vni, carrying(broadcast, own(1), own(0), text)))
			}
		}
		c.arrive(t, try{name: "a stranger, VNI 7", send: to(c.Lan, vni), to: admin})
		c.dropped(t, try{"a pod, VNI 7", to(&c.pod.Host, vni), admin, c.one, hygiene.ReasonPodToVTEP})
		if f == subnet.IPv6 {
			c.dropped(t, try{"a pod, VNI 7, link-local", c.linkLocal(vni, f), admin, c.one, hygiene.ReasonPodToVTEP})
		}
		want = c.drops(t)

		// A VNI that nobody has is not ours to drop; the kernel does.
		for _, h := range []*netlab.Host{c.Lan, &c.two.Host} {
			udpFrom(t, h, c.one.Addrs[f], vxlan(9, carrying(c.devices[0][f].mac, c.remote.Addrs[f], c.pod.Addrs[f], "wrong VNI")))
		}
		c.toPod(f, f, &c.two.Host, c.remote.Addrs[f])(t, "right VNI")
		wrong, right := c.taps[c.pod.Name].sawBefore("right VNI", "wrong VNI")
		require.True(t, right)
		require.False(t, wrong)
		require.Equal(t, want, c.drops(t))
		for _, h := range hosts {
			sh(t, h, "ip link del admin")
		}
	}
}

// A peer is let in before anyone can answer it, wherever it moves to, and for
// as long as it is one.
func (c *cluster) peersComeAndGo(t *testing.T) {
	three, to := c.Node(3), c.taps[c.pod.Name]
	want := c.drops(t)
	c.start(t, three, "--release-on-exit")
	newcomer := addPod(t, three, "a")
	c.meshed(t, c.Nodes...)
	c.pings(t, newcomer, c.pod)
	c.pings(t, newcomer, c.remote)
	have := c.drops(t)
	for k, n := range want {
		require.Equal(t, n, have[k], k)
	}

	packets := func(name string, send func(f subnet.Family) func(*testing.T, string)) (tries []try) {
		for _, f := range c.underlay {
			tries = append(tries, try{name + ", " + versions[f], send(f), to, c.one, hygiene.ReasonStranger})
		}
		return tries
	}
	asPeer := packets("from its address", func(f subnet.Family) func(*testing.T, string) {
		return c.toPod(f, f, &three.Host, newcomer.Addrs[f])
	})
	// The lan sends in the name of an address that nobody has.
	was := three.Addrs
	asBefore := packets("from its old address", func(f subnet.Family) func(*testing.T, string) {
		return func(t *testing.T, text string) {
			d := datagram(was[f], c.one.Addrs[f], vtepPort, vxlan(1, carrying(c.devices[0][f].mac, newcomer.Addrs[f], c.pod.Addrs[f], text)))
			sendRaw(t, c.Lan, c.one.Addrs[f], packet(was[f], c.one.Addrs[f], unix.IPPROTO_UDP, d))
		}
	})
	c.arrive(t, append(asPeer, asBefore...)...)

	sh(t, &three.Host, `sysctl -qw net.ipv4.conf.all.promote_secondaries=1
		ip address add 192.168.77.113/24 dev eth0; ip address add fd77::113/64 dev eth0 nodad
		ip address del 192.168.77.13/24 dev eth0; ip address del fd77::13/64 dev eth0
		ip route replace default via 192.168.77.1`)
	now := []string{"192.168.77.113", "fd77::113"}
	for _, n := range []*netlab.Node{c.one, c.two} {
		eventually(t, n.Name+" knows the new addresses", func() error {
			for _, p := range status(t, n).Peers {
				if p.Node == three.Name && slices.Equal(p.PublicIPs, now) {
					return nil
				}
			}
			return fmt.Errorf("its peers are %+v", status(t, n).Peers)
		})
		eventually(t, n.Name+" has taken them over", func() error {
			if g := guard(t, n); strings.Contains(g, "192.168.77.13 ") || strings.Contains(g, "192.168.77.13\n") || !strings.Contains(g, now[1]) {
				return fmt.Errorf("it has %s", g)
			}
			return nil
		})
	}
	c.pings(t, newcomer, c.pod)
	c.arrive(t, asPeer...)
	c.dropped(t, asBefore...)

	gone := subnets(t, three)
	require.NoError(t, c.daemons[three].Stop(t.Context()))
	delete(c.daemons, three)
	for _, n := range []*netlab.Node{c.one, c.two} {
		for _, p := range gone {
			eventually(t, n.Name+" has no way to it any more", func() error {
				if routed(t, n, p) == nil {
					return fmt.Errorf("it has one to %s", p)
				}
				return nil
			})
		}
		eventually(t, n.Name+" does not let it in any more", func() error {
			if g := guard(t, n); strings.Contains(g, now[0]) || strings.Contains(g, now[1]) {
				return fmt.Errorf("it has %s", g)
			}
			return nil
		})
	}
	c.dropped(t, asPeer...)
	c.start(t, three)
	c.meshed(t, c.Nodes...)
	c.arrive(t, asPeer...)
	c.pings(t, newcomer, c.remote)
}

// A peer that announces an address which its packets may or may not come from
// is known by both.
func (c *cluster) behindNAT(t *testing.T) {
	public := netip.MustParseAddr("192.168.77.112")
	inName := try{name: "from the public address", to: c.taps[c.pod.Name], at: c.one, reason: hygiene.ReasonStranger}
	inName.send = func(t *testing.T, text string) {
		to, inner := c.one.Addrs[subnet.IPv4], carrying(c.devices[0][subnet.IPv4].mac, c.remote.Addrs[subnet.IPv4], c.pod.Addrs[subnet.IPv4], text)
		sendRaw(t, c.Lan, to, packet(public, to, unix.IPPROTO_UDP, datagram(public, to, vtepPort, vxlan(1, inner))))
	}
	inside := try{name: "from the address behind NAT", send: c.toPod(subnet.IPv4, subnet.IPv4, &c.two.Host, c.remote.Addrs[subnet.IPv4]), to: inName.to}
	c.dropped(t, inName)
	c.start(t, c.two, "--public-ip="+public.String())
	knows := func(is bool) {
		eventually(t, "the public address is let in or not", func() error {
			if g := guard(t, c.one); strings.Contains(g, public.String()) != is {
				return fmt.Errorf("it has %s", g)
			}
			return nil
		})
	}
	knows(true)
	c.arrive(t, inName, inside)
	c.start(t, c.two)
	knows(false)
	c.dropped(t, inName)
	c.arrive(t, inside)
}

// Hygiene goes on while the daemon does not run; and pods that are made
// meanwhile are held to their addresses when it is back.
func (c *cluster) daemonAway(t *testing.T) {
	require.NoError(t, c.daemons[c.one].Stop(t.Context()))
	count := func() string {
		return sh(t, &c.one.Host, "nft list counters table inet twill-vtep; nft list counters table bridge twill-pods")
	}
	for _, a := range []try{c.fromStrangers()[0], c.fromPods()[0], c.spoofs(t, c.pod)[0]} {
		before := count()
		a.to.saw("")
		a.send(t, "while it is away")
		eventually(t, a.name+" is dropped", func() error {
			if count() == before {
				return errors.New("nothing is counted")
			}
			return nil
		})
		require.False(t, a.to.saw("while it is away"), a.name)
	}
	late := addPod(t, c.one, "late")
	c.pings(t, late, c.remote)
	c.start(t, c.one)
	c.dropped(t, c.spoofs(t, late)...)
	c.arrive(t, c.owns(t, late)...)
	c.forget(t)
	require.NoError(t, c.one.DelPod(t.Context(), late))
}

// Hygiene on and off, stops, crashes and a flush of everything cost no packet;
// and whoever flushes it does not get rid of it.
func (c *cluster) nothingIsLost(t *testing.T) {
	had := map[*netlab.Node]string{c.one: guard(t, c.one), c.two: guard(t, c.two)}
	require.Contains(t, had[c.one], c.two.Addrs[subnet.IPv4].String())
	each := func(do func(n *netlab.Node)) func() {
		return func() {
			for _, n := range []*netlab.Node{c.one, c.two} {
				do(n)
			}
		}
	}
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"off", each(func(n *netlab.Node) { c.start(t, n, off); awaitGuard(t, n, "") })},
		{"on", each(func(n *netlab.Node) { c.start(t, n); awaitGuard(t, n, had[n]) })},
		{"restart", each(func(n *netlab.Node) { c.start(t, n); awaitGuard(t, n, had[n]) })},
		{"crash", each(func(n *netlab.Node) {
			require.NoError(t, c.daemons[n].Kill(t.Context()))
			c.start(t, n)
			awaitGuard(t, n, had[n])
		})},
		{"flush", each(func(n *netlab.Node) { sh(t, &n.Host, "nft flush ruleset"); awaitGuard(t, n, had[n]) })},
		{"flush while the daemon is away", each(func(n *netlab.Node) {
			require.NoError(t, c.daemons[n].Stop(t.Context()))
			sh(t, &n.Host, "nft flush ruleset")
			c.start(t, n)
			awaitGuard(t, n, had[n])
		})},
	} {
		c.unharmed(t, step.name, step.do)
	}
	c.dropped(t, slices.Concat(c.fromStrangers(), c.fromPods(), c.spoofs(t, c.pod))...)
	c.arrive(t, c.fromPeers()...)
}

// unharmed does something while pods ping each other every 10 ms, and fails if
// a packet is lost.
func (c *cluster) unharmed(t *testing.T, what string, do func()) {
	t.Helper()
	var flows []*netlab.Flow
	var names []string
	for _, f := range subnet.Families {
		for _, w := range [][2]*netlab.Pod{{c.pod, c.remote}, {c.remote, c.pod}, {c.pod, c.neighbour}} {
			flow, err := w[0].PingContinuously(t.Context(), w[1].Addrs[f], 10*time.Millisecond)
			require.NoError(t, err)
			flows, names = append(flows, flow), append(names, fmt.Sprintf("%s: %s to %s", what, w[0].Name, w[1].Addrs[f]))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for i, flow := range flows {
		require.NoError(t, flow.Await(ctx, 5), names[i])
	}
	do()
	sent := 0
	for i, flow := range flows {
		require.NoError(t, flow.Await(ctx, 10), names[i])
		loss, err := flow.Stop()
		require.NoError(t, err)
		require.Zero(t, loss.Lost(), "%s: %+v", names[i], loss)
		sent += loss.Sent
	}
	t.Logf("%s: 0 of %d lost", what, sent)
}

// metrics returns what a node's daemon shows to Prometheus.
func (c *cluster) metrics(t *testing.T, n *netlab.Node) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return n.DialContext(ctx, network, address)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:8471/metrics", nil)
	require.NoError(t, err)
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(text)
}
