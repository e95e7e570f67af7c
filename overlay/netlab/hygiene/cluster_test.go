package hygiene

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

const patience = netlabtest.Patience

// cluster is a lab in which nodes one and two have daemons and pods. The lan
// and the outside host are strangers.
type cluster struct {
	*netlab.Lab
	underlay               []subnet.Family
	one, two               *netlab.Node
	pod, neighbour, remote *netlab.Pod                    // the first two on node one
	gateway                subnet.PerFamily[netip.Addr]   // of node one's pods
	overlays               []subnet.PerFamily[netip.Addr] // of the VXLAN devices, by node
	devices                []subnet.PerFamily[tunnel]     // by node
	taps                   map[string]*tap                // on eth0, by host
	daemons                map[*netlab.Node]*netlab.Process
	unguarded              map[*netlab.Node]bool // whose daemon has hygiene switched off
}

// tunnel is a VXLAN device, by the family of its outer packets.
type tunnel struct {
	name string
	mac  net.HardwareAddr
}

var tunnels = subnet.PerFamily[string]{"twill.1", "twill-v6.1"}

func newCluster(t *testing.T, o netlab.Options) *cluster {
	t.Helper()
	c := &cluster{
		Lab: netlabtest.New(t, o), daemons: map[*netlab.Node]*netlab.Process{}, unguarded: map[*netlab.Node]bool{}, taps: map[string]*tap{},
	}
	c.one, c.two, c.underlay = c.Node(1), c.Node(2), subnet.Families[:]
	if o.Underlay != "" {
		c.underlay = o.Underlay.Families()
	}
	for _, n := range c.Nodes[:2] {
		c.start(t, n)
	}
	c.pod, c.neighbour, c.remote = addPod(t, c.one, "a"), addPod(t, c.one, "b"), addPod(t, c.two, "a")
	for _, h := range []*netlab.Host{&c.pod.Host, &c.neighbour.Host, &c.remote.Host, c.Outside} {
		c.taps[h.Name] = newTap(t, h, "eth0")
	}
	for _, n := range c.Nodes[:2] {
		var at subnet.PerFamily[netip.Addr]
		var dev subnet.PerFamily[tunnel]
		for f, p := range subnets(t, n) {
			at[f] = p.Addr()
		}
		for _, f := range c.underlay {
			dev[f] = tunnel{tunnels[f], macOf(t, &n.Host, tunnels[f])}
		}
		c.overlays, c.devices = append(c.overlays, at), append(c.devices, dev)
	}
	for f, a := range c.overlays[0] {
		c.gateway[f] = a.Next()
	}
	c.meshed(t, c.one, c.two)
	c.pings(t, c.pod, c.remote)
	c.pings(t, c.pod, c.neighbour)
	for _, p := range []*netlab.Pod{c.pod, c.neighbour, c.remote} {
		awaitHeld(t, p, true)
	}
	return c
}

// start starts a node's daemon, in the place of one that runs.
func (c *cluster) start(t *testing.T, n *netlab.Node, flags ...string) {
	t.Helper()
	if d := c.daemons[n]; d != nil && d.Running() {
		require.NoError(t, d.Stop(t.Context()))
	}
	c.daemons[n] = netlabtest.StartTwilld(t, n, flags...)
	c.unguarded[n] = slices.Contains(flags, off)
}

// addPod adds a pod that answers nothing on the port of discard.
func addPod(t *testing.T, n *netlab.Node, name string) *netlab.Pod {
	t.Helper()
	p := netlabtest.AddPod(t, n, name)
	inside(t, &p.Host, func() error {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: discard})
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		}
		return err
	})
	return p
}

// subnets returns what a node leases.
func subnets(t *testing.T, n *netlab.Node) (out subnet.PerFamily[netip.Prefix]) {
	t.Helper()
	for f, p := range netlabtest.Env(t, n).Subnets {
		out[f] = p.Masked()
	}
	return out
}

// meshed waits until nodes have ways to each other's pods.
func (c *cluster) meshed(t *testing.T, nodes ...*netlab.Node) {
	t.Helper()
	for _, n := range nodes {
		for _, peer := range nodes {
			if n != peer {
				for _, p := range subnets(t, peer) {
					netlabtest.Eventually(t, n.Name+" has a way to "+peer.Name, func() error { return routed(t, n, p) })
				}
			}
		}
	}
}

func routed(t *testing.T, n *netlab.Node, p netip.Prefix) error {
	if r := netlabtest.Run(t, &n.Host, "ip route show proto 116; ip -6 route show proto 116"); !strings.Contains(r, p.String()+" ") {
		return fmt.Errorf("%s has no route to %s:\n%s", n.Name, p, r)
	}
	return nil
}

// pings sends one echo request each way in each family, which must be
// answered at once.
func (c *cluster) pings(t *testing.T, a, b *netlab.Pod) {
	t.Helper()
	for _, f := range subnet.Families {
		for _, w := range [][2]*netlab.Pod{{a, b}, {b, a}} {
			pinged(t, &w[0].Host, &w[1].Host, w[1].Addrs[f])
		}
	}
}

// pinged sends one echo request, which must be answered at once. One for whose
// answer, or way, the machine had no room says nothing, and is sent again
// (netlabtest.Counters).
func pinged(t *testing.T, from, to *netlab.Host, addr netip.Addr) {
	t.Helper()
	netlabtest.Eventually(t, "the machine has room for a ping", func() error {
		before := netlabtest.Count(t.Context(), to)
		_, err := from.Ping(t.Context(), addr, 0)
		if err != nil {
			now := netlabtest.Count(t.Context(), to)
			excused := now.Refused(before, to, subnet.FamilyOf(addr)) > 0 || now.Overflowed(before)
			require.True(t, excused, "from %s to %s: %v\n%s", from.Name, addr, err, now.Since(before))
		}
		return err
	})
}

func status(t *testing.T, n *netlab.Node) (s overlay.Status) {
	t.Helper()
	require.NoError(t, n.Status(t.Context(), &s))
	return s
}

// drops returns what the nodes have dropped, by node and reason.
func (c *cluster) drops(t *testing.T) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	for n := range c.daemons {
		for reason, packets := range c.counted(t, n) {
			all[n.Name+" "+reason] = packets
		}
	}
	return all
}

// counted returns what a node has dropped, by reason. A daemon whom the kernel
// does not answer soon says nothing of it.
func (c *cluster) counted(t *testing.T, n *netlab.Node) (dropped map[string]uint64) {
	t.Helper()
	netlabtest.Eventually(t, n.Name+" tells what it has dropped", func() error {
		if dropped = status(t, n).Dropped; dropped == nil && !c.unguarded[n] {
			return errors.New("it tells nothing")
		}
		return nil
	})
	return dropped
}

var elements = regexp.MustCompile(`elements = \{[^}]*\}`)

// guard is what hygiene has in the kernel, without counts. Sets are in no
// order, nor are their elements.
func guard(t *testing.T, n *netlab.Node) string {
	t.Helper()
	text := netlabtest.Run(t, &n.Host, "for t in 'inet twill-vtep' 'bridge twill-pods'; do nft -s list table $t 2>/dev/null || :; done")
	text = elements.ReplaceAllStringFunc(text, func(s string) string {
		each := strings.Split(s[len("elements = {"):len(s)-1], ",")
		for i := range each {
			each[i] = strings.Join(strings.Fields(each[i]), " ")
		}
		slices.Sort(each)
		return strings.Join(each, "\n")
	})
	blocks := strings.Split(text, "\n\n") // sets, chains
	slices.Sort(blocks)
	return strings.Join(blocks, "\n\n")
}

// awaitGuard waits until a node has what it had.
func awaitGuard(t *testing.T, n *netlab.Node, want string) {
	t.Helper()
	netlabtest.Eventually(t, n.Name+" has its guard", func() error {
		if have := guard(t, n); have != want {
			return errors.New("it has\n" + have + "\nand not\n" + want)
		}
		return nil
	})
}

// awaitHeld waits until a pod is held to its addresses by its node, in both
// tables, or until nothing is known there of one that is gone.
func awaitHeld(t *testing.T, p *netlab.Pod, is bool) {
	t.Helper()
	want := map[bool]int{true: 2, false: 0}[is]
	netlabtest.Eventually(t, fmt.Sprintf("%s is held to its addresses: %v", p.Name, is), func() error {
		g := guard(t, p.Node)
		for _, a := range p.Addrs {
			if a.IsValid() && strings.Count(g, " . "+a.String()+"\n") != want {
				return fmt.Errorf("%s has %s", p.Node.Name, g)
			}
		}
		return nil
	})
}
