package guard_test

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/subnet"
)

// topology is a node with two pods on a bridge and one on none, and all the
// world behind its uplink, in one namespace with many addresses:
//
//	pod1, pod2 ── cni0 ┐
//	routed ────────────┴ node ── outside
type topology struct {
	node, pod1, pod2, routed, outside namespace
}

// hosts are the addresses in a topology.
type hosts struct {
	uplink                  netip.Addr // the node's
	peer, second, stranger  netip.Addr // outside: the peer's VTEP, its other address, no peer
	own, gateway            netip.Addr // the node's in the network
	pod1, pod2, routed      netip.Addr
	remote, other, external netip.Addr // sources: in the peer's subnet, in another one, not in the network
}

var at = subnet.PerFamily[hosts]{
	{
		uplink: addr("192.0.2.1"), peer: addr("192.0.2.2"), second: addr("192.0.2.22"), stranger: addr("192.0.2.9"),
		own: addr("10.244.1.0"), gateway: addr("10.244.1.1"),
		pod1: addr("10.244.1.11"), pod2: addr("10.244.1.12"), routed: addr("10.244.1.13"),
		remote: addr("10.244.2.5"), other: addr("10.244.3.5"), external: addr("198.51.100.7"),
	},
	{
		uplink: addr("2001:db8::1"), peer: addr("2001:db8::2"), second: addr("2001:db8::22"), stranger: addr("2001:db8::9"),
		own: addr("fd00:244:0:1::"), gateway: addr("fd00:244:0:1::1"),
		pod1: addr("fd00:244:0:1::11"), pod2: addr("fd00:244:0:1::12"), routed: addr("fd00:244:0:1::13"),
		remote: addr("fd00:244:0:2::5"), other: addr("fd00:244:0:3::5"), external: addr("2001:db8:100::7"),
	},
}

func newTopology(t *testing.T) topology {
	t.Helper()
	n := topology{newNamespace(t), newNamespace(t), newNamespace(t), newNamespace(t), newNamespace(t)}
	for _, ns := range []namespace{n.node, n.pod1, n.pod2, n.routed, n.outside} {
		for _, c := range []string{"ipv6/conf/default/accept_dad", "ipv4/conf/default/rp_filter", "ipv4/conf/all/rp_filter"} {
			ns.Sysctl(t, c, "0")
		}
	}
	n.node.Sysctl(t, "ipv4/ip_forward", "1")
	n.node.Sysctl(t, "ipv6/conf/all/forwarding", "1")
	n.node.IP(t,
		"link add uplink type veth peer name eth0 netns "+n.outside.Path(),
		"link add cni0 type bridge", "link set cni0 type bridge mcast_snooping 0",
		"link add veth1 type veth peer name eth0 netns "+n.pod1.Path(), "link set veth1 master cni0 up",
		"link add veth2 type veth peer name eth0 netns "+n.pod2.Path(), "link set veth2 master cni0 up",
		"link add routed type veth peer name eth0 netns "+n.routed.Path(), "link set routed up",
		"link set uplink up", "link set cni0 up",
		"addr add 192.0.2.1/24 dev uplink", "addr add 2001:db8::1/64 dev uplink nodad",
		"addr add 10.244.1.1/24 dev cni0", "addr add fd00:244:0:1::1/64 dev cni0 nodad",
		"addr add fd00:244:0:1::1/128 dev routed nodad",
		"route add default via 192.0.2.2", "route add default via 2001:db8::2",
		"route add 10.244.1.13/32 dev routed", "route add fd00:244:0:1::13/128 dev routed",
		"link add twill.1 type vxlan id 1 dstport 8472 local 192.0.2.1 dev uplink nolearning",
		"link add twill-v6.1 type vxlan id 1 dstport 8472 local 2001:db8::1 dev uplink nolearning udp6zerocsumrx",
		"link add foreign type vxlan id 7 dstport 8472 local 192.0.2.1 dev uplink nolearning",
		"link set twill.1 up", "link set twill-v6.1 up", "link set foreign up",
	)
	for _, p := range []struct {
		ns namespace
		at func(hosts) netip.Addr
	}{
		{n.pod1, func(h hosts) netip.Addr { return h.pod1 }}, {n.pod2, func(h hosts) netip.Addr { return h.pod2 }},
		{n.routed, func(h hosts) netip.Addr { return h.routed }},
	} {
		p.ns.IP(t, "link set eth0 up")
		for f, h := range at {
			p.ns.IP(t, fmt.Sprintf("addr add %s/%d dev eth0 nodad", p.at(h), []int{24, 64}[f]),
				fmt.Sprintf("route add default via %s dev eth0 onlink", h.gateway))
		}
	}
	n.routed.IP(t, "addr flush dev eth0 scope global")
	n.routed.IP(t, "addr add 10.244.1.13/32 dev eth0", "addr add fd00:244:0:1::13/128 dev eth0 nodad",
		"route replace default via 10.244.1.1 dev eth0 onlink", "route replace default via fd00:244:0:1::1 dev eth0 onlink")
	n.outside.IP(t, "link set eth0 up")
	for f, h := range at {
		for _, a := range []netip.Addr{h.peer, h.second, h.stranger} {
			n.outside.IP(t, fmt.Sprintf("addr add %s/%d dev eth0 nodad", a, []int{24, 64}[f]))
		}
		n.outside.IP(t, fmt.Sprintf("addr add %s/%d dev lo", h.external, h.external.BitLen()))
	}
	// Pods to the outside are masqueraded.
	n.node.Pipe(t, `table inet nat {
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname "uplink" ip saddr 10.244.0.0/16 masquerade
		oifname "uplink" ip6 saddr fd00:244::/48 masquerade
	}
}`, "nft", "-f", "-")
	n.node.reach(t, state(dual,
		permit("192.0.2.2"), permit("192.0.2.2", "10.244.2.0/24"), permit("192.0.2.2", "fd00:244:0:2::/64"),
		permit("2001:db8::2"), permit("2001:db8::2", "10.244.2.0/24"), permit("2001:db8::2", "fd00:244:0:2::/64"),
		pod("veth1", "10.244.1.11", "fd00:244:0:1::11"), pod("routed", "10.244.1.13", "fd00:244:0:1::13"),
	))
	return n
}

// without conntrack, IPv6 fragments are not put together before the guard.
func (n topology) withoutConntrack(t *testing.T) {
	t.Helper()
	n.node.Run(t, "nft", "delete", "table", "inet", "nat")
}

func (n topology) drops(t *testing.T) map[string]uint64 {
	t.Helper()
	d, err := n.node.tables().Drops(t.Context())
	require.NoError(t, err)
	return d
}

// dropped fails unless what send sends is dropped, once, for the reason.
func (n topology) dropped(t *testing.T, r hygiene.Reason, send func()) {
	t.Helper()
	want := n.drops(t)
	want[string(r)]++
	send()
	n.counted(t, want)
}

// counted waits for these counters.
func (n topology) counted(t *testing.T, want map[string]uint64) {
	t.Helper()
	have := n.drops(t)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && !maps.Equal(want, have); {
		have = n.drops(t)
	}
	require.Equal(t, want, have)
}

// passes fails unless what send sends arrives.
func (n topology) passes(t *testing.T, at tap, text string, send func()) {
	t.Helper()
	want := n.drops(t)
	send()
	at.awaits(t, text)
	require.Equal(t, want, n.drops(t), text)
}

// Each inner family in each tunnel.
func TestPeersAndStrangers(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	devices := subnet.PerFamily[string]{"twill.1", "twill-v6.1"}
	for o, outer := range at {
		device := n.node.tap(t, devices[o])
		send := func(from netip.Addr, vni byte, f []byte) func() {
			return func() { n.outside.send(t, from, outer.uplink, 8472, vxlan(vni, f)) }
		}
		for i, in := range at {
			text := func(s string) string { return fmt.Sprintf("%s, %s in %s", s, versions[i], versions[o]) }
			n.passes(t, device, text("a peer's pod"), send(outer.peer, 1, inner(in.remote, in.pod1, text("a peer's pod"))))
			n.passes(t, device, text("a peer's client"), send(outer.peer, 1, inner(in.external, in.pod1, text("a peer's client"))))
			n.dropped(t, hygiene.ReasonStranger, send(outer.stranger, 1, inner(in.remote, in.pod1, "stranger")))
			n.dropped(t, hygiene.ReasonStranger, send(outer.stranger, 1, inner(in.external, in.pod1, "stranger")))
			n.dropped(t, hygiene.ReasonStranger, send(outer.second, 1, inner(in.remote, in.pod1, "not the announced address")))
			n.dropped(t, hygiene.ReasonInnerSource, send(outer.peer, 1, inner(in.other, in.pod1, "another's subnet")))
			n.dropped(t, hygiene.ReasonInnerSource, send(outer.peer, 1, inner(in.pod2, in.pod1, "our own subnet")))
			n.dropped(t, hygiene.ReasonInnerSource, send(outer.peer, 1, inner(in.own, in.pod1, "our own address")))
			tagged := inner(in.other, in.pod1, "tagged")
			n.dropped(t, hygiene.ReasonInnerProtocol, send(outer.peer, 1,
				append(append(append([]byte{}, tagged[:12]...), 0x81, 0, 0, 0), tagged[12:]...)))
			cut := inner(in.remote, in.pod1, "")
			n.dropped(t, hygiene.ReasonInnerSource, send(outer.peer, 1, cut[:14+8]))
			n.dropped(t, hygiene.ReasonInnerProtocol, send(outer.peer, 1, cut[:13]))
		}
		n.dropped(t, hygiene.ReasonInnerProtocol, send(outer.peer, 1, frame(broadcast, 0x8847, []byte("MPLS"))))
		n.passes(t, device, "ARP of a peer", send(outer.peer, 1, frame(broadcast, typeARP, arp(1, at[0].remote, at[0].own), []byte("ARP of a peer"))))
		n.dropped(t, hygiene.ReasonStranger, send(outer.stranger, 1, frame(broadcast, typeARP, arp(1, at[0].remote, at[0].own))))
	}
}

// Others on our port: another VNI is none of our business, nor are datagrams
// that are no VXLAN.
func TestForeignVNI(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	foreign := n.node.tap(t, "foreign")
	uplink := n.node.tap(t, "uplink")
	for _, from := range []netip.Addr{at[0].peer, at[0].stranger} {
		text := "by " + from.String()
		n.passes(t, foreign, text, func() {
			n.outside.send(t, from, at[0].uplink, 8472, vxlan(7, inner(at[0].pod1, at[0].own, text)))
		})
		n.passes(t, uplink, "short", func() { n.outside.send(t, from, at[0].uplink, 8472, []byte("short")) })
	}
	// A socket can have the port where we have no tunnel of its family.
	n.node.Run(t, "ip", "link", "del", "twill-v6.1")
	n.passes(t, uplink, "tiny", func() { n.outside.send(t, at[1].stranger, at[1].uplink, 8472, []byte("tiny")) })
}

func TestFragments(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	v4, v6 := n.node.tap(t, "twill.1"), n.node.tap(t, "twill-v6.1")
	long := strings.Repeat("x", 1300)
	payload := func(i int, source netip.Addr, text string) []byte {
		return udp(8472, vxlan(1, inner(source, at[i].pod1, text+long)))
	}
	check := func(conntrack bool) {
		shortV6 := hygiene.ReasonFragment // of what comes in pieces, where nobody puts them together
		if conntrack {
			shortV6 = hygiene.ReasonStranger
		}
		for i, in := range at {
			text := fmt.Sprintf("%s, conntrack %t", versions[i], conntrack)
			send4 := func(from netip.Addr, p []byte, first int) func() {
				return func() { n.outside.sendRaw(t, at[0].uplink, fragmented4(from, at[0].uplink, p, first)...) }
			}
			send6 := func(from netip.Addr, p []byte, first int) func() {
				return func() {
					n.outside.sendRaw(t, at[1].uplink, fragmented(from, at[1].uplink, unix.IPPROTO_UDP, p, first)...)
				}
			}
			n.passes(t, v4, "short first "+text, send4(at[0].peer, payload(i, in.remote, "short first "+text), 8))
			n.dropped(t, hygiene.ReasonStranger, send4(at[0].stranger, payload(i, in.remote, ""), 8))
			n.dropped(t, hygiene.ReasonInnerSource, send4(at[0].peer, payload(i, in.other, ""), 8))
			n.dropped(t, hygiene.ReasonInnerSource, send4(at[0].peer, payload(i, in.other, ""), 40))

			n.passes(t, v6, "v6 "+text, send6(at[1].peer, payload(i, in.remote, "v6 "+text), 1200))
			n.dropped(t, hygiene.ReasonStranger, send6(at[1].stranger, payload(i, in.remote, ""), 1200))
			n.dropped(t, hygiene.ReasonInnerSource, send6(at[1].peer, payload(i, in.other, ""), 1200))
			n.dropped(t, shortV6, send6(at[1].stranger, payload(i, in.remote, ""), 8))
		}
	}
	check(true)
	n.withoutConntrack(t)
	check(false)
	// The inner source, then the ethertype, are in the second fragment.
	for i, first := range []int{40, 24} {
		reason := []hygiene.Reason{hygiene.ReasonInnerSource, hygiene.ReasonInnerProtocol}[i]
		n.dropped(t, reason, func() {
			n.outside.sendRaw(t, at[1].uplink, fragmented(at[1].peer, at[1].uplink, unix.IPPROTO_UDP, payload(0, at[0].other, ""), first)...)
		})
	}
	// The UDP header is in the second fragment, behind destination options.
	options := append([]byte{unix.IPPROTO_UDP, 3, 1, 28}, make([]byte, 28)...)
	n.dropped(t, hygiene.ReasonFragment, func() {
		n.outside.sendRaw(t, at[1].uplink, fragmented(at[1].stranger, at[1].uplink, unix.IPPROTO_DSTOPTS,
			append(options, payload(0, at[0].remote, "")...), 8)...)
	})
}

func TestPodsToVTEP(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	outside := n.outside.tap(t, "eth0")
	for f, h := range at {
		send := func(to netip.Addr, port uint16, payload []byte) func() {
			return func() { n.pod1.send(t, h.pod1, to, port, payload) }
		}
		tunnelled := vxlan(1, inner(h.remote, h.pod2, "tunnelled"))
		n.dropped(t, hygiene.ReasonPodToVTEP, send(h.uplink, 8472, tunnelled))
		n.dropped(t, hygiene.ReasonPodToVTEP, send(h.gateway, 8472, tunnelled))
		n.dropped(t, hygiene.ReasonPodToVTEP, send(h.uplink, 8472, vxlan(7, nil)))
		n.dropped(t, hygiene.ReasonPodToVTEP, send(h.peer, 8472, tunnelled))
		n.dropped(t, hygiene.ReasonPodToVTEP, send(h.peer, 8472, vxlan(7, nil)))
		n.dropped(t, hygiene.ReasonPodToVTEP, send(h.second, 8472, tunnelled))
		n.dropped(t, hygiene.ReasonPodToVTEP, send(h.external, 8472, tunnelled))

		text := "a pod's business " + versions[f]
		n.passes(t, outside, text, send(h.peer, 4789, []byte(text)))
		text = "VXLAN of a pod's own " + versions[f]
		n.passes(t, outside, text, send(h.stranger, 8472, vxlan(9, []byte(text))))
		text = "port and no VNI " + versions[f]
		n.passes(t, outside, text, send(h.external, 8472, []byte(text)))
		text = "the node itself " + versions[f]
		n.passes(t, outside, text, func() { n.node.send(t, h.uplink, h.peer, 8472, vxlan(1, []byte(text))) })
	}
	// With addresses that each pod may use, whatever the VNI.
	local, none4, none6 := addr("fe80::bad"), addr("0.0.0.0"), addr("::")
	for _, w := range [][2]netip.Addr{
		{local, addr("fe80::1")}, {local, at[1].uplink}, {none6, at[1].uplink}, {none4, addr("255.255.255.255")},
	} {
		for _, vni := range []byte{1, 7} {
			p := ipPacket(w[0], w[1], unix.IPPROTO_UDP, udp(8472, vxlan(vni, inner(at[0].remote, at[0].pod2, "tunnelled"))))
			n.dropped(t, hygiene.ReasonPodToVTEP, func() { n.pod1.sendFrame(t, "eth0", frame(broadcast, etherType(w[0]), p)) })
			n.dropped(t, hygiene.ReasonPodToVTEP, func() { n.routed.sendFrame(t, "eth0", frame(broadcast, etherType(w[0]), p)) })
		}
	}
	// To a name for a peer that is not its address: destination NAT.
	n.node.Pipe(t, `table ip translate {
	chain prerouting {
		type nat hook prerouting priority dstnat
		ip daddr 203.0.113.1 udp dport 53 dnat to 192.0.2.2:8472
	}
}`, "nft", "-f", "-")
	n.dropped(t, hygiene.ReasonPodToVTEP, func() { n.pod1.send(t, at[0].pod1, addr("203.0.113.1"), 53, vxlan(1, nil)) })
	// In fragments.
	n.dropped(t, hygiene.ReasonPodToVTEP, func() {
		n.pod1.sendRaw(t, at[0].peer, fragmented4(at[0].pod1, at[0].peer, udp(8472, vxlan(1, make([]byte, 100))), 8)...)
	})
	n.dropped(t, hygiene.ReasonPodToVTEP, func() {
		n.pod1.sendRaw(t, at[1].peer, fragmented(at[1].pod1, at[1].peer, unix.IPPROTO_UDP, udp(8472, vxlan(1, make([]byte, 100))), 8)...)
	})
}

// On the bridge, where pods meet without the node's routing.
func TestSpoofing(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	n.withoutConntrack(t) // it takes fragments on the bridge too, where br_netfilter is
	pod2 := n.pod2.tap(t, "eth0")
	all := addr("ff02::1")
	local, other := addr("fe80::11"), at[1].pod2
	advertise := func(from, target netip.Addr, text string) []byte {
		return frame(broadcast, typeIPv6, ipPacket(from, all, unix.IPPROTO_ICMPV6,
			icmp6(from, all, 136, append(append([]byte{0x20, 0, 0, 0}, target.AsSlice()...), text...))))
	}
	solicit := func(from netip.Addr, text string) []byte {
		return frame(broadcast, typeIPv6, ipPacket(from, all, unix.IPPROTO_ICMPV6,
			icmp6(from, all, 135, append(append(make([]byte, 4), at[1].gateway.AsSlice()...), text...))))
	}
	icmp := func(from netip.Addr, kind byte, text string) []byte {
		return frame(broadcast, typeIPv6, ipPacket(from, all, unix.IPPROTO_ICMPV6, icmp6(from, all, kind, append(make([]byte, 12), text...))))
	}
	none4, none6 := addr("0.0.0.0"), addr("::")
	for text, make := range map[string]func(string) []byte{
		"own IPv4":            func(s string) []byte { return inner(at[0].pod1, at[0].pod2, s) },
		"own IPv6":            func(s string) []byte { return inner(at[1].pod1, at[1].pod2, s) },
		"link-local IPv6":     func(s string) []byte { return inner(local, at[1].pod2, s) },
		"DHCP":                func(s string) []byte { return inner(none4, addr("255.255.255.255"), s) },
		"own ARP":             func(s string) []byte { return frame(broadcast, typeARP, arp(2, at[0].pod1, at[0].pod1), []byte(s)) },
		"ARP probe":           func(s string) []byte { return frame(broadcast, typeARP, arp(1, none4, at[0].pod1), []byte(s)) },
		"own advertisement":   func(s string) []byte { return advertise(at[1].pod1, at[1].pod1, s) },
		"link-local's":        func(s string) []byte { return advertise(local, local, s) },
		"own solicitation":    func(s string) []byte { return solicit(at[1].pod1, s) },
		"DAD":                 func(s string) []byte { return solicit(none6, s) },
		"router solicitation": func(s string) []byte { return icmp(local, 133, s) },
		"echo request":        func(s string) []byte { return icmp(at[1].pod1, 128, s) },
		"neither IP nor ARP":  func(s string) []byte { return frame(broadcast, 0x88cc, []byte(s)) },
		"own IPv6 in a fragment": func(s string) []byte {
			return frame(broadcast, typeIPv6, fragmented(at[1].pod1, at[1].pod2, unix.IPPROTO_ICMPV6, []byte("12345678"+s), 8)[1])
		},
	} {
		n.passes(t, pod2, text, func() { n.pod1.sendFrame(t, "eth0", make(text)) })
	}
	vlan := func(kind int, f []byte) []byte {
		return append(append(append([]byte{}, f[:12]...), byte(kind>>8), byte(kind), 0, 0), f[12:]...)
	}
	arpOf := func(format ...byte) []byte {
		f := frame(broadcast, typeARP, arp(2, at[0].pod1, at[0].pod1))
		copy(f[14:], format)
		return f
	}
	for text, f := range map[string][]byte{
		"another's IPv4":                inner(at[0].pod2, at[0].pod1, ""),
		"the node's IPv4":               inner(at[0].gateway, at[0].pod2, ""),
		"outside IPv4":                  inner(at[0].external, at[0].pod2, ""),
		"a routed pod's IPv4":           inner(at[0].routed, at[0].pod2, ""),
		"another's IPv6":                inner(at[1].pod2, at[1].pod2, ""),
		"the node's IPv6":               inner(at[1].gateway, at[1].pod2, ""),
		"another's ARP":                 frame(broadcast, typeARP, arp(2, at[0].pod2, at[0].pod2)),
		"the gateway's ARP":             frame(broadcast, typeARP, arp(1, at[0].gateway, at[0].gateway)),
		"ARP, IEEE 802":                 arpOf(0, 6),
		"ARP, long addresses":           arpOf(0, 1, 8, 0, 8, 4),
		"another's solicitation":        solicit(other, ""),
		"another's advertisement":       advertise(at[1].pod1, other, ""),
		"another's, link-local":         advertise(local, at[1].gateway, ""),
		"an advertisement cut":          icmp(at[1].pod1, 136, ""),
		"router advertisement":          icmp(local, 134, ""),
		"redirect":                      icmp(local, 137, ""),
		"IPv4 with VLAN 0":              vlan(typeVLAN, inner(at[0].pod2, at[0].pod1, "")),
		"ARP with VLAN 0":               vlan(typeVLAN, frame(broadcast, typeARP, arp(2, at[0].gateway, at[0].pod2))),
		"own IPv4 with VLAN 0":          vlan(typeVLAN, inner(at[0].pod1, at[0].pod2, "")),
		"IPv4 with 802.1ad":             vlan(0x88a8, inner(at[0].pod2, at[0].pod1, "")),
		"IPv4 with both":                vlan(0x88a8, vlan(typeVLAN, inner(at[0].pod2, at[0].pod1, ""))),
		"another's advertisement, more": advertise(local, other, "and options"),
		"another's IPv6 in a fragment": frame(broadcast, typeIPv6,
			fragmented(at[1].pod2, at[1].pod1, unix.IPPROTO_UDP, []byte("12345678rest"), 8)[1]),
	} {
		t.Log(text)
		n.dropped(t, hygiene.ReasonSpoofedSource, func() { n.pod1.sendFrame(t, "eth0", f) })
	}
	// Who is not guarded may do as it likes.
	pod1 := n.pod1.tap(t, "eth0")
	n.passes(t, pod1, "unguarded", func() { n.pod2.sendFrame(t, "eth0", inner(at[0].gateway, at[0].pod1, "unguarded")) })
}

func TestSpoofingWithoutBridge(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	pod2 := n.pod2.tap(t, "eth0")
	for f, h := range at {
		text := "a routed pod " + versions[f]
		n.passes(t, pod2, text, func() { n.routed.send(t, h.routed, h.pod2, 9000, []byte(text)) })
		for _, from := range []netip.Addr{h.pod1, h.gateway, h.external, h.peer} {
			n.dropped(t, hygiene.ReasonSpoofedSource, func() {
				n.routed.sendRaw(t, h.pod2, ipPacket(from, h.pod2, unix.IPPROTO_UDP, udp(9000, []byte("spoofed"))))
			})
		}
	}
}
