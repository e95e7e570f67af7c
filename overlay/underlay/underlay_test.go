package underlay_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
)

// interfaces are the ones of a host, each in a line of words: the name, then
// "down", "kind=", "master=" and addresses, with ! when peers cannot be told.
// The loopback goes without saying.
func interfaces(lines ...string) []backend.Interface {
	list := []backend.Interface{{Name: "lo", MTU: 65536, Up: true, Loopback: true, Addresses: []backend.InterfaceAddress{
		{Prefix: netip.MustParsePrefix("127.0.0.1/8")},
		{Prefix: netip.MustParsePrefix("10.255.0.1/32"), Usable: true},
	}}}
	for _, line := range lines {
		words := strings.Fields(line)
		i := backend.Interface{Name: words[0], MTU: 1500, Up: true}
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			switch key {
			case "down":
				i.Up = false
			case "kind":
				i.Kind = value
			case "master":
				i.Master = value
			default:
				prefix, unusable := strings.CutSuffix(w, "!")
				i.Addresses = append(i.Addresses, backend.InterfaceAddress{Prefix: netip.MustParsePrefix(prefix), Usable: !unusable})
			}
		}
		list = append(list, i)
	}
	return list
}

// routes are written as iproute2 does: "default dev eth0 via 192.0.2.254
// metric 100", "default6 dev eth0".
func routes(lines ...string) []backend.HostRoute {
	var list []backend.HostRoute
	for _, line := range lines {
		words := strings.Fields(line)
		dst := map[string]string{"default": "0.0.0.0/0", "default6": "::/0"}[words[0]]
		if dst == "" {
			dst = words[0]
		}
		r := backend.HostRoute{Dst: netip.MustParsePrefix(dst)}
		for pair := range slices.Chunk(words[1:], 2) {
			switch pair[0] {
			case "dev":
				r.Link = pair[1]
			case "via":
				r.Via = netip.MustParseAddr(pair[1])
			case "metric":
				if _, err := fmt.Sscan(pair[1], &r.Metric); err != nil {
					panic(err)
				}
			default:
				panic(line)
			}
		}
		list = append(list, r)
	}
	return list
}

func patterns(list ...string) []*regexp.Regexp {
	var out []*regexp.Regexp
	for _, p := range list {
		out = append(out, regexp.MustCompile(p))
	}
	return out
}

// addresses returns one for each family that is named.
func addresses(list ...string) subnet.PerFamily[netip.Addr] {
	var out subnet.PerFamily[netip.Addr]
	for _, s := range list {
		a := netip.MustParseAddr(s)
		out[subnet.FamilyOf(a)] = a
	}
	return out
}

func noRoute(netip.Addr) (string, netip.Addr, error) { panic("nobody asked for a route") }

func ours(name string) bool { return strings.HasPrefix(name, "twill") }

// selection is one choice: what is there, what is asked for, what comes out.
type selection struct {
	name    string
	options underlay.Options
	links   []backend.Interface
	routes  []backend.HostRoute
	before  backend.Underlay
	want    string // "eth0 192.0.2.1 2001:db8::1"
	err     string
}

func check(t *testing.T, list []selection) {
	t.Helper()
	for _, tt := range list {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := tt.options
			o.Ours = ours
			got, err := o.Select(backend.Host{Interfaces: tt.links, Routes: tt.routes}, noRoute, tt.before)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				require.Zero(t, got)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, words(got))
			require.Equal(t, 1500, got.MTU)
			require.Equal(t, got.Addresses, got.PublicIPs)
		})
	}
}

func words(u backend.Underlay) string {
	s := u.Interface
	for _, a := range u.Addresses {
		if a.IsValid() {
			s += " " + a.String()
		}
	}
	return s
}

func TestSelectByDefaultRoute(t *testing.T) {
	t.Parallel()
	two := interfaces("eth0 192.0.2.1/24", "eth1 198.51.100.1/24")
	dual := interfaces("eth0 192.0.2.1/24 2001:db8::1/64 fe80::1/64!")
	check(t, []selection{
		{name: "IPv4", links: two, routes: routes("default dev eth1 via 198.51.100.254"), want: "eth1 198.51.100.1"},
		{name: "both families on one interface", links: dual, routes: routes("default dev eth0 via 192.0.2.254"), want: "eth0 192.0.2.1 2001:db8::1"},
		{
			name: "the smaller metric", links: two, want: "eth1 198.51.100.1",
			routes: routes("default dev eth0 via 192.0.2.254 metric 200", "default dev eth1 via 198.51.100.254 metric 100"),
		},
		{
			name: "of equal metrics the first", links: two, want: "eth0 192.0.2.1",
			routes: routes("default dev eth0 via 192.0.2.254 metric 100", "default dev eth1 via 198.51.100.254 metric 100"),
		},
		{
			name: "of equal metrics that of before", links: two, want: "eth1 198.51.100.1",
			routes: routes("default dev eth0 via 192.0.2.254 metric 100", "default dev eth1 via 198.51.100.254 metric 100"),
			before: backend.Underlay{Interface: "eth1"},
		},
		{
			name: "that of before has become worse", links: two, want: "eth0 192.0.2.1",
			routes: routes("default dev eth0 via 192.0.2.254 metric 100", "default dev eth1 via 198.51.100.254 metric 101"),
			before: backend.Underlay{Interface: "eth1"},
		},
		{
			name: "IPv4 before IPv6", want: "eth1 198.51.100.1",
			links:  interfaces("eth0 192.0.2.1/24 2001:db8::1/64", "eth1 198.51.100.1/24"),
			routes: routes("default6 dev eth0 via fe80::fe metric 10", "default dev eth1 via 198.51.100.254 metric 1000"),
		},
		{
			name: "IPv6 alone", want: "eth0 2001:db8::1",
			links: interfaces("eth0 2001:db8::1/64 fe80::1/64!"), routes: routes("default6 dev eth0 via fe80::fe metric 1024"),
		},
		{
			name: "IPv6 default route, IPv4 on link", want: "eth0 192.0.2.1 2001:db8::1",
			links: dual, routes: routes("192.0.2.0/24 dev eth0", "default6 dev eth0 via fe80::fe metric 1024"),
		},
		{
			name: "more specific than the default route counts for nothing", links: two, want: "eth0 192.0.2.1",
			routes: routes("0.0.0.0/1 dev eth1 via 198.51.100.254", "128.0.0.0/1 dev eth1 via 198.51.100.254", "default dev eth0 via 192.0.2.254"),
		},
		{
			name: "a default route without a gateway", links: interfaces("ppp0 192.0.2.1/32"), routes: routes("default dev ppp0"),
			want: "ppp0 192.0.2.1",
		},
		{
			name: "not over our own device or the loopback", links: append(two, interfaces("twill.1 kind=vxlan 10.244.1.0/32")...), want: "eth0 192.0.2.1",
			routes: routes("default dev twill.1", "default dev lo", "default dev eth0 via 192.0.2.254 metric 500"),
		},
		{
			name: "not over a link that is down", links: interfaces("eth0 down 192.0.2.1/24", "eth1 198.51.100.1/24"), want: "eth1 198.51.100.1",
			routes: routes("default dev eth0 via 192.0.2.254", "default dev eth1 via 198.51.100.254 metric 100"),
		},
		{
			name: "over a bridge", links: interfaces("eth0 master=br0", "br0 kind=bridge 192.0.2.1/24"), want: "br0 192.0.2.1",
			routes: routes("default dev br0 via 192.0.2.254"),
		},
		{
			name: "an interface without addresses", links: interfaces("eth0 fe80::1/64!", "eth1 198.51.100.1/24"),
			routes: routes("default dev eth0 via 192.0.2.254"),
			err:    "interface eth0 has no address that peers could be told: give it one or choose another with --iface",
		},
	})
}

func TestSelectWithoutDefaultRoute(t *testing.T) {
	t.Parallel()
	pods := []string{
		"cni0 kind=bridge 10.244.1.1/24", "veth1 kind=veth master=cni0", "tap0 kind=tun master=cni0",
		"docker0 kind=bridge 172.17.0.1/16", "flannel.1 kind=vxlan 10.244.1.0/32", "kube-ipvs0 kind=dummy 10.96.0.1/32",
		"veth2 kind=veth fe80::2/64!",
	}
	check(t, []selection{
		{name: "one interface", links: interfaces("eth0 192.0.2.1/24"), want: "eth0 192.0.2.1"},
		{name: "one that has an address", links: interfaces("eth0 fe80::1/64!", "eth1 198.51.100.1/24"), want: "eth1 198.51.100.1"},
		{name: "a node that has pods by now", links: interfaces(append(pods, "eth0 192.0.2.1/24")...), want: "eth0 192.0.2.1"},
		{name: "a container's only interface", links: interfaces("eth0 kind=veth 192.0.2.1/24"), want: "eth0 192.0.2.1"},
		{
			name: "a bridge with a wire", want: "br0 192.0.2.1",
			links: interfaces(append(pods, "eth0 master=br0", "vnet0 kind=tun master=br0", "br0 kind=bridge 192.0.2.1/24")...),
		},
		{name: "the address that a bridge's port had before", links: interfaces("eth0 192.0.2.1/24", "eth1 master=br0 198.51.100.1/24"), want: "eth0 192.0.2.1"},
		{name: "ours do not count", links: interfaces("eth0 192.0.2.1/24", "twill.1 10.244.1.0/32"), want: "eth0 192.0.2.1"},
		{
			name: "several", links: interfaces("eth0 192.0.2.1/24", "eth1 198.51.100.1/24", "eth2 down"),
			err: "there is no default route to choose the interface by: name it with --iface; there are eth0, eth1, eth2 (down)",
		},
		{
			name: "several, one of them chosen before", links: interfaces("eth0 192.0.2.1/24", "eth1 198.51.100.1/24"),
			before: backend.Underlay{Interface: "eth1"}, want: "eth1 198.51.100.1",
		},
		{
			name: "several, the one chosen before has lost its address", links: interfaces("eth0 192.0.2.1/24", "eth1", "eth2 198.51.100.1/24"),
			before: backend.Underlay{Interface: "eth1"},
			err:    "there is no default route to choose the interface by: name it with --iface; there are eth0, eth1, eth2",
		},
		{
			name: "no address", links: interfaces("eth0 fe80::1/64!"),
			err: "no interface has an address that peers could be told: waiting for the network; there are eth0",
		},
		{name: "none up", links: interfaces("eth0 down 192.0.2.1/24"), err: "no interface is up: waiting for the network"},
		{name: "none", links: interfaces(), err: "no interface is up: waiting for the network"},
	})
}
