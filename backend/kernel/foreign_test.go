package kernel_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// Nothing without our mark is seen or touched.
func TestForeignIsLeftAlone(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.reach(node(2))
	for _, command := range []string{
		"ip route add 10.0.1.0/24 via 192.0.2.9 metric 50 proto static", // shadows nothing: ours has metric 0
		"ip route add 10.77.0.0/24 via 192.0.2.9 proto bird",
		"ip route add 10.78.0.0/24 via 192.0.2.9 proto 116 table 100",
		"ip -6 route add fd77::/64 via 2001:db8::9 proto static",
		"ip -6 route add fd00:1:1::/64 via 2001:db8::9 metric 50 proto static",
		"ip neigh add 192.0.2.50 lladdr 02:00:00:00:00:50 nud permanent dev eth0",
		"ip neigh add 10.9.9.9 lladdr 02:00:00:00:00:50 nud reachable dev twill.1",
		"ip -6 neigh add fd99::9 lladdr 02:00:00:00:00:50 nud stale dev twill-v6.1",
		"ip neigh add proxy 10.9.9.8 dev twill.1",
		"bridge fdb add 02:00:00:00:00:51 dst 192.0.2.51 dynamic dev twill.1",
		"ip address add fe80::77/64 dev twill.1 nodad",
		"ip link add vxlan7 type vxlan id 7 dstport 8472 local 192.0.2.1 dev eth0",
		"ip link set vxlan7 up",
		"bridge fdb add 02:00:00:00:00:52 dst 192.0.2.52 dev vxlan7",
		"ip neigh add 10.9.9.7 lladdr 02:00:00:00:00:50 nud permanent dev vxlan7",
		"ip link add br0 type bridge",
	} {
		ns.run(command)
	}
	// The kernel adds the route of an IPv6 address when it gets round to it.
	eventually(t, "the route of fe80::77", func() bool { return ns.run("ip -6 route show table local fe80::77") != "" })
	show := "ip route show table all; ip -6 route show table all; ip neigh show; ip neigh show proxy; bridge fdb show; ip address show | grep -v valid_lft"
	same(t, node(2), ns.observe())
	ns.reach(node(2))
	foreign := func() (lines string) {
		return ns.run("{ " + show + "; } | grep -v 'proto 116.*twill' | sort")
	}
	before := foreign()
	ns.apply(backend.Diff(node(0), ns.observe())...)
	ns.apply(backend.Diff(node(2), ns.observe())...)
	require.Equal(t, before, foreign())
	ns.apply(backend.Diff(nil, ns.observe())...)
	require.Empty(t, ns.observe())
	for _, still := range []string{"10.0.1.0/24 via 192.0.2.9", "fd00:1:1::/64 via 2001:db8::9", "10.78.0.0/24", "vxlan7", "br0", "02:00:00:00:00:52 dev vxlan7"} {
		require.Contains(t, foreign(), still)
	}
}

// A foreign route in the place of ours is named and kept.
func TestForeignRouteInTheWay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		family        subnet.Family
		foreign, told string
	}{
		{subnet.IPv4, "route add 10.0.1.0/24 via 192.0.2.9 proto static",
			"adding route 10.0.1.0/24 via 10.0.1.0 dev twill.1 onlink: a foreign route 10.0.1.0/24 via 192.0.2.9 dev eth0 of protocol static takes its place: " +
				"remove that one (ip route delete 10.0.1.0/24 proto static metric 0) or choose another network; will retry"},
		{subnet.IPv6, "-6 route add fd00:1:1::/64 dev far proto 77",
			"adding route fd00:1:1::/64 via fd00:1:1:: dev twill-v6.1 onlink metric 1024: a foreign route fd00:1:1::/64 dev far metric 1024 of protocol 77 takes its place: " +
				"remove that one (ip route delete fd00:1:1::/64 proto 77 metric 1024) or choose another network; will retry"},
	} {
		t.Run(c.family.String(), func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			ns.run("ip " + c.foreign)
			objects := append(own(c.family), peer(c.family, 1)...)
			want := backend.NewState(objects...)
			errs := ns.Apply(t.Context(), backend.Diff(want, ns.observe()))
			for _, err := range errs[:len(errs)-1] {
				require.NoError(t, err)
			}
			require.EqualError(t, errs[len(errs)-1], c.told)
			r := objects[len(objects)-1]
			require.NoError(t, ns.delete(r), "it is not ours")
			require.NotContains(t, ns.observe(), r.Key())
			require.NotEmpty(t, ns.run("ip -6 route show fd00:1:1::/64; ip route show 10.0.1.0/24"))
		})
	}
}

// Routes of the host to where our subnets are, by another device, do not keep
// ours out in either family, if ours is the more specific.
func TestForeignRouteAround(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.run("ip route add 10.0.0.0/8 via 192.0.2.9")
	ns.run("ip -6 route add fd00::/8 via 2001:db8::9")
	ns.reach(node(3))
	require.NotContains(t, "\n"+ns.run("ip -6 route show"), "\nfd00:1:1:: ", "what helped it in is gone")
}

// With one destination and several metrics, that of the metric is deleted.
func TestDeleteRouteByMetric(t *testing.T) {
	t.Parallel()
	for _, f := range subnet.Families {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			r := peer(f, 1)[2].(backend.Route)
			objects := own(f)
			other := r
			other.Metric += 10
			blackhole := backend.Route{Dst: r.Dst, Metric: 1 << 30, Blackhole: true}
			ns.reach(backend.NewState(append(objects, r, other, blackhole)...))
			require.NoError(t, ns.delete(r))
			require.NoError(t, ns.delete(backend.Route{Dst: r.Dst, Metric: r.Metric, Blackhole: true}))
			same(t, backend.NewState(append(objects, other, blackhole)...), ns.observe())
			require.NoError(t, ns.delete(other))
			same(t, backend.NewState(append(objects, blackhole)...), ns.observe())
		})
	}
}

// What others made of our things, or put on our devices, is seen as drift and
// is repaired, whatever the model thinks of it.
func TestForeignOnOurs(t *testing.T) {
	t.Parallel()
	for i, damage := range []string{
		"bridge fdb append 02:00:00:00:03:e9 dst 192.0.2.7 dev twill.1 && bridge fdb append 00:00:00:00:00:00 dst 192.0.2.7 dev twill.1 && bridge fdb append 00:00:00:00:00:00 dst 192.0.2.8 dev twill.1",
		"bridge fdb replace 02:00:00:00:03:e9 dst 198.18.0.1 port 9999 dev twill.1",
		"bridge fdb replace 02:00:00:00:03:e9 dst 198.18.0.1 vni 9 via far dev twill.1",
		"bridge fdb del 02:00:00:00:03:e9 dev twill.1 && bridge fdb add 02:00:00:00:03:e9 dst 192.0.2.7 dynamic dev twill.1",
		"bridge fdb add 02:00:00:00:77:77 dst 192.0.2.7 dev twill.1",
		"ip neigh add 10.9.9.9 lladdr 02:00:00:00:00:50 nud permanent dev twill.1",
		"ip -6 neigh add fd99::9 lladdr 02:00:00:00:00:50 nud permanent dev twill-v6.1",
		"ip neigh change 10.0.1.0 lladdr 02:00:00:00:00:50 nud permanent dev twill.1",
		"ip neigh change 10.0.1.0 nud stale dev twill.1",
		"ip address add 10.9.9.9/24 dev twill.1; ip address add fd99::9/64 dev twill-v6.1",
		"ip route replace 10.0.1.0/24 proto 116 nexthop via 10.0.1.0 dev twill.1 onlink nexthop via 192.0.2.9 dev eth0",
		"ip -6 route append fd00:1:1::/64 via fd00:1:1::7 dev twill-v6.1 onlink proto 116 metric 1024",
		"ip route replace unreachable 10.0.1.0/24 proto 116",
		"ip -6 route replace prohibit fd00:1:1::/64 proto 116 metric 1024",
		"ip route add 10.99.0.0/24 via 192.0.2.9 proto 116 && ip -6 route add fd99::/64 via 2001:db8::9 proto 116",
		"ip route add unreachable 10.99.0.0/24 proto 116",
		"ip link add twill.9 type vxlan id 9 dstport 8472 local 192.0.2.1 dev eth0 && ip link set twill.9 up",
		"ip link add twill.9 type vxlan external dstport 4789",
		"ip link set twill.1 type vxlan id 1 learning && ip link set twill-v6.1 mtu 1280",
		"ip link set twill.1 type vxlan id 1 local 192.0.2.2 dev far",
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			want := node(2)
			ns.reach(want)
			ns.run(damage)
			require.NotEqual(t, want, ns.observe(), damage)
			ns.reach(want)
		})
	}
}
