package datapath

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

const directConf = `{"Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48", "EnableIPv6": true,
	"Backend": {"Type": "vxlan", "DirectRouting": true}}`

// isDirect says why the way from a node to a peer's pods is not a plain route.
func (c *cluster) isDirect(n, peer *netlab.Node) error {
	c.t.Helper()
	entries := c.entries(n)
	for f, s := range c.subnets(peer) {
		w := c.wayTo(&n.Host, s.Addr().Next().Next())
		if w.Dev != "eth0" || w.Gateway != peer.Addrs[f] {
			return fmt.Errorf("%s reaches %s by %+v", n.Name, s, w)
		}
		for _, gone := range []string{s.Addr().String() + " ", " dst " + peer.Addrs[f].String() + " "} {
			if strings.Contains(entries, gone) {
				return fmt.Errorf("%s still has an entry for %s, which nothing uses: %s", n.Name, gone, entries)
			}
		}
	}
	return nil
}

// isTunnelled says why the way from a node to a peer's pods is no tunnel.
func (c *cluster) isTunnelled(n, peer *netlab.Node) error {
	c.t.Helper()
	entries := c.entries(n)
	for f, s := range c.subnets(peer) {
		w := c.wayTo(&n.Host, s.Addr().Next().Next())
		if w.Dev != devices[f] || w.Gateway != s.Addr() {
			return fmt.Errorf("%s reaches %s by %+v", n.Name, s, w)
		}
		for _, needed := range []string{s.Addr().String() + " ", " dst " + peer.Addrs[f].String() + " "} {
			if !strings.Contains(entries, needed) {
				return fmt.Errorf("%s has no entry for %s: %s", n.Name, needed, entries)
			}
		}
	}
	return nil
}

// entries lists the neighbour and FDB entries of a node's VXLAN devices.
func (c *cluster) entries(n *netlab.Node) string {
	c.t.Helper()
	return c.on(&n.Host, "sh", "-c", "for d in twill.1 twill-v6.1; do ip -4 neigh show dev $d; ip -6 neigh show dev $d; bridge fdb show dev $d; done")
}

// onLink makes two nodes on other segments reach each other without a router,
// or not any more.
func (c *cluster) onLink(action string, a, b *netlab.Node) {
	c.t.Helper()
	for _, n := range [][2]*netlab.Node{{a, b}, {b, a}} {
		for _, addr := range n[1].Addrs {
			c.on(&n[0].Host, "ip", "route", action, addr.String(), "dev", "eth0")
		}
	}
}

// acquaint tells two nodes each other's MAC. While only one of them has a route
// to the other, the answer to its neighbour solicitation comes by the router,
// from where it does not count (RFC 4861, 7.1.2), and the next is sent after a
// second.
func (c *cluster) acquaint(a, b *netlab.Node) {
	c.t.Helper()
	for _, n := range [][2]*netlab.Node{{a, b}, {b, a}} {
		mac := c.on(&n[1].Host, "cat", "/sys/class/net/eth0/address")
		for _, addr := range n[1].Addrs {
			c.on(&n[0].Host, "ip", "neigh", "replace", addr.String(), "lladdr", mac, "dev", "eth0")
		}
	}
}

func TestDirectRouting(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 3, Segments: 2, NetConf: directConf}).start()
	near, far, other := c.Node(1), c.Node(2), c.Node(3) // near and other share a segment
	// The segments are one link already; only addresses and routes part them.
	c.on(c.Lan, "sh", "-c", "ip link add join0 type veth peer name join1 && ip link set join0 master br0 up && ip link set join1 master br1 up")
	c.acquaint(near, far)
	pods := c.addPods("pod", c.Nodes...)
	for _, n := range c.Nodes {
		c.probe(n, "eth0", 1500, 8472)
	}

	t.Run("on link plain, else a tunnel", func(t *testing.T) {
		c := c.sub(t)
		for _, pair := range [][2]*netlab.Node{{near, other}, {other, near}} {
			require.NoError(t, c.isDirect(pair[0], pair[1]))
		}
		for _, pair := range [][2]*netlab.Node{{near, far}, {far, near}, {far, other}, {other, far}} {
			require.NoError(t, c.isTunnelled(pair[0], pair[1]))
		}
		for _, f := range subnet.Families {
			before := c.count(near)
			c.largest(&pods[0].Host, &pods[2].Host, f, 1430)
			after := c.count(near)
			require.Equal(t, before.tunnel, after.tunnel)
			require.Greater(t, after.plain, before.plain)

			c.largest(&pods[0].Host, &pods[1].Host, f, 1430)
			last := c.count(near)
			require.Greater(t, last.tunnel[f], after.tunnel[f])
			require.Equal(t, after.plain, last.plain)

			require.Equal(t, pods[0].Addrs[f], c.sourceSeen(&pods[0].Host, &pods[2].Host, pods[2].Addrs[f]), "not masqueraded")
		}
	})

	across := slices.Concat(netlabtest.Each(pods[0], pods[1]), netlabtest.Each(pods[1], pods[0]))
	t.Run("a route makes a peer on link, and no longer", func(t *testing.T) {
		c := c.sub(t)
		c.unharmed(across, func(traffic *netlabtest.Traffic) {
			for range 2 {
				c.onLink("add", near, far)
				c.eventually(func() error { return c.isDirect(near, far) })
				c.eventually(func() error { return c.isDirect(far, near) })
				before := c.count(near)
				traffic.Await(c.t, 5)
				after := c.count(near)
				require.Equal(t, before.tunnel, after.tunnel)
				require.Greater(t, after.plain, before.plain)
				require.NoError(t, c.isTunnelled(other, far), "that is another node's business")

				c.onLink("del", near, far)
				c.eventually(func() error { return c.isTunnelled(near, far) })
				c.eventually(func() error { return c.isTunnelled(far, near) })
				before = c.count(near)
				traffic.Await(c.t, 5)
				after = c.count(near)
				for _, f := range subnet.Families {
					require.Greater(t, after.tunnel[f], before.tunnel[f])
				}
				require.Equal(t, before.plain, after.plain)
			}
		})
	})

	t.Run("an address makes a peer on link, and no longer", func(t *testing.T) {
		c := c.sub(t)
		addrs := subnet.PerFamily[[]string]{{"192.168.78.111/24"}, {"fd77:0:0:1::111/64", "nodad"}}
		c.unharmed(across, func(traffic *netlabtest.Traffic) {
			for _, a := range addrs {
				c.on(&near.Host, append([]string{"ip", "addr", "add", "dev", "eth0"}, a...)...)
			}
			c.eventually(func() error { return c.isDirect(near, far) })
			require.NoError(t, c.isTunnelled(far, near), "its public IP is the old one")
			traffic.Await(c.t, 5)
			for _, a := range addrs {
				c.on(&near.Host, "ip", "addr", "del", "dev", "eth0", a[0])
			}
			c.eventually(func() error { return c.isTunnelled(near, far) })
		})
	})

	t.Run("switched off and on in the network config", func(t *testing.T) {
		c := c.sub(t)
		c.unharmed(netlabtest.Each(pods[0], pods[2]), func(traffic *netlabtest.Traffic) {
			c.configure(netlab.DefaultNetConf(netlab.DualStack))
			c.eventually(func() error { return c.isTunnelled(near, other) })
			c.eventually(func() error { return c.isTunnelled(other, near) })
			traffic.Await(c.t, 5)
			c.configure(directConf)
			c.eventually(func() error { return c.isDirect(near, other) })
			c.eventually(func() error { return c.isDirect(other, near) })
		})
	})
	c.nothingFragmented()
}
