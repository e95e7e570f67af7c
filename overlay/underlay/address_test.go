package underlay_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/underlay"
)

func TestSelectAddresses(t *testing.T) {
	t.Parallel()
	via := routes("default dev eth0 via 192.0.2.254")
	had := func(list ...string) backend.Underlay {
		return backend.Underlay{Interface: "eth0", Addresses: addresses(list...)}
	}
	named := func(name string) underlay.Options { return underlay.Options{Interfaces: []string{name}} }
	check(t, []selection{
		{name: "the first that is usable", links: interfaces("eth0 fe80::1/64! 2001:db8::1/64! 2001:db8::2/64 2001:db8::3/64 192.0.2.1/24! 192.0.2.2/24"), routes: via, want: "eth0 192.0.2.2 2001:db8::2"},
		{name: "one family alone", links: interfaces("eth0 192.0.2.1/24 2001:db8::1/64! fe80::1/64!"), routes: via, want: "eth0 192.0.2.1"},
		{name: "that of before", links: interfaces("eth0 192.0.2.1/24 192.0.2.2/24 2001:db8::1/64 2001:db8::2/64"), routes: via, before: had("192.0.2.2", "2001:db8::2"), want: "eth0 192.0.2.2 2001:db8::2"},
		{name: "that of before has gone", links: interfaces("eth0 192.0.2.1/24 192.0.2.3/24"), routes: via, before: had("192.0.2.2", "2001:db8::2"), want: "eth0 192.0.2.1"},
		{name: "that of before is deprecated, another is not", links: interfaces("eth0 192.0.2.1/24 2001:db8::2/64! 2001:db8::1/64"), routes: via, before: had("192.0.2.1", "2001:db8::2"), want: "eth0 192.0.2.1 2001:db8::1"},
		{name: "that of before is deprecated and the last", links: interfaces("eth0 192.0.2.1/24 2001:db8::2/64! 2001:db8::3/64!"), routes: via, before: had("192.0.2.1", "2001:db8::2"), want: "eth0 192.0.2.1 2001:db8::2"},
		{name: "on a new interface", links: interfaces("eth0 192.0.2.1/24 192.0.2.2/24"), routes: via, before: backend.Underlay{Interface: "eth9", Addresses: addresses("192.0.2.2")}, want: "eth0 192.0.2.2"},

		{name: "asked for, not that of before", options: named("192.0.2.1"), links: interfaces("eth0 192.0.2.1/24 192.0.2.2/24"), before: had("192.0.2.2"), want: "eth0 192.0.2.1"},
		{name: "asked for although deprecated", options: named("2001:db8::1"), links: interfaces("eth0 2001:db8::1/64! 2001:db8::2/64"), want: "eth0 2001:db8::1"},
		{name: "asked for by an IPv6 link-local one", options: named("fe80::1"), links: interfaces("eth1 2001:db8::9/64", "eth0 fe80::1/64! 2001:db8::2/64"), want: "eth0 2001:db8::2"},
		{
			name: "asked for by an IPv6 link-local one and nothing else", options: named("fe80::1"), links: interfaces("eth0 fe80::1/64!"),
			err: "interface eth0 has no address that peers could be told: give it one or choose another with --iface",
		},
		{name: "an IPv4 link-local one needs no zone", options: named("169.254.7.7"), links: interfaces("eth0 169.254.7.7/16!"), want: "eth0 169.254.7.7"},
	})
}

func TestPublicIPs(t *testing.T) {
	t.Parallel()
	o := underlay.Options{PublicIPs: addresses("203.0.113.1", "2001:db8:f::1")}
	host := backend.Host{Interfaces: interfaces("eth0 192.0.2.1/24 2001:db8::1/64")}
	got, err := o.Select(host, noRoute, backend.Underlay{})
	require.NoError(t, err)
	require.Equal(t, addresses("192.0.2.1", "2001:db8::1"), got.Addresses)
	require.Equal(t, addresses("203.0.113.1", "2001:db8:f::1"), got.PublicIPs)

	// Where packets cannot leave from, none are invited to.
	host.Interfaces = interfaces("eth0 192.0.2.1/24")
	got, err = o.Select(host, noRoute, backend.Underlay{})
	require.NoError(t, err)
	require.Equal(t, addresses("203.0.113.1"), got.PublicIPs)

	// What was announced before says nothing about the address itself.
	got, err = underlay.Options{}.Select(host, noRoute, got)
	require.NoError(t, err)
	require.Equal(t, addresses("192.0.2.1"), got.PublicIPs)
}

func TestOnLink(t *testing.T) {
	t.Parallel()
	host := backend.Host{
		Interfaces: interfaces("eth0 10.0.0.1/8 2001:db8::1/64", "eth1 10.1.2.1/24"),
		Routes: routes(
			"default dev eth0 via 10.0.0.254",
			"default dev ppp0 metric 900",
			"default6 dev eth0 via fe80::fe metric 1024",
			"203.0.113.0/24 dev eth1 metric 100",
			"203.0.113.0/24 dev eth0 via 10.0.0.253 metric 50",
			"2001:db8::/64 dev eth0 metric 256",
			"fe80::/64 dev eth0 metric 256",
			"ff00::/8 dev eth0 metric 256",
			"169.254.0.0/16 dev eth0 metric 1000",
			"10.0.0.0/8 dev eth0",
			"10.1.0.0/16 dev eth0 via 10.0.0.253",
			"10.1.2.0/24 dev eth1 metric 100",
			"10.1.2.0/24 dev wg0 via 10.9.0.1 metric 50", // better than the one on link
			"10.1.2.9/32 dev eth0 via 10.0.0.253",
			"192.168.0.0/16 dev eth0 via 10.0.0.254", // takes nothing away
			"172.16.0.9/32 dev ppp0",
		),
	}
	u, err := underlay.Options{}.Select(host, noRoute, backend.Underlay{})
	require.NoError(t, err)
	require.Equal(t, routes(
		"10.0.0.0/8 dev eth0",
		"10.1.0.0/16 dev eth0 via 10.0.0.253",
		"10.1.2.0/24 dev wg0 via 10.9.0.1 metric 50",
		"10.1.2.0/24 dev eth1 metric 100",
		"10.1.2.9/32 dev eth0 via 10.0.0.253",
		"172.16.0.9/32 dev ppp0",
		"203.0.113.0/24 dev eth0 via 10.0.0.253 metric 50",
		"203.0.113.0/24 dev eth1 metric 100",
		"2001:db8::/64 dev eth0 metric 256",
	), u.OnLink)
	for addr, want := range map[string]string{
		"10.200.0.1": "eth0", "172.16.0.9": "ppp0", "2001:db8::5": "eth0",
		"10.1.0.1": "", "10.1.2.5": "", "10.1.2.9": "", "192.168.0.1": "", "172.16.0.8": "", "203.0.113.1": "", "2001:db8:1::5": "", "169.254.1.1": "", "fe80::5": "",
	} {
		link, ok := u.Reaches(netip.MustParseAddr(addr))
		require.Equal(t, want != "", ok, addr)
		if ok {
			require.Equal(t, want, link, addr)
		}
	}

	// The order in which the kernel lists them is no change.
	shuffled := host
	shuffled.Routes = slices.Clone(host.Routes)
	slices.Reverse(shuffled.Routes)
	again, err := underlay.Options{}.Select(shuffled, noRoute, u)
	require.NoError(t, err)
	require.True(t, u.Equal(again))
}
