package kernel_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
)

func TestHost(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.reach(node(1))
	for _, command := range []string{
		"ip link add br0 type bridge",
		"ip link set far master br0",
		"ip link set far alias twill:net/pod/eth0/10.5.1.2/",
		"ip -6 address add 2001:db8:1::1/64 dev eth0 nodad preferred_lft 0",
		"ip -6 address add fe80::1/64 dev eth0 nodad",
		"ip address add 203.0.113.9/32 dev lo",
		"ip address add 169.254.7.7/16 dev eth0 scope link",
		"ip address add 10.55.0.1 peer 10.55.0.2 dev eth0",
		"ip route add default via 192.0.2.9 metric 100",
		"ip route add default via 192.0.2.10 metric 200",
		"ip -6 route add default via 2001:db8::9 metric 300",
		"ip route add 203.0.113.0/24 nexthop via 192.0.2.9 nexthop via 192.0.2.10",
		"ip route add blackhole 198.51.100.0/24",
		"ip route add 10.66.0.0/16 via 192.0.2.9 table 100",
		"ip route add 10.67.0.0/16 via inet6 2001:db8::9 dev eth0",
		"ip link add down0 type veth peer name down1",
		"ip address add 10.68.0.1/24 dev down0",
	} {
		ns.run(command)
	}
	host, err := ns.Host(t.Context())
	require.NoError(t, err)

	names := []string{}
	for _, i := range host.Interfaces {
		names = append(names, i.Name)
	}
	require.ElementsMatch(t, []string{"lo", "eth0", "far", "twill.1", "twill-v6.1", "br0", "down0", "down1"}, names)
	require.Equal(t, "lo", names[0])
	lo, _ := host.Interface("lo")
	require.Equal(t, backend.Interface{Name: "lo", MTU: 65536, Up: true, Loopback: true, Addresses: []backend.InterfaceAddress{
		{Prefix: prefix("127.0.0.1/8")}, {Prefix: prefix("203.0.113.9/32"), Usable: true}, {Prefix: prefix("::1/128")},
	}}, lo)
	far, _ := host.Interface("far")
	require.Equal(t, backend.Interface{Name: "far", Kind: "veth", MTU: 1500, Up: true, Master: "br0", Alias: "twill:net/pod/eth0/10.5.1.2/"}, far)
	br, _ := host.Interface("br0")
	require.Equal(t, "bridge", br.Kind)
	down, _ := host.Interface("down0")
	require.False(t, down.Up)
	eth0, _ := host.Interface("eth0")
	require.ElementsMatch(t, []backend.InterfaceAddress{
		{Prefix: prefix("192.0.2.1/24"), Usable: true},
		{Prefix: prefix("192.0.2.2/24"), Usable: true}, // a secondary one is as good
		{Prefix: prefix("169.254.7.7/16")},
		{Prefix: prefix("10.55.0.1/32"), Usable: true},
		{Prefix: prefix("2001:db8::1/64"), Usable: true},
		{Prefix: prefix("2001:db8::2/64"), Usable: true},
		{Prefix: prefix("2001:db8:1::1/64")}, // deprecated
		{Prefix: prefix("fe80::1/64")},
	}, eth0.Addresses)

	for _, r := range []backend.HostRoute{
		{Dst: prefix("0.0.0.0/0"), Via: addr("192.0.2.9"), Link: "eth0", Metric: 100},
		{Dst: prefix("0.0.0.0/0"), Via: addr("192.0.2.10"), Link: "eth0", Metric: 200},
		{Dst: prefix("::/0"), Via: addr("2001:db8::9"), Link: "eth0", Metric: 300},
		{Dst: prefix("192.0.2.0/24"), Link: "eth0"},
		{Dst: prefix("2001:db8::/64"), Link: "eth0", Metric: 256},
		{Dst: prefix("203.0.113.0/24"), Via: addr("192.0.2.9"), Link: "eth0"},
		{Dst: prefix("203.0.113.0/24"), Via: addr("192.0.2.10"), Link: "eth0"},
		{Dst: prefix("10.67.0.0/16"), Via: addr("2001:db8::9"), Link: "eth0"},
	} {
		require.Contains(t, host.Routes, r)
	}
	for _, r := range host.Routes {
		require.NotContains(t, []string{"10.0.1.0/24", "fd00:1:1::/64", "198.51.100.0/24", "10.66.0.0/16"}, r.Dst.String())
	}
}

// Who wants no routes has none read to him: a host may have a million.
func TestInterfaces(t *testing.T) { // not parallel: allocations of others would count
	ns := newNamespace(t)
	ns.run("ip link add br0 type bridge")
	ns.run("ip link set far master br0 alias rack")
	host, err := ns.Host(t.Context())
	require.NoError(t, err)
	want := slices.Clone(host.Interfaces)
	for n := range want {
		want[n].AcceptRA, want[n].ForwardsIP6 = 0, false
	}
	got, err := ns.Interfaces(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = ns.Interfaces(cancelled(t))
	require.Error(t, err)

	const routes = 2000
	ns.run(fmt.Sprintf("for i in $(seq %d); do echo route add 10.77.$((i / 256)).$((i %% 256))/32 via 192.0.2.9; done | ip -batch -", routes))
	read := func() {
		if _, err := ns.Interfaces(t.Context()); err != nil {
			t.Error(err)
		}
	}
	require.Less(t, testing.AllocsPerRun(3, read), float64(routes), "no route was read")
}

// An address is not usable while the kernel tests it for duplicates, nor when
// it has one, nor when it is a temporary one (RFC 8981).
func TestUsableAddresses(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.run("ip link set far address 02:00:00:00:00:77") // the other end answers
	ns.run("ip -6 address add 2001:db8:2::1/64 dev far nodad")
	ns.run("ip -6 address add 2001:db8:2::1/64 dev eth0")
	ns.run("sysctl -qw net.ipv6.conf.eth0.dad_transmits=600") // a second each: longer than this test lasts
	ns.run("ip -6 address add 2001:db8:4::1/64 dev eth0")
	usable := func(p string) bool {
		host, err := ns.Host(t.Context())
		require.NoError(t, err)
		i, _ := host.Interface("eth0")
		for _, a := range i.Addresses {
			if a.Prefix == prefix(p) {
				return a.Usable
			}
		}
		return false
	}
	require.False(t, usable("2001:db8:4::1/64"), "it is tentative as long as it is tested")
	ns.run("sysctl -qw net.ipv6.conf.eth0.dad_transmits=1")
	ns.run("ip -6 address add 2001:db8:3::1/64 dev eth0")
	eventually(t, "the address becomes usable", func() bool { return usable("2001:db8:3::1/64") })
	eventually(t, "the duplicate is found", func() bool {
		out, err := ns.try("ip -6 address show dev eth0 to 2001:db8:2::1 dadfailed")
		return err == nil && out != ""
	})
	require.False(t, usable("2001:db8:2::1/64"))
}

func TestRouteGet(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.run("ip route add default via 192.0.2.9 src 192.0.2.2")
	for to, src := range map[string]string{"192.0.2.77": "192.0.2.1", "8.8.8.8": "192.0.2.2", "2001:db8::77": "2001:db8::2"} {
		link, from, err := ns.RouteGet(t.Context(), addr(to))
		require.NoError(t, err)
		require.Equal(t, "eth0", link)
		if addr(to).Is4() {
			require.Equal(t, addr(src), from)
		} else {
			require.True(t, prefix("2001:db8::/64").Contains(from))
		}
	}
	_, _, err := ns.RouteGet(t.Context(), addr("2001:db9::1"))
	require.ErrorIs(t, err, unix.ENETUNREACH)
	require.EqualError(t, err, "finding the route to 2001:db9::1: network is unreachable")
	_, _, err = ns.RouteGet(cancelled(t), addr("192.0.2.77"))
	require.Error(t, err)
}

func TestHostTellsRouterAdvertisements(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for _, c := range []struct {
		accept, forwarding string
		want               int
		forwards           bool
	}{{"0", "0", 0, false}, {"1", "0", 1, false}, {"2", "1", 2, true}} {
		ns.run("sysctl -qw net.ipv6.conf.eth0.forwarding=" + c.forwarding + " net.ipv6.conf.eth0.accept_ra=" + c.accept)
		host, err := ns.Host(t.Context())
		require.NoError(t, err)
		eth0, ok := host.Interface("eth0")
		require.True(t, ok)
		require.Equal(t, c.want, eth0.AcceptRA)
		require.Equal(t, c.forwards, eth0.ForwardsIP6)
	}
}

// The kernel has no table of routes before the first link was up.
func TestHostBeforeAnyLink(t *testing.T) {
	t.Parallel()
	ns := emptyNamespace(t)
	host, err := ns.kernel(kernel.Config{}).Host(t.Context())
	require.NoError(t, err)
	require.Len(t, host.Interfaces, 1)
	require.Empty(t, host.Routes)
}
