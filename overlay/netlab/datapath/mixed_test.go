package datapath

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// withdraw takes the addresses of a family off a node's underlay.
func (c *cluster) withdraw(n *netlab.Node, f subnet.Family) {
	c.t.Helper()
	option := subnet.PerFamily[string]{"-4", "-6"}[f]
	c.on(&n.Host, "ip", option, "addr", "flush", "dev", "eth0", "scope", "global")
	c.on(&n.Host, "ip", option, "route", "flush", "dev", "eth0", "scope", "global")
}

// Nodes need one family in common: it carries the pods of both. Two that have
// none are told so, and reach all others.
func TestUnderlayWhereNodesDiffer(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 3})
	v4, dual, v6 := c.Node(1), c.Node(2), c.Node(3)
	c.withdraw(v4, subnet.IPv6)
	c.withdraw(v6, subnet.IPv4)
	c.run(nil, c.Nodes...)
	for _, n := range c.Nodes {
		c.probe(n, "eth0", 1500, 8472)
	}
	c.meshed(v4, dual)
	c.meshed(dual, v6)
	pods := c.addPods("pod", c.Nodes...)
	for i, want := range []int{1450, 1430, 1430} {
		require.Equal(t, want, c.env(c.Nodes[i]).MTU)
		require.Equal(t, want, c.mtu(&pods[i].Host, "eth0"))
	}
	for _, f := range subnet.Families {
		// Not 1450 where the receiver takes 1430: its node says so.
		c.largest(&pods[0].Host, &pods[1].Host, f, 1430)
		c.largest(&pods[1].Host, &pods[2].Host, f, 1430)
	}
	sent := c.count(v4)
	require.NotZero(t, sent.tunnel[subnet.IPv4])
	require.Zero(t, sent.tunnel[subnet.IPv6])
	sent = c.count(v6)
	require.NotZero(t, sent.tunnel[subnet.IPv6])
	require.Zero(t, sent.tunnel[subnet.IPv4])
	for _, n := range c.Nodes {
		sent = c.count(n)
		require.Zero(t, sent.oversized)
		require.Zero(t, sent.plain)
	}
	c.nothingFragmented()

	for _, pair := range [][2]*netlab.Node{{v4, v6}, {v6, v4}} {
		c.eventually(func() error {
			peers := map[string]string{}
			for _, p := range c.status(pair[0]).Peers {
				peers[p.Node] = p.Error
			}
			why := peers[pair[1].Name]
			for _, f := range subnet.Families {
				if len(peers) != 2 || peers[dual.Name] != "" || !strings.Contains(why, fmt.Sprintf("no tunnel for %s pods of node %s", f, pair[1].Name)) {
					return fmt.Errorf("%s tells of its peers: %v", pair[0].Name, peers)
				}
			}
			return nil
		})
	}
}
