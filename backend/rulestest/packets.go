package rulestest

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

// Firewall is what renders the rules into the kernel.
type Firewall interface {
	Sync(ctx context.Context, rules masq.Rules) (changed bool, err error)
	Remove(ctx context.Context) error
}

// Dual is a dual-stack node: own subnets 10.244.1.0/24 and fd00:244:0:1::/64.
func Dual() masq.Config {
	return masq.Config{
		Networks: subnet.PerFamily[[]netip.Prefix]{
			subnet.IPv4: {netip.MustParsePrefix("10.244.0.0/16")},
			subnet.IPv6: {netip.MustParsePrefix("fd00:244::/48")},
		},
		Subnets: subnet.PerFamily[netip.Prefix]{
			subnet.IPv4: netip.MustParsePrefix("10.244.1.0/24"),
			subnet.IPv6: netip.MustParsePrefix("fd00:244:0:1::/64"),
		},
		Masquerade: subnet.PerFamily[bool]{true, true}, RandomFully: true, Forward: true,
	}
}

// Sync syncs the rules that follow from a config.
func Sync(t *testing.T, fw Firewall, c masq.Config) (changed bool) {
	t.Helper()
	changed, err := fw.Sync(t.Context(), masq.Plan(c))
	require.NoError(t, err)
	return changed
}

// Packets proves by packets that a firewall means what package masq says. Each
// of its tests makes a Topology, on whose node it has the firewall opened.
func Packets(t *testing.T, open func(t *testing.T, node Namespace) Firewall) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Topology, Firewall){
		"Matrix":                matrix,
		"OwnSubnetChanges":      ownSubnetChanges,
		"MasqueradeOff":         masqueradeOff,
		"Exclude":               exclude,
		"RandomFully":           randomFully,
		"Multicast":             multicast,
		"ReplacingUnderTraffic": replacingUnderTraffic,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := NewTopology(t)
			test(t, n, open(t, n.Node))
		})
	}
}

// Matrix are the ways of package masq's matrix, row by row, by the rules of Dual.
func (n Topology) Matrix(f subnet.Family) []Path {
	a := At[f]
	return []Path{
		{What: "1 marked for kube-proxy", From: n.Pod, Source: a.Pod, To: a.Outside, Port: mark4000Port, Want: a.Pod},
		{What: "1 marked for kube-proxy, to the network", From: n.Outside, Source: a.Outside, To: a.Remote, Port: mark4000Port, Want: a.Outside},
		{What: "1 not that mark", From: n.Pod, Source: a.Pod, To: a.Outside, Port: mark8000Port, Want: a.Uplink},
		{What: "2 own to network", From: n.Pod, Source: a.Pod, To: a.Remote, Want: a.Pod},
		{What: "2 node's overlay address to network", From: n.Node, Source: a.Overlay, To: a.Remote, Want: a.Overlay},
		{What: "3 network to own", From: n.Remote, Source: a.Remote, To: a.Pod, Want: a.Remote},
		{What: "4 outside to own", From: n.Outside, Source: a.Outside, To: a.Pod, Want: a.Outside},
		{What: "4 node to own", From: n.Node, Source: a.Uplink, To: a.Pod, Want: a.Uplink},
		{What: "5 own to outside", From: n.Pod, Source: a.Pod, To: a.Outside, Want: a.Uplink},
		{What: "5 network to outside", From: n.Remote, Source: a.Remote, To: a.Outside, Want: a.Uplink},
		{What: "6 outside to network", From: n.Outside, Source: a.Outside, To: a.Remote, Want: a.Overlay},
		{What: "6 node to network", From: n.Node, Source: a.Uplink, To: a.Remote, Want: a.Overlay},
		{What: "- neither", From: n.Node, Source: a.Uplink, To: a.Outside, Want: a.Uplink},
	}
}

func matrix(t *testing.T, n Topology, fw Firewall) {
	t.Helper()
	Sync(t, fw, Dual())
	for _, f := range subnet.Families {
		n.Check(t, n.Matrix(f))
	}
}

// Rows 4 and 6 part by what our own subnet is.
func ownSubnetChanges(t *testing.T, n Topology, fw Firewall) {
	t.Helper()
	c := Dual()
	c.Subnets = subnet.PerFamily[netip.Prefix]{
		subnet.IPv4: netip.MustParsePrefix("10.244.2.0/24"),
		subnet.IPv6: netip.MustParsePrefix("fd00:244:0:2::/64"),
	}
	for range 2 { // there, and back
		Sync(t, fw, c)
		for _, f := range subnet.Families {
			a := At[f]
			n.Check(t, []Path{
				{What: "4 outside to own", From: n.Outside, Source: a.Outside, To: a.Remote, Want: a.Outside},
				{What: "6 outside to network", From: n.Outside, Source: a.Outside, To: a.Pod, Want: a.Gateway},
			})
		}
		Sync(t, fw, Dual())
		for _, f := range subnet.Families {
			a := At[f]
			n.Check(t, []Path{
				{What: "4 outside to own", From: n.Outside, Source: a.Outside, To: a.Pod, Want: a.Outside},
				{What: "6 outside to network", From: n.Outside, Source: a.Outside, To: a.Remote, Want: a.Overlay},
			})
		}
	}
}

// A family's switch is its own.
func masqueradeOff(t *testing.T, n Topology, fw Firewall) {
	t.Helper()
	Sync(t, fw, Dual())
	for _, off := range subnet.Families {
		c := Dual()
		c.Masquerade[off] = false
		Sync(t, fw, c)
		for _, f := range subnet.Families {
			a := At[f]
			if f != off {
				n.Check(t, n.Matrix(f))
				continue
			}
			n.Check(t, []Path{
				{What: "off", From: n.Pod, Source: a.Pod, To: a.Outside, Want: a.Pod},
				{What: "off", From: n.Outside, Source: a.Outside, To: a.Remote, Want: a.Outside},
			})
		}
	}
}

func exclude(t *testing.T, n Topology, fw Firewall) {
	t.Helper()
	c := Dual()
	c.Exclude = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:100::/64")}
	for _, f := range subnet.Families {
		a := At[f]
		Sync(t, fw, c)
		n.Check(t, []Path{
			{What: "excluded", From: n.Pod, Source: a.Pod, To: a.Outside, Want: a.Pod},
			{What: "exclusion leaves 6 alone", From: n.Outside, Source: a.Outside, To: a.Remote, Want: a.Overlay},
		})
		Sync(t, fw, Dual())
		n.Check(t, n.Matrix(f))
	}
}

// Fully random, the source port changes though it is free; otherwise it stays.
func randomFully(t *testing.T, n Topology, fw Firewall) {
	t.Helper()
	for _, random := range []bool{true, false} {
		c := Dual()
		c.RandomFully = random
		Sync(t, fw, c)
		for _, f := range subnet.Families {
			kept := 0
			for range 4 {
				own, seen := n.Pod.Seen(t, At[f].Pod, netip.AddrPortFrom(At[f].Outside, EchoPort))
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
func multicast(t *testing.T, n Topology, fw Firewall) {
	t.Helper()
	Sync(t, fw, Dual())
	for _, f := range subnet.Families {
		a := At[f]
		n.Check(t, []Path{
			{What: "5 unicast", From: n.Node, Source: a.Overlay, To: a.Outside, Want: a.Uplink},
		})
		group := n.Outside.Joined(t, "eth0", a.Multicast)
		sender := n.Node.Listen(t, netip.AddrPortFrom(a.Overlay, 0))
		n.Node.SendMulticast(t, sender, "uplink", a.Multicast)
		_, from, err := group.ReadFromUDPAddrPort(make([]byte, 64))
		require.NoError(t, err)
		require.Equal(t, a.Overlay, from.Addr().Unmap())
	}
}

// replacements of all rules, at the least, under so many connections.
const replacements = 30

// While rules and all of a table or chain are replaced again and again, each new
// connection meets all of the rules, and an old one keeps its translation.
func replacingUnderTraffic(t *testing.T, n Topology, fw Firewall) {
	t.Helper()
	Sync(t, fw, Dual())
	var server, first subnet.PerFamily[netip.AddrPort]
	var conns subnet.PerFamily[*net.UDPConn]
	for _, f := range subnet.Families {
		conns[f] = n.Pod.Listen(t, netip.AddrPortFrom(At[f].Pod, 0))
		server[f] = netip.AddrPortFrom(At[f].Outside, EchoPort)
		first[f] = Ask(t, conns[f], server[f])
	}
	var rounds, probes atomic.Int64
	var enough atomic.Bool
	replaced := make(chan error, 1)
	go func() {
		var err error
		for err == nil && !enough.Load() {
			c := Dual()
			c.RandomFully = rounds.Load()%2 == 0 // other rules in the chain
			c.Forward = rounds.Load()%4 < 2      // and at times another table
			_, err = fw.Sync(context.Background(), masq.Plan(c))
			rounds.Add(1)
		}
		replaced <- err
	}()
	defer func() {
		enough.Store(true)
		require.NoError(t, <-replaced)
	}()
	for (rounds.Load() < replacements || probes.Load() < replacements) && len(replaced) == 0 {
		for _, f := range subnet.Families {
			a := At[f]
			n.Check(t, []Path{
				{What: "5", From: n.Pod, Source: a.Pod, To: a.Outside, Want: a.Uplink},
				{What: "6", From: n.Outside, Source: a.Outside, To: a.Remote, Want: a.Overlay},
			})
			require.Equal(t, first[f], Ask(t, conns[f], server[f]), "an old connection")
			probes.Add(1)
		}
	}
}
