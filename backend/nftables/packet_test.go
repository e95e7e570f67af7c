package nftables_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

// path is a packet's way through the node and the source address that its
// receiver is to see.
type path struct {
	what   string
	from   namespace
	source netip.Addr
	to     netip.Addr
	port   uint16
	want   netip.Addr
}

func (n topology) check(t *testing.T, paths []path) {
	t.Helper()
	for _, p := range paths {
		if p.port == 0 {
			p.port = echoPort
		}
		_, seen := p.from.seen(t, p.source, netip.AddrPortFrom(p.to, p.port))
		require.Equal(t, p.want, seen.Addr(), "%s: %s -> %s", p.what, p.source, p.to)
	}
}

// The matrix of package masq, row by row, by packets.
func TestMatrix(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	n.node.sync(t, dual())
	for _, f := range subnet.Families {
		a := at[f]
		n.check(t, []path{
			{what: "1 marked for kube-proxy", from: n.pod, source: a.pod, to: a.outside, port: mark4000Port, want: a.pod},
			{what: "1 marked for kube-proxy, to the network", from: n.outside, source: a.outside, to: a.remote, port: mark4000Port, want: a.outside},
			{what: "1 not that mark", from: n.pod, source: a.pod, to: a.outside, port: mark8000Port, want: a.uplink},
			{what: "2 own to network", from: n.pod, source: a.pod, to: a.remote, want: a.pod},
			{what: "2 node's overlay address to network", from: n.node, source: a.overlay, to: a.remote, want: a.overlay},
			{what: "3 network to own", from: n.remote, source: a.remote, to: a.pod, want: a.remote},
			{what: "4 outside to own", from: n.outside, source: a.outside, to: a.pod, want: a.outside},
			{what: "4 node to own", from: n.node, source: a.uplink, to: a.pod, want: a.uplink},
			{what: "5 own to outside", from: n.pod, source: a.pod, to: a.outside, want: a.uplink},
			{what: "5 network to outside", from: n.remote, source: a.remote, to: a.outside, want: a.uplink},
			{what: "6 outside to network", from: n.outside, source: a.outside, to: a.remote, want: a.overlay},
			{what: "6 node to network", from: n.node, source: a.uplink, to: a.remote, want: a.overlay},
			{what: "- neither", from: n.node, source: a.uplink, to: a.outside, want: a.uplink},
		})
	}
}

// Rows 4 and 6 part by what our own subnet is.
func TestOwnSubnetChanges(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	c := dual()
	c.Subnets = subnet.PerFamily[netip.Prefix]{
		subnet.IPv4: netip.MustParsePrefix("10.244.2.0/24"),
		subnet.IPv6: netip.MustParsePrefix("fd00:244:0:2::/64"),
	}
	for range 2 { // there, and back
		n.node.sync(t, c)
		for _, f := range subnet.Families {
			a := at[f]
			n.check(t, []path{
				{what: "4 outside to own", from: n.outside, source: a.outside, to: a.remote, want: a.outside},
				{what: "6 outside to network", from: n.outside, source: a.outside, to: a.pod, want: a.gateway},
			})
		}
		n.node.sync(t, dual())
		for _, f := range subnet.Families {
			a := at[f]
			n.check(t, []path{
				{what: "4 outside to own", from: n.outside, source: a.outside, to: a.pod, want: a.outside},
				{what: "6 outside to network", from: n.outside, source: a.outside, to: a.remote, want: a.overlay},
			})
		}
	}
}

func TestMasqueradeOffAndExclude(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	n.node.sync(t, dual())
	off, excluding := dual(), dual()
	off.Masquerade = subnet.PerFamily[bool]{}
	excluding.Exclude = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:100::/64")}
	for _, f := range subnet.Families {
		a := at[f]
		n.node.sync(t, off)
		n.check(t, []path{
			{what: "off", from: n.pod, source: a.pod, to: a.outside, want: a.pod},
			{what: "off", from: n.outside, source: a.outside, to: a.remote, want: a.outside},
		})
		n.node.sync(t, excluding)
		n.check(t, []path{
			{what: "excluded", from: n.pod, source: a.pod, to: a.outside, want: a.pod},
			{what: "exclusion leaves 6 alone", from: n.outside, source: a.outside, to: a.remote, want: a.overlay},
		})
	}
}

// Fully random, the source port changes though it is free; otherwise it stays.
func TestRandomFully(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	for _, random := range []bool{true, false} {
		c := dual()
		c.RandomFully = random
		n.node.sync(t, c)
		for _, f := range subnet.Families {
			kept := 0
			for range 4 {
				own, seen := n.pod.seen(t, at[f].pod, netip.AddrPortFrom(at[f].outside, echoPort))
				if own == seen.Port() {
					kept++
				}
			}
			if random {
				require.Less(t, kept, 4, "%s: ports are kept", f)
			} else {
				require.Equal(t, 4, kept, "%s: ports are changed", f)
			}
		}
	}
}

// Row 5 leaves multicast alone. The node's overlay address is in the network;
// to a unicast address on the same link it is masqueraded.
func TestMulticast(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	n.node.sync(t, dual())
	for _, f := range subnet.Families {
		a := at[f]
		n.check(t, []path{
			{what: "5 unicast", from: n.node, source: a.overlay, to: a.outside, want: a.uplink},
		})
		group := n.outside.joined(t, "eth0", a.multicast)
		sender := n.node.listen(t, netip.AddrPortFrom(a.overlay, 0))
		n.node.sendMulticast(t, sender, "uplink", a.multicast)
		_, from, err := group.ReadFromUDPAddrPort(make([]byte, 64))
		require.NoError(t, err)
		require.Equal(t, a.overlay, from.Addr().Unmap())
	}
}

// While rules and the whole table are replaced again and again, each new
// connection meets all of the rules, and an old one keeps its translation.
func TestReplacingUnderTraffic(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	n.node.sync(t, dual())
	var server, first subnet.PerFamily[netip.AddrPort]
	var conns subnet.PerFamily[*net.UDPConn]
	for _, f := range subnet.Families {
		conns[f] = n.pod.listen(t, netip.AddrPortFrom(at[f].pod, 0))
		server[f] = netip.AddrPortFrom(at[f].outside, echoPort)
		first[f] = ask(t, conns[f], server[f])
	}
	var rounds, probes atomic.Int64
	replaced := make(chan error, 1)
	go func() {
		var err error
		for err == nil && rounds.Load() < 60 {
			c := dual()
			c.RandomFully = rounds.Load()%2 == 0 // other rules in the chain
			c.Forward = rounds.Load()%4 < 2      // and at times another table
			_, err = n.node.table().Sync(context.Background(), masq.Plan(c))
			rounds.Add(1)
		}
		replaced <- err
	}()
	defer func() { require.NoError(t, <-replaced) }()
	for rounds.Load() < 60 {
		for _, f := range subnet.Families {
			a := at[f]
			n.check(t, []path{
				{what: "5", from: n.pod, source: a.pod, to: a.outside, want: a.uplink},
				{what: "6", from: n.outside, source: a.outside, to: a.remote, want: a.overlay},
			})
			require.Equal(t, first[f], ask(t, conns[f], server[f]), "an old connection")
			probes.Add(1)
		}
	}
	require.Greater(t, probes.Load(), rounds.Load(), "too few connections to tell")
}

// What the package's documentation warns of: our accept does not end a
// packet's way, another table's drop is still met.
func TestAcceptDoesNotOverrideForeignDrop(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	n.node.sync(t, dual())
	n.node.pipe(t, `table inet other {
	chain forward {
		type filter hook forward priority filter + 10; policy accept;
		udp dport 9000 counter drop comment "dropped"
	}
}
`, "nft", "-f", "-")
	conn := n.pod.listen(t, netip.AddrPortFrom(at[subnet.IPv4].pod, 0))
	require.Eventually(t, func() bool {
		_, err := conn.WriteToUDPAddrPort([]byte("?"), netip.AddrPortFrom(at[subnet.IPv4].outside, echoPort))
		require.NoError(t, err)
		dropped := n.node.run(t, "sh", "-c", `nft list table inet other | grep dropped`)
		return !strings.Contains(dropped, "counter packets 0 ")
	}, 20*time.Second, 20*time.Millisecond)
}
