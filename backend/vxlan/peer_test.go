package vxlan_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// flannel is the lease of a flannel node, read as a store reads it.
func flannel(t testing.TB, key, value string) subnet.Lease {
	t.Helper()
	held, err := subnet.DecodeKey(key)
	require.NoError(t, err)
	l, err := subnet.DecodeValue(held, []byte(value))
	require.NoError(t, err)
	return l
}

// What the planner of node a, of which the addresses end in 1, plans for node
// b, of which they end in 2.
const (
	b4over4 = "neighbour 10.244.2.0 lladdr " + macB4 + " dev twill.1\nfdb " + macB4 + " dst 192.0.2.2 dev twill.1\n" +
		"route 10.244.2.0/24 via 10.244.2.0 dev twill.1 onlink metric 717827\n"
	b6over4 = "neighbour fd00:244:0:2:: lladdr " + macB4 + " dev twill.1\nfdb " + macB4 + " dst 192.0.2.2 dev twill.1\n" +
		"route fd00:244:0:2::/64 via fd00:244:0:2:: dev twill.1 onlink metric 1024\n"
	b4over6 = "neighbour 10.244.2.0 lladdr " + macB6 + " dev twill-v6.1\nfdb " + macB6 + " dst 2001:db8::2 dev twill-v6.1\n" +
		"route 10.244.2.0/24 via 10.244.2.0 dev twill-v6.1 onlink metric 717827\n"
	b6over6 = "neighbour fd00:244:0:2:: lladdr " + macB6 + " dev twill-v6.1\nfdb " + macB6 + " dst 2001:db8::2 dev twill-v6.1\n" +
		"route fd00:244:0:2::/64 via fd00:244:0:2:: dev twill-v6.1 onlink metric 1024\n"
)

func TestPeer(t *testing.T) {
	t.Parallel()
	four, six, both := []int{4}, []int{6}, []int{4, 6}
	for _, tt := range []struct {
		name, overlay string
		own, peer     []int // the families of the nodes' underlays
		want          string
		err           string
	}{
		{"IPv4 over IPv4", overlayV4, four, four, b4over4, ""},
		{"IPv4 over IPv6", overlayV4, six, six, b4over6, ""},
		{"IPv4 over both", overlayV4, both, both, b4over4, ""},
		{"IPv6 over IPv6", overlayV6, six, six, b6over6, ""},
		{"IPv6 over IPv4", overlayV6, four, four, b6over4, ""},
		{"IPv6 over both", overlayV6, both, both, b6over6, ""},
		{"both over IPv4", overlayDual, four, four, b4over4 + b6over4, ""},
		{"both over IPv6", overlayDual, six, six, b4over6 + b6over6, ""},
		{"both over both", overlayDual, both, both, b4over4 + b6over6, ""},

		{"both, the peer has IPv4 alone", overlayDual, both, four, b4over4 + b6over4, ""},
		{"both, the peer has IPv6 alone", overlayDual, both, six, b4over6 + b6over6, ""},
		{"both, this node has IPv4 alone", overlayDual, four, both, b4over4 + b6over4, ""},
		{"both, this node has IPv6 alone", overlayDual, six, both, b4over6 + b6over6, ""},
		{
			"both, nothing in common", overlayDual, four, six, "",
			"no tunnel for IPv4 pods of node b: this node has IPv4 tunnels, the peer IPv6; " +
				"no tunnel for IPv6 pods of node b: this node has IPv4 tunnels, the peer IPv6",
		},
		{"IPv4, nothing in common", overlayV4, six, four, "", "no tunnel for IPv4 pods of node b: this node has IPv6 tunnels, the peer IPv4"},
		// A node has no tunnel that its own pods do not need: see New.
		{"IPv4, the peer has IPv6 alone", overlayV4, both, six, "", "no tunnel for IPv4 pods of node b: this node has IPv4 tunnels, the peer IPv6"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, tt.overlay, "")
			a := newNode(t, cfg, underlay(addresses(1, tt.own)...), "a", 1)
			b := newNode(t, cfg, underlay(addresses(2, tt.peer)...), "b", 2)
			_, err := a.Check(b.lease)
			require.NoError(t, err)
			got, err := a.Peer(a.lease, b.lease)
			require.Equal(t, tt.want, text(got))
			if tt.err == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, tt.err)
			}
		})
	}
}

// addresses returns the n-th underlay address of each family.
func addresses(n int, families []int) []string {
	var list []string
	for _, f := range families {
		list = append(list, fmt.Sprintf(map[int]string{4: "192.0.2.%d", 6: "2001:db8::%d"}[f], n))
	}
	return list
}

// TestPeerObjects holds the values themselves against what TestPeer reads.
func TestPeerObjects(t *testing.T) {
	t.Parallel()
	cfg := config(t, overlayV4, "")
	a, b := newNode(t, cfg, underlay("192.0.2.1"), "a", 1), newNode(t, cfg, underlay("192.0.2.2"), "b", 2)
	mac, err := subnet.ParseMAC(macB4)
	require.NoError(t, err)
	gateway, vtep := netip.MustParseAddr("10.244.2.0"), netip.MustParseAddr("192.0.2.2")
	got, err := a.Peer(a.lease, b.lease)
	require.NoError(t, err)
	require.Equal(t, []backend.Object{
		backend.Neighbor{Link: "twill.1", IP: gateway, MAC: mac},
		backend.FDB{Link: "twill.1", MAC: mac, Dst: vtep},
		backend.Route{Dst: netip.MustParsePrefix("10.244.2.0/24"), Link: "twill.1", Via: gateway, OnLink: true, Metric: 717827},
	}, got)
}

// A frame is taken only where the receiver has a device of the tunnel's family
// with the inner destination's MAC, and the answer must find the same way back.
func TestBothEndsFit(t *testing.T) {
	t.Parallel()
	kinds := [][]int{{4}, {6}, {4, 6}}
	for _, overlay := range []string{overlayV4, overlayV6, overlayDual} {
		for _, ownFamilies := range kinds {
			for _, peerFamilies := range kinds {
				name := fmt.Sprintf("%v to %v: %s", ownFamilies, peerFamilies, overlay)
				cfg := config(t, overlay, "")
				a := newNode(t, cfg, underlay(addresses(1, ownFamilies)...), "a", 1)
				b := newNode(t, cfg, underlay(addresses(2, peerFamilies)...), "b", 2)
				there, errThere := a.Peer(a.lease, b.lease)
				back, errBack := b.Peer(b.lease, a.lease)
				require.Equal(t, errThere == nil, errBack == nil, "%s: %v, %v", name, errThere, errBack)
				require.Equal(t, devices(there), devices(back), name)
				leadsTo(t, name, there, b)
				leadsTo(t, name, back, a)
			}
		}
	}
}

// devices returns over which device pods of each family travel.
func devices(objects []backend.Object) map[subnet.Family]string {
	over := map[subnet.Family]string{}
	for _, o := range objects {
		if r, ok := o.(backend.Route); ok {
			over[subnet.FamilyOf(r.Dst.Addr())] = r.Link
		}
	}
	return over
}

// leadsTo requires that each route among the objects ends at a device of n.
func leadsTo(t *testing.T, name string, objects []backend.Object, n node) {
	t.Helper()
	have, host := backend.NewState(objects...), backend.NewState(n.Host(n.lease)...)
	for _, o := range objects {
		r, ok := o.(backend.Route)
		if !ok {
			continue
		}
		neighbor, ok := have[backend.Neighbor{Link: r.Link, IP: r.Via}.Key()].(backend.Neighbor)
		require.True(t, ok, "%s: no neighbour for %s", name, r)
		fdb, ok := have[backend.FDB{Link: r.Link, MAC: neighbor.MAC}.Key()].(backend.FDB)
		require.True(t, ok, "%s: no FDB entry for %s", name, neighbor)
		link, ok := host[backend.Link{Name: r.Link}.Key()].(backend.Link)
		require.True(t, ok, "%s: node %s has no %s", name, n.lease.Node, r.Link)
		require.Equal(t, link.MAC, neighbor.MAC, name)
		require.Equal(t, link.Local, fdb.Dst, name)
		require.Contains(t, host, backend.Address{Link: r.Link, Prefix: netip.PrefixFrom(r.Via, r.Via.BitLen())}.Key(), name)
	}
}

// A flannel node has one device for each family, and takes nothing else in it.
func TestFlannelPeer(t *testing.T) {
	t.Parallel()
	const (
		key   = "10.244.7.0-24&fd00:244:0:7::-64"
		four  = `"PublicIP":"192.0.2.7","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:00:00:04"}`
		six   = `"PublicIPv6":"2001:db8::7","BackendV6Data":{"VNI":1,"VtepMAC":"aa:bb:cc:00:00:06"}`
		dual  = `{"BackendType":"vxlan",` + four + `,` + six + `}`
		way4  = "neighbour 10.244.7.0 lladdr aa:bb:cc:00:00:04 dev twill.1\nfdb aa:bb:cc:00:00:04 dst 192.0.2.7 dev twill.1\nroute 10.244.7.0/24 via 10.244.7.0 dev twill.1 onlink metric 717832\n"
		way6  = "neighbour fd00:244:0:7:: lladdr aa:bb:cc:00:00:06 dev twill-v6.1\nfdb aa:bb:cc:00:00:06 dst 2001:db8::7 dev twill-v6.1\nroute fd00:244:0:7::/64 via fd00:244:0:7:: dev twill-v6.1 onlink metric 1024\n"
		only6 = `{"PublicIP":"0.0.0.0",` + six + `,"BackendType":"vxlan"}`
		only4 = `{` + four + `,"PublicIPv6":null,"BackendType":"vxlan","BackendV6Data":null}`
	)
	for _, tt := range []struct {
		name, overlay string
		own           []int
		key, value    string
		want, err     string
	}{
		{"IPv4", overlayV4, []int{4}, "10.244.7.0-24", only4, way4, ""},
		{"IPv6", overlayV6, []int{6}, "0.0.0.0-0&fd00:244:0:7::-64", only6, way6, ""},
		{"both", overlayDual, []int{4, 6}, key, dual, way4 + way6, ""},
		{
			"both, this node has IPv4 alone: the other family works", overlayDual, []int{4}, key, dual, way4,
			"no tunnel for IPv6 pods of node 192.0.2.7: this node has IPv4 tunnels, the peer IPv4 and IPv6, and flannel takes IPv6 pods in IPv6 tunnels only",
		},
		{
			"both, this node has IPv6 alone: the other family works", overlayDual, []int{6}, key, dual, way6,
			"no tunnel for IPv4 pods of node 192.0.2.7: this node has IPv6 tunnels, the peer IPv4 and IPv6, and flannel takes IPv4 pods in IPv4 tunnels only",
		},
		{
			"both, the peer has IPv4 alone", overlayDual, []int{4, 6}, key, only4, way4,
			"no tunnel for IPv6 pods of node 192.0.2.7: this node has IPv4 and IPv6 tunnels, the peer IPv4, and flannel takes IPv6 pods in IPv6 tunnels only",
		},
		{"both are leased, one is off", overlayV4, []int{4, 6}, key, dual, way4, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newNode(t, config(t, tt.overlay, ""), underlay(addresses(1, tt.own)...), "a", 1)
			peer := flannel(t, tt.key, tt.value)
			_, err := a.Check(peer)
			require.NoError(t, err)
			got, err := a.Peer(a.lease, peer)
			require.Equal(t, tt.want, text(got))
			if tt.err == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, tt.err)
			}
		})
	}
}

// Behind NAT peers are told one address, and packets leave with another.
func TestPeerBehindNAT(t *testing.T) {
	t.Parallel()
	cfg := config(t, overlayV4, "")
	nat := underlay("198.51.100.2")
	nat.PublicIPs[subnet.IPv4] = netip.MustParseAddr("192.0.2.2")
	a, b := newNode(t, cfg, underlay("192.0.2.1"), "a", 1), newNode(t, cfg, nat, "b", 2)
	got, err := a.Peer(a.lease, b.lease)
	require.NoError(t, err)
	require.Equal(t, b4over4, text(got))
	require.Contains(t, text(b.Host(b.lease)), " local 198.51.100.2 ")
}

// Peer is asked about accepted peers only, but must hold whatever it is asked.
func TestPeerWithBrokenData(t *testing.T) {
	t.Parallel()
	cfg := config(t, overlayDual, "")
	a := newNode(t, cfg, underlay("192.0.2.1", "2001:db8::1"), "a", 1)
	b := newNode(t, cfg, underlay("192.0.2.2", "2001:db8::2"), "b", 2)
	b.lease.BackendData[subnet.IPv6] = "{}"
	got, err := a.Peer(a.lease, b.lease)
	require.EqualError(t, err, "reading BackendV6Data of node b: VNI is missing")
	require.Equal(t, b4over4, text(got), "one family's failure does not skip the other")

	b.lease.Subnets = subnet.PerFamily[netip.Prefix]{}
	got, err = a.Peer(a.lease, b.lease)
	require.NoError(t, err)
	require.Empty(t, got)
}

func TestDirectRouting(t *testing.T) {
	t.Parallel()
	const (
		direct4 = "route 10.244.2.0/24 via 192.0.2.2 dev eth0 metric 717827\n"
		direct6 = "route fd00:244:0:2::/64 via 2001:db8::2 dev eth0 metric 1024\n"
	)
	lan4, lan6 := hostRoute("192.0.2.0/24", "", "eth0"), hostRoute("2001:db8::/64", "", "eth0")
	for _, tt := range []struct {
		name      string
		off       bool
		own, peer []int
		onLink    []backend.HostRoute
		want      string
	}{
		{"off", true, []int{4, 6}, []int{4, 6}, []backend.HostRoute{lan4, lan6}, b4over4 + b6over6},
		{"both on link", false, []int{4, 6}, []int{4, 6}, []backend.HostRoute{lan4, lan6}, direct4 + direct6},
		{"nothing on link", false, []int{4, 6}, []int{4, 6}, nil, b4over4 + b6over6},
		{"IPv4 on link", false, []int{4, 6}, []int{4, 6}, []backend.HostRoute{lan4}, direct4 + b6over6},
		{"IPv6 on link", false, []int{4, 6}, []int{4, 6}, []backend.HostRoute{lan6}, b4over4 + direct6},
		{
			"behind a more specific gateway", false, []int{4, 6}, []int{4, 6},
			[]backend.HostRoute{lan4, hostRoute("192.0.2.2/32", "192.0.2.254", "eth0"), lan6, hostRoute("2001:db8::/126", "2001:db8::fe", "eth0")},
			b4over4 + b6over6,
		},
		{
			"on another link", false, []int{4, 6}, []int{4, 6},
			[]backend.HostRoute{lan4, hostRoute("192.0.2.2/31", "", "eth1")}, "route 10.244.2.0/24 via 192.0.2.2 dev eth1 metric 717827\n" + b6over6,
		},
		// A direct route wants a next hop of the pods' family.
		{"on link, IPv4 alone", false, []int{4}, []int{4}, []backend.HostRoute{lan4}, direct4 + b6over4},
		{"on link, IPv6 alone", false, []int{6}, []int{6}, []backend.HostRoute{lan6}, b4over6 + direct6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, overlayDual, fmt.Sprintf(`"DirectRouting": %t`, !tt.off))
			u := underlay(addresses(1, tt.own)...)
			u.OnLink = tt.onLink
			a := newNode(t, cfg, u, "a", 1)
			b := newNode(t, cfg, underlay(addresses(2, tt.peer)...), "b", 2)
			got, err := a.Peer(a.lease, b.lease)
			require.NoError(t, err)
			require.Equal(t, tt.want, text(got))
		})
	}
}

// What is on link needs no tunnel in common.
func TestDirectRoutingWithoutTunnel(t *testing.T) {
	t.Parallel()
	cfg := config(t, overlayV6, `"DirectRouting": true`)
	u := underlay("2001:db8::1")
	u.OnLink = []backend.HostRoute{hostRoute("2001:db8::/64", "", "eth0")}
	a := newNode(t, cfg, u, "a", 1)
	got, err := a.Peer(a.lease, subnet.Lease{
		Node: "b", Subnets: subnets(2), BackendType: subnet.BackendVXLAN,
		PublicIPs: subnet.PerFamily[netip.Addr]{subnet.IPv6: netip.MustParseAddr("2001:db8::2")},
	})
	require.NoError(t, err)
	require.Equal(t, "route fd00:244:0:2::/64 via 2001:db8::2 dev eth0 metric 1024\n", text(got))
}

// hostRoute is a route of the host; via "" means on link.
func hostRoute(dst, via, link string) backend.HostRoute {
	r := backend.HostRoute{Dst: netip.MustParsePrefix(dst), Link: link}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}
