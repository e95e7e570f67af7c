package backend_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// hostRoute is a route of the host; via "" means on link.
func hostRoute(dst, via, link string, metric uint32) backend.HostRoute {
	r := backend.HostRoute{Dst: netip.MustParsePrefix(dst), Link: link, Metric: metric}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

func TestReaches(t *testing.T) {
	t.Parallel()
	u := backend.Underlay{OnLink: []backend.HostRoute{
		hostRoute("10.0.0.0/8", "", "eth0", 0),
		hostRoute("10.1.0.0/16", "10.0.0.254", "eth0", 0), // a hole
		hostRoute("10.1.2.0/24", "", "eth1", 0),           // on link within the hole
		hostRoute("10.1.2.9/32", "10.0.0.254", "eth0", 0), // one host taken out again
		hostRoute("192.0.2.0/24", "", "eth0", 100),        // the better of two
		hostRoute("192.0.2.0/24", "10.0.0.254", "eth1", 200),
		hostRoute("198.51.100.7/32", "", "ppp0", 0),
		hostRoute("2001:db8::/64", "", "eth0", 256),
		hostRoute("2001:db8::8/125", "2001:db8::fe", "eth0", 1024),
	}}
	for _, tt := range []struct {
		addr, link string
		ok         bool
	}{
		{"10.200.0.1", "eth0", true},
		{"10.1.0.1", "eth0", false},
		{"10.1.2.8", "eth1", true},
		{"10.1.2.9", "eth0", false},
		{"192.0.2.5", "eth0", true},
		{"198.51.100.7", "ppp0", true},
		{"198.51.100.8", "", false},
		{"2001:db8::7", "eth0", true},
		{"2001:db8::8", "eth0", false},
		{"2001:db8:0:1::1", "", false},
		{"::ffff:10.200.0.1", "", false}, // nothing of ours has that form
	} {
		link, ok := u.Reaches(netip.MustParseAddr(tt.addr))
		require.Equal(t, tt.ok, ok, tt.addr)
		if ok {
			require.Equal(t, tt.link, link, tt.addr)
		}
	}
	_, ok := u.Reaches(netip.Addr{})
	require.False(t, ok)
	_, ok = backend.Underlay{}.Reaches(netip.MustParseAddr("10.0.0.1"))
	require.False(t, ok)
}

func TestUnderlayEqual(t *testing.T) {
	t.Parallel()
	fresh := func() backend.Underlay {
		return backend.Underlay{
			Interface: "eth0", MTU: 1500,
			Addresses: subnet.PerFamily[netip.Addr]{netip.MustParseAddr("192.0.2.1")},
			PublicIPs: subnet.PerFamily[netip.Addr]{netip.MustParseAddr("203.0.113.1")},
			OnLink:    []backend.HostRoute{hostRoute("192.0.2.0/24", "", "eth0", 0)},
		}
	}
	require.True(t, fresh().Equal(fresh()))
	other := netip.MustParseAddr("192.0.2.99")
	for what, edit := range map[string]func(*backend.Underlay){
		"interface": func(u *backend.Underlay) { u.Interface = "eth1" },
		"MTU":       func(u *backend.Underlay) { u.MTU = 9000 },
		"address":   func(u *backend.Underlay) { u.Addresses[subnet.IPv4] = other },
		"public IP": func(u *backend.Underlay) { u.PublicIPs[subnet.IPv4] = other },
		"metric":    func(u *backend.Underlay) { u.OnLink[0].Metric = 1 },
		"no route":  func(u *backend.Underlay) { u.OnLink = nil },
	} {
		u := fresh()
		edit(&u)
		require.False(t, fresh().Equal(u), what)
		require.False(t, u.Equal(fresh()), what)
	}
}

func TestHostObjects(t *testing.T) {
	t.Parallel()
	var cfg subnet.Config
	own := subnet.Lease{Subnets: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244:0:1::/64")}}
	require.Empty(t, backend.HostObjects(cfg, own, backend.Underlay{}, backend.HostOptions{Blackhole: true}), "a family that is off asks for nothing")

	cfg.Networks[subnet.IPv4].Network = netip.MustParsePrefix("10.244.0.0/16")
	require.Equal(t, []backend.Object{
		backend.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"},
	}, backend.HostObjects(cfg, own, backend.Underlay{}, backend.HostOptions{}))

	cfg.Networks[subnet.IPv6].Network = netip.MustParsePrefix("fd00:244::/48")
	require.Equal(t, []backend.Object{
		backend.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"},
		backend.Route{Dst: own.Subnets[subnet.IPv4], Blackhole: true, Metric: 1 << 30},
		backend.Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1"},
		backend.Route{Dst: own.Subnets[subnet.IPv6], Blackhole: true, Metric: 1 << 30},
	}, backend.HostObjects(cfg, own, backend.Underlay{}, backend.HostOptions{Blackhole: true}))

	own.Subnets[subnet.IPv6] = netip.Prefix{}
	require.Len(t, backend.HostObjects(cfg, own, backend.Underlay{}, backend.HostOptions{Blackhole: true}), 3)
}

func TestRouteMetric(t *testing.T) {
	t.Parallel()
	for p, want := range map[string]uint32{
		"10.244.3.0/24": 0x0af403 + 1, "10.244.4.0/24": 0x0af404 + 1, "10.244.3.7/24": 0x0af403 + 1,
		"0.0.0.0/8": 1, "255.255.255.252/30": 1 << 30, "fd00:1::/64": 1024,
	} {
		require.Equal(t, want, backend.RouteMetric(netip.MustParsePrefix(p)), p)
	}
}

// The uplink goes on taking router advertisements when we forward, and is told
// so before forwarding begins: that drops the routes which they brought.
func TestUplinkKeepsTakingRouterAdvertisements(t *testing.T) {
	t.Parallel()
	cfg := subnet.Config{Networks: subnet.PerFamily[subnet.Range]{subnet.IPv6: {Network: netip.MustParsePrefix("fd00::/48")}}}
	accept := backend.Sysctl{Name: "net/ipv6/conf/eth0/accept_ra", Value: "2"}
	forward := backend.Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1"}
	u := backend.Underlay{Interface: "eth0", TakesRA: true}
	objects := backend.HostObjects(cfg, subnet.Lease{}, u, backend.HostOptions{})
	for range 50 { // the order of a map is another each time
		require.Equal(t, []backend.Change{{Want: accept}, {Want: forward}}, backend.Diff(backend.NewState(objects...), nil))
	}
	cfg.Networks = subnet.PerFamily[subnet.Range]{subnet.IPv4: {Network: netip.MustParsePrefix("10.0.0.0/8")}}
	require.NotContains(t, backend.HostObjects(cfg, subnet.Lease{}, u, backend.HostOptions{}), accept, "without IPv6 nothing of it is touched")
}
