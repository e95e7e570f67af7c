package rulestest

import (
	"net/netip"
	"testing"

	"github.com/twill-net/twill/subnet"
)

// Topology is a node with our rules between the three kinds of peers:
//
//	pod (own subnet) ── node ── remote (a pod of another node)
//	                     │
//	                  outside
//
// The overlay is a plain link here: the rules see inner packets only.
type Topology struct {
	Node, Pod, Remote, Outside Namespace
}

// Hosts are the addresses in a Topology.
type Hosts struct {
	Gateway     netip.Addr // of node on the pod's link
	Overlay     netip.Addr // of node on the link to remote: the own subnet's first, as on a VXLAN device
	Uplink      netip.Addr // of node on the link to outside
	Pod, Remote netip.Addr
	Outside     netip.Addr
	Multicast   netip.Addr
}

// At are the hosts of a Topology.
var At = subnet.PerFamily[Hosts]{
	subnet.IPv4: {
		Gateway: netip.MustParseAddr("10.244.1.1"), Pod: netip.MustParseAddr("10.244.1.10"),
		Overlay: netip.MustParseAddr("10.244.1.0"), Remote: netip.MustParseAddr("10.244.2.10"),
		Uplink: netip.MustParseAddr("198.51.100.1"), Outside: netip.MustParseAddr("198.51.100.10"),
		Multicast: netip.MustParseAddr("239.1.2.3"),
	},
	subnet.IPv6: {
		Gateway: netip.MustParseAddr("fd00:244:0:1::1"), Pod: netip.MustParseAddr("fd00:244:0:1::10"),
		Overlay: netip.MustParseAddr("fd00:244:0:1::"), Remote: netip.MustParseAddr("fd00:244:0:2::10"),
		Uplink: netip.MustParseAddr("2001:db8:100::1"), Outside: netip.MustParseAddr("2001:db8:100::10"),
		Multicast: netip.MustParseAddr("ff02::1234"),
	},
}

// Ports of the echo server that each namespace runs; what goes to the marked
// ones carries that mark on the node.
const (
	EchoPort       = 9000
	mark4000Port   = 9001
	mark8000Port   = 9002
	OpenPort       = 9003 // see Blocked
	markedForwards = `table inet marker {
	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		udp dport 9001 meta mark set 0x4001
		udp dport 9002 meta mark set 0x8000
	}
}
`
)

// NewTopology makes one for the time of a test.
func NewTopology(t *testing.T) Topology {
	t.Helper()
	NeedNFT(t)
	n := Topology{NewNamespace(t), NewNamespace(t), NewNamespace(t), NewNamespace(t)}
	for _, ns := range []Namespace{n.Node, n.Pod, n.Remote, n.Outside} {
		ns.Sysctl(t, "ipv6/conf/default/accept_dad", "0")
		ns.Sysctl(t, "ipv6/conf/all/accept_dad", "0")
	}
	n.Node.Sysctl(t, "ipv4/ip_forward", "1")
	n.Node.Sysctl(t, "ipv6/conf/all/forwarding", "1")
	n.Node.IP(t,
		"link add pod type veth peer name eth0 netns "+n.Pod.Path(),
		"link add overlay type veth peer name eth0 netns "+n.Remote.Path(),
		"link add uplink type veth peer name eth0 netns "+n.Outside.Path(),
		"addr add 10.244.1.1/24 dev pod", "addr add fd00:244:0:1::1/64 dev pod nodad",
		"addr add 10.244.1.0/32 dev overlay", "addr add fd00:244:0:1::/128 dev overlay nodad",
		"addr add 198.51.100.1/24 dev uplink", "addr add 2001:db8:100::1/64 dev uplink nodad",
		"link set pod up", "link set overlay up", "link set uplink up",
		"route add 10.244.2.0/24 dev overlay", "route add fd00:244:0:2::/64 dev overlay",
	)
	n.Pod.IP(t, "link set eth0 up",
		"addr add 10.244.1.10/24 dev eth0", "route add default via 10.244.1.1",
		"addr add fd00:244:0:1::10/64 dev eth0 nodad", "route add default via fd00:244:0:1::1")
	n.Remote.IP(t, "link set eth0 up",
		"addr add 10.244.2.10/32 dev eth0", "route add default via 10.244.1.0 dev eth0 onlink",
		"addr add fd00:244:0:2::10/128 dev eth0 nodad", "route add default via fd00:244:0:1:: dev eth0 onlink")
	n.Outside.IP(t, "link set eth0 up",
		"addr add 198.51.100.10/24 dev eth0", "route add default via 198.51.100.1",
		"addr add 2001:db8:100::10/64 dev eth0 nodad", "route add default via 2001:db8:100::1")
	n.Mark(t)
	for _, ns := range []Namespace{n.Pod, n.Remote, n.Outside} {
		for _, port := range []uint16{EchoPort, mark4000Port, mark8000Port, OpenPort} {
			ns.Echo(t, port)
		}
	}
	return n
}

// Mark puts the rules in that mark what goes to the marked ports. NewTopology
// does it; a flush of the ruleset undoes it.
func (n Topology) Mark(t *testing.T) {
	t.Helper()
	n.Node.Pipe(t, markedForwards, "nft", "-f", "-")
}
