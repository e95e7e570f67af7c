package lifecycle

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// damages are what others do to our part of the kernel. In the scripts $s4 $g4
// $m4 $n4 and $s6 $g6 $m6 $n6 are the way to a peer's pods of each family: its
// subnet, the gateway in it, the peer's MAC, and the route's metric.
var damages = []struct {
	name, script string
	kinds        []string // of the repairs that tell of it, at least
}{
	{"device deleted", "ip link del twill.1", []string{"link", "address", "neighbour", "fdb", "route"}},
	{"IPv6 device deleted", "ip link del twill-v6.1", []string{"link", "address", "neighbour", "fdb", "route"}},
	{"both devices deleted", "ip link del twill.1; ip link del twill-v6.1", []string{"link", "address", "neighbour", "fdb", "route"}},
	{"device down", "ip link set twill.1 down", []string{"link", "neighbour", "route"}},
	{"device down and up", "ip link set twill.1 down; ip link set twill.1 up", []string{"neighbour", "route"}},
	{"IPv6 device down and up", "ip link set twill-v6.1 down; ip link set twill-v6.1 up", []string{"address", "neighbour", "route"}},
	{"MAC changed", "ip link set twill.1 address 02:00:00:00:00:99", []string{"link"}},
	{"MTU changed", "ip link set twill.1 mtu 1280; ip link set twill-v6.1 mtu 1280", []string{"link"}},
	{"MTU below what IPv6 needs", "ip link set twill-v6.1 mtu 1000", []string{"link", "address"}},
	{"local address changed", "ip link set twill.1 type vxlan local 192.168.77.199", []string{"link"}},
	{"learning switched on", "ip link set twill.1 type vxlan learning", []string{"link"}},
	{"address deleted", "ip address flush dev twill.1; ip -6 address flush dev twill-v6.1", []string{"address"}},
	{"address added", "ip address add 10.244.200.0/32 dev twill.1; ip address add fd00:244:0:c8::/128 dev twill-v6.1", []string{"address"}},
	{"route deleted", "ip route del $s4; ip -6 route del $s6", []string{"route"}},
	{"routes flushed", "ip route flush proto 116; ip -6 route flush proto 116", []string{"route"}},
	{"route altered", "ip route change $s4 via 192.168.77.1 metric $n4 proto 116; ip -6 route change $s6 via fd77::1 metric $n6 proto 116", []string{"route"}},
	{"route taken over", "ip route change blackhole $s4 metric $n4 proto 116", []string{"route"}},
	{"neighbour deleted", "ip neigh del $g4 dev twill.1; ip neigh del $g6 dev twill-v6.1", []string{"neighbour"}},
	{"neighbour altered", "ip neigh replace $g4 lladdr 02:00:00:00:00:99 dev twill.1 nud permanent; ip neigh replace $g6 lladdr 02:00:00:00:00:99 dev twill-v6.1 nud permanent", []string{"neighbour"}},
	{"neighbour no longer permanent", "ip neigh replace $g4 lladdr $m4 dev twill.1 nud reachable", []string{"neighbour"}},
	{"neighbours flushed", "ip neigh flush dev twill.1 nud permanent; ip -6 neigh flush dev twill-v6.1 nud permanent", []string{"neighbour"}},
	{"FDB entry deleted", "bridge fdb del $m4 dev twill.1; bridge fdb del $m6 dev twill-v6.1", []string{"fdb"}},
	{"FDB entry altered", "bridge fdb replace $m4 dev twill.1 dst 192.168.77.199; bridge fdb replace $m6 dev twill-v6.1 dst fd77::199", []string{"fdb"}},
	{"FDB entry with a second destination", "bridge fdb del $m4 dev twill.1; bridge fdb append 00:00:00:00:00:00 dev twill.1 dst 192.168.77.199", []string{"fdb"}},
	{"foreign entries", `ip neigh add 10.244.200.0 lladdr 02:00:00:00:00:99 dev twill.1 nud permanent
		bridge fdb add 02:00:00:00:00:99 dev twill.1 dst 192.168.77.199
		ip route add 10.244.200.0/24 via 192.168.77.1 proto 116`, []string{"neighbour", "fdb", "route"}},
	{"rules flushed", "nft flush ruleset", []string{"rules"}},
	{"table deleted", "nft delete table inet twill", []string{"rules"}},
	{"a chain flushed", "nft flush chain inet twill postrouting", []string{"rules"}},
	{"a rule added", "nft add chain inet twill drops '{ type filter hook forward priority 0; policy drop; }'", []string{"rules"}},
	{"forwarding switched off", "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0", []string{"sysctl"}},
	{"underlay down and up", `ip link set eth0 down; ip link set eth0 up
		ip address replace fd77::$node/64 dev eth0 nodad
		ip route replace default via 192.168.77.1; ip -6 route replace default via fd77::1`, nil},
}

// What others do to our part of the kernel is undone, and told.
func TestRepair(t *testing.T) {
	t.Parallel()
	// The damages go round the nodes, so that none is taken for somebody who
	// keeps undoing our work.
	c, pods := deployed(t, netlab.Options{Nodes: 4})
	want := map[*netlab.Node]string{}
	for _, n := range c.Nodes {
		want[n] = ours(t, n)
	}
	for i, d := range damages {
		n, other := c.Nodes[i%4], c.Nodes[(i+1)%4]
		t.Run(d.name, func(t *testing.T) {
			before := status(t, n).Repairs
			netlabtest.Run(t, &n.Host, c.wayVariables(t, n, other)+d.script)
			s := awaitStatus(t, n, "repaired", func(s overlay.Status) bool {
				for _, kind := range d.kinds {
					if s.Repairs.ByKind[kind] == before.ByKind[kind] {
						return false
					}
				}
				return s.Ready
			})
			c.awaitWays(t, n)
			awaitOurs(t, n, want[n])
			require.Empty(t, s.Contended)
			if len(d.kinds) > 0 {
				require.NotEmpty(t, s.Repairs.Recent)
			}
			awaitStatus(t, n, "nothing is left to do", func(s overlay.Status) bool { return len(s.Failing) == 0 && len(s.Problems) == 0 })
			requirePings(t, pods[i%4], pods[(i+1)%4])
		})
	}
	// Where nobody did anything, nothing was repaired: the nodes do not see
	// each other's troubles.
	total := 0
	for _, n := range c.Nodes {
		s := status(t, n)
		total += s.Repairs.Total
		require.NotZero(t, logged(t, c.daemon(n), "msg=repaired"))
		require.Empty(t, s.Contended)
	}
	t.Logf("%d damages, %d repairs", len(damages), total)
}

// wayVariables sets the variables that the damages' scripts know.
func (c *cluster) wayVariables(t *testing.T, n, to *netlab.Node) string {
	t.Helper()
	r := c.record(t, to.Name)
	v := "node=" + strings.TrimPrefix(n.Addrs[subnet.IPv6].String(), "fd77::") + "\n"
	for _, f := range subnet.Families {
		digit := map[subnet.Family]string{subnet.IPv4: "4", subnet.IPv6: "6"}[f]
		for name, value := range map[string]string{
			"s": r.Subnets[f].String(), "g": r.Subnets[f].Addr().String(), "m": r.MAC(f),
			"n": fmt.Sprint(backend.RouteMetric(r.Subnets[f])),
		} {
			v += name + digit + "=" + value + "\n"
		}
	}
	return v
}

// An entry that somebody keeps undoing is repaired less and less often and
// named; the others are repaired as ever. A route of somebody else's in the
// place of ours is left alone and named.
func TestContention(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 3})
	n := c.Node(1)
	want := ours(t, n)
	vars := c.wayVariables(t, n, c.Node(2))
	p := c.record(t, "node2").Subnets[subnet.IPv4]
	route := backend.Route{Dst: p, Metric: backend.RouteMetric(p)}.Key().String()

	t.Run("an entry is undone again and again", func(t *testing.T) {
		saboteur, err := n.Start("saboteur", "sh", "-c", vars+`
			while :; do ip route del $s4 proto 116 2>/dev/null && echo deleted || sleep 0.01; done`)
		require.NoError(t, err)
		unharmed(t, []*netlab.Pod{pods[0], pods[2]}, func() {
			s := awaitStatus(t, n, "contended", func(s overlay.Status) bool { return len(s.Contended) > 0 })
			require.Len(t, s.Contended, 1)
			require.Equal(t, route, s.Contended[0].Object)
			require.GreaterOrEqual(t, s.Contended[0].Times, 6)
			require.True(t, s.Ready)
			require.Equal(t, "1", metric(t, n, "twill_contended_objects"))
			require.Equal(t, 1, logged(t, c.daemon(n), "something keeps undoing our work"))

			// The war is over before it began, and the rest is not forgotten.
			before := s.Repairs.ByKind
			netlabtest.Run(t, &n.Host, "nft flush ruleset; "+c.wayVariables(t, n, c.Node(2))+"ip -6 route del $s6; bridge fdb del $m4 dev twill.1")
			s = awaitStatus(t, n, "the others are repaired", func(s overlay.Status) bool {
				return s.Repairs.ByKind["rules"] > before["rules"] && s.Repairs.ByKind["fdb"] > before["fdb"]
			})
			require.Len(t, s.Contended, 1)
		})
		require.Less(t, logged(t, saboteur, "deleted"), 20)
		require.NoError(t, saboteur.Kill(t.Context()))
		c.awaitWays(t, n)
		awaitOurs(t, n, want)
		requirePings(t, pods...)
	})

	t.Run("a route of somebody else's", func(t *testing.T) {
		unharmed(t, []*netlab.Pod{pods[0], pods[1]}, func() {
			to := c.wayVariables(t, n, c.Node(3))
			netlabtest.Run(t, &n.Host, to+"ip route replace $s4 via 192.168.77.1 proto static")
			s := awaitStatus(t, n, "named", func(s overlay.Status) bool { return len(s.Failing) == 1 })
			require.Contains(t, s.Failing[0].Error, "takes its place: remove that one")
			require.True(t, s.Ready)
			require.Contains(t, netlabtest.Run(t, &n.Host, "ip route show proto static"), "via 192.168.77.1")
			netlabtest.Run(t, &n.Host, to+"ip route del $s4 proto static")
			c.awaitWays(t, n)
			awaitStatus(t, n, "well again", func(s overlay.Status) bool { return len(s.Failing) == 0 })
		})
		requirePings(t, pods...)
	})
}
