package underlay_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/underlay"
)

func TestSelectByName(t *testing.T) {
	t.Parallel()
	links := interfaces("eth0 192.0.2.1/24 2001:db8::1/64", "eth1 198.51.100.1/24 198.51.100.2/24", "eth2 down 203.0.113.1/24", "eth3", "twill.1 10.244.1.0/32")
	byDefault := routes("default dev eth0 via 192.0.2.254")
	iface := func(names ...string) underlay.Options { return underlay.Options{Interfaces: names} }
	check(t, []selection{
		{name: "name", options: iface("eth1"), links: links, routes: byDefault, want: "eth1 198.51.100.1"},
		{name: "address", options: iface("198.51.100.2"), links: links, routes: byDefault, want: "eth1 198.51.100.2"},
		{name: "IPv6 address, and the other family's", options: iface("2001:0db8:0::1"), links: links, want: "eth0 192.0.2.1 2001:db8::1"},
		{name: "IPv4 written as IPv6", options: iface("::ffff:198.51.100.2"), links: links, want: "eth1 198.51.100.2"},
		{name: "the first that is there", options: iface("wlan0", "eth1", "eth0"), links: links, want: "eth1 198.51.100.1"},
		{name: "one that is down is passed over", options: iface("eth2", "203.0.113.1", "eth1"), links: links, want: "eth1 198.51.100.1"},
		{name: "one without addresses is passed over", options: iface("eth3", "eth1"), links: links, want: "eth1 198.51.100.1"},
		{name: "a pattern comes after", options: underlay.Options{Interfaces: []string{"eth3"}, Patterns: patterns("eth[01]")}, links: links, want: "eth0 192.0.2.1 2001:db8::1"},
		{
			name: "only one without addresses", options: iface("eth3"), links: links, routes: byDefault,
			err: "interface eth3 has no address that peers could be told: give it one or choose another with --iface",
		},
		{
			name: "not there", options: iface("wlan0", "10.9.9.9"), links: links, routes: byDefault,
			err: "no interface matches --iface wlan0, --iface 10.9.9.9: there are eth0, eth1, eth2 (down), eth3",
		},
		{name: "down", options: iface("eth2"), links: links, err: "no interface matches --iface eth2: there are eth0, eth1, eth2 (down), eth3"},
		{name: "our own", options: iface("twill.1"), links: links, err: "no interface matches --iface twill.1: there are eth0, eth1, eth2 (down), eth3"},
		{name: "loopback", options: iface("lo"), links: links, err: "no interface matches --iface lo: there are eth0, eth1, eth2 (down), eth3"},
		{name: "an address of the loopback", options: iface("10.255.0.1"), links: links, err: "no interface matches --iface 10.255.0.1: there are eth0, eth1, eth2 (down), eth3"},
		{name: "nothing to choose from", options: iface("eth0"), links: interfaces(), err: "no interface matches --iface eth0: there are none"},
		{
			name: "many to choose from", options: iface("wlan0"),
			links: interfaces("e1", "veth1 kind=veth master=cni0", "e2", "e3", "e4", "e5", "e6", "e7", "e8", "e9", "e10 down"),
			err:   "no interface matches --iface wlan0: there are e1, e2, e3, e4, e5, e6, e7, e8 and 2 more",
		},
	})
}

func TestSelectByPattern(t *testing.T) {
	t.Parallel()
	links := interfaces("eth0 192.0.2.1/24 10.0.0.1/8 2001:db8::1/64 fd00::1/64", "eth1 198.51.100.1/24 fd00::2/64!")
	pattern := func(list ...string) underlay.Options { return underlay.Options{Patterns: patterns(list...)} }
	check(t, []selection{
		{name: "name", options: pattern("^eth1$"), links: links, want: "eth1 198.51.100.1"},
		{name: "the first interface of several", options: pattern("eth"), links: links, want: "eth0 192.0.2.1 2001:db8::1"},
		{name: "the first pattern of several", options: pattern("wlan", `^198\.`, "eth0"), links: links, want: "eth1 198.51.100.1"},
		{name: "address", options: pattern(`^10\.`), links: links, want: "eth0 10.0.0.1 2001:db8::1"},
		{name: "addresses of both families", options: pattern(`^(10\.|fd00:)`), links: links, want: "eth0 10.0.0.1 fd00::1"},
		{name: "not an address that peers cannot be told", options: pattern("^fd00::2$"), links: links, err: "no interface matches --iface-regex ^fd00::2$: there are eth0, eth1"},
		{
			name: "one of the matching addresses is that of before", options: pattern(`^(10|192)\.`), links: links,
			before: backend.Underlay{Interface: "eth0", Addresses: addresses("10.0.0.1")}, want: "eth0 10.0.0.1 2001:db8::1",
		},
		{
			name: "that of before does not match", options: pattern(`^192\.`), links: links,
			before: backend.Underlay{Interface: "eth0", Addresses: addresses("10.0.0.1")}, want: "eth0 192.0.2.1 2001:db8::1",
		},
		{name: "names before addresses on one interface", options: pattern("^(eth0|10)"), links: links, want: "eth0 192.0.2.1 2001:db8::1"},
	})
}

func TestSelectByReach(t *testing.T) {
	t.Parallel()
	target := netip.MustParseAddr("203.0.113.9")
	host := backend.Host{
		Interfaces: interfaces("eth0 192.0.2.1/24", "eth1 198.51.100.1/24 198.51.100.2/24 2001:db8::1/64"),
		Routes:     routes("default dev eth0 via 192.0.2.254"),
	}
	via := func(link, src string, err error) underlay.RouteFunc {
		return func(a netip.Addr) (string, netip.Addr, error) {
			require.Equal(t, target, a)
			from, _ := netip.ParseAddr(src)
			return link, from, err
		}
	}
	o := underlay.Options{CanReach: target, Ours: ours}
	for _, tt := range []struct {
		name  string
		route underlay.RouteFunc
		want  string
		err   string
	}{
		{"with the source of the route", via("eth1", "198.51.100.2", nil), "eth1 198.51.100.2 2001:db8::1", ""},
		{"without a source", via("eth1", "", nil), "eth1 198.51.100.1 2001:db8::1", ""},
		{"with a source on the loopback", via("eth1", "10.255.0.1", nil), "eth1 10.255.0.1 2001:db8::1", ""},
		{"with a source that means nothing elsewhere", via("eth1", "fe80::1", nil), "eth1 198.51.100.1 2001:db8::1", ""},
		{"no route", via("", "", errors.New("network is unreachable")), "", "finding the interface that can reach 203.0.113.9: network is unreachable"},
		{"to ourselves", via("lo", "127.0.0.1", nil), "", "the route to 203.0.113.9 leads through lo, which cannot face peers: there are eth0, eth1"},
		{"through the overlay", via("twill.1", "10.244.1.0", nil), "", "the route to 203.0.113.9 leads through twill.1, which cannot face peers: there are eth0, eth1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := o.Select(host, tt.route, backend.Underlay{Interface: "eth0", Addresses: addresses("192.0.2.1")})
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, words(got))
		})
	}

	both := o
	both.Interfaces = []string{"eth0"}
	got, err := both.Select(host, noRoute, backend.Underlay{})
	require.NoError(t, err)
	require.Equal(t, "eth0 192.0.2.1", words(got), "a name comes first")
}
