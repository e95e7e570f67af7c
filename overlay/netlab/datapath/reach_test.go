package datapath

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// overhead is what a tunnel of each family adds: inner Ethernet 14, VXLAN 8,
// UDP 8, IP 20 or 40.
var overhead = subnet.PerFamily[int]{14 + 8 + 8 + 20, 14 + 8 + 8 + 40}

var (
	stacks   = []netlab.Stack{netlab.IPv4Only, netlab.IPv6Only, netlab.DualStack}
	outerMTU = map[netlab.Stack]int{netlab.IPv4Only: 1400, netlab.IPv6Only: 9000, netlab.DualStack: 1500}
	devices  = subnet.PerFamily[string]{"twill.1", "twill-v6.1"}
)

// carrier returns the family of the tunnel in which pods of a family travel.
func carrier(f subnet.Family, underlay netlab.Stack) subnet.Family {
	if underlay.Has(f) {
		return f
	}
	return f.Other()
}

func TestPodsReachPodsOnOtherNodes(t *testing.T) {
	for _, pods := range stacks {
		for _, underlay := range stacks {
			t.Run(fmt.Sprintf("%s pods on %s underlay", pods, underlay), func(t *testing.T) {
				t.Parallel()
				reach(t, pods, underlay, outerMTU[underlay])
			})
		}
	}
}

func reach(t *testing.T, overlay, underlay netlab.Stack, outer int) {
	c := newCluster(t, netlab.Options{Nodes: 2, Overlay: overlay, Underlay: underlay, MTU: outer}).start()
	for _, n := range c.Nodes {
		c.probe(n, "eth0", outer, 8472)
	}
	pods := c.addPods("pod", c.Nodes...)

	smallest, used := outer, map[subnet.Family]bool{}
	for _, f := range overlay.Families() {
		used[carrier(f, underlay)] = true
		smallest = min(smallest, outer-overhead[carrier(f, underlay)])
	}
	for i, n := range c.Nodes {
		require.Equal(t, smallest, c.env(n).MTU, "FLANNEL_MTU")
		require.Equal(t, smallest, c.mtu(&pods[i].Host, "eth0"))
		require.Equal(t, smallest, c.mtu(&n.Host, "cni0"))
		for tunnel, device := range devices {
			mtu, err := n.MTU(t.Context(), device)
			require.Equal(t, used[subnet.Family(tunnel)], err == nil, "%s on %s", device, n.Name)
			if err == nil {
				require.Equal(t, outer-overhead[tunnel], mtu, device)
			}
		}
	}
	for _, f := range overlay.Families() {
		require.True(t, pods[0].Addrs[f].IsValid() && pods[1].Addrs[f].IsValid())
		require.False(t, !overlay.Has(f.Other()) && pods[0].Addrs[f.Other()].IsValid())
		c.largest(&pods[0].Host, &pods[1].Host, f, smallest)

		// What the tunnel itself carries fills the underlay's packets.
		tunnel := carrier(f, underlay)
		before := c.count(c.Node(1))
		sent := c.fits(&c.Node(1).Host, c.overlayAddr(c.Node(2), f), outer-overhead[tunnel])
		after := c.count(c.Node(1))
		require.Equal(t, before.full+sent, after.full)
		require.Greater(t, after.tunnel[tunnel], before.tunnel[tunnel])
		require.Equal(t, before.tunnel[tunnel.Other()], after.tunnel[tunnel.Other()])
	}
	for _, n := range c.Nodes {
		sent := c.count(n)
		require.Zero(t, sent.oversized)
		require.Zero(t, sent.plain, "everything is encapsulated")
	}
	c.nothingFragmented()
}
