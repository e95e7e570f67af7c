package netlab

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/twill-net/twill/subnet"
)

// maxNodes is what the last octet of the underlay addresses has room for. When
// more than about 30 nodes all speak to each other, their neighbour entries
// overflow the kernel's table, which all namespaces share (gc_thresh3, arp(7)).
const maxNodes = 200

// The outside host, of the documentation ranges (RFC 5737, RFC 3849), and the
// lan's address towards it.
var (
	outsideAddr    = subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("2001:db8:ffff::1/64")}
	outsideGateway = subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("203.0.113.254/24"), netip.MustParsePrefix("2001:db8:ffff::fe/64")}
)

// underlayAddr returns the address of a host on a segment (counted from 0):
// host 1 is the lan, the segment's router; node N is host 10+N in IPv4 and
// 0x10+N in IPv6. Segments are 192.168.77.0/24, 192.168.78.0/24 … and
// fd77::/64, fd77:0:0:1::/64 ….
func underlayAddr(f subnet.Family, segment, host int) netip.Prefix {
	if f == subnet.IPv4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(77 + segment), byte(host)}), 24)
	}
	a := [16]byte{0: 0xfd, 1: 0x77, 7: byte(segment), 15: byte(host)}
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

func routerAddr(f subnet.Family, segment int) netip.Prefix { return underlayAddr(f, segment, 1) }

func nodeAddr(f subnet.Family, segment, number int) netip.Prefix {
	if f == subnet.IPv4 {
		return underlayAddr(f, segment, 10+number)
	}
	return underlayAddr(f, segment, 0x10+number)
}

// batch collects lines for `ip -batch`.
type batch struct{ strings.Builder }

func (b *batch) add(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }

// addAddr writes one line; duplicate address detection would make an IPv6
// address useless for a second.
func (b *batch) addAddr(f subnet.Family, p netip.Prefix, dev string) {
	if f == subnet.IPv6 {
		b.add("addr add %s dev %s nodad", p, dev)
		return
	}
	b.add("addr add %s dev %s", p, dev)
}

// lanBatch makes the router: a bridge for each segment and the link to the
// outside host, whose first process is outsidePID.
func (l *Lab) lanBatch(outsidePID int) string {
	var b batch
	b.add("link set lo up")
	for s := range l.opts.Segments {
		// A fixed MAC: a bridge without one takes the lowest of its
		// ports', so each new node would change the router's.
		b.add("link add %s address 02:77:00:00:00:%02x mtu %d type bridge mcast_snooping 0", bridge(s), s+1, l.opts.MTU)
		b.add("link set %s up", bridge(s))
	}
	b.add("link add outside mtu %d type veth peer name eth0 mtu %[1]d netns %d", l.opts.MTU, outsidePID)
	b.add("link set outside up")
	for _, f := range l.opts.Underlay.Families() {
		for s := range l.opts.Segments {
			b.addAddr(f, routerAddr(f, s), bridge(s))
		}
		b.addAddr(f, outsideGateway[f], "outside")
	}
	return b.String()
}

func bridge(segment int) string { return fmt.Sprintf("br%d", segment) }

// plugBatch, run in the lan, connects a node to its segment.
func (l *Lab) plugBatch(n *Node, pid int) string {
	var b batch
	// The node's MAC survives a reboot, as a card's does: peers know it.
	b.add("link add %s mtu %d type veth peer name eth0 address 02:77:00:00:01:%02x mtu %[2]d netns %[4]d", n.Name, l.opts.MTU, n.number, pid)
	b.add("link set %s master %s up", n.Name, bridge(n.segment))
	return b.String()
}

// hostBatch, run on a host, configures its eth0 with a default route.
func (l *Lab) hostBatch(addr, gateway subnet.PerFamily[netip.Prefix]) string {
	var b batch
	b.add("link set lo up")
	b.add("link set eth0 up")
	for _, f := range l.opts.Underlay.Families() {
		b.addAddr(f, addr[f], "eth0")
		b.add("route add default via %s", gateway[f].Addr())
	}
	return b.String()
}
