package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// families are the kernel's numbers of the address families.
var families = subnet.PerFamily[uint8]{unix.AF_INET, unix.AF_INET6}

// family returns the kernel's number of the family of a.
func family(a netip.Addr) uint8 { return families[subnet.FamilyOf(a)] }

// route is a route of any protocol.
type route struct {
	family, protocol, table, kind, tos uint8
	flags                              uint32 // RTM_F_*
	dst                                netip.Prefix
	src                                netip.Addr // preferred source
	metric                             uint32
	hops                               []hop
}

// hop is one next hop of a route.
type hop struct {
	via    netip.Addr
	link   int
	onLink bool
}

// key returns the identity of r in the model.
func (r route) key() backend.Key {
	return backend.Key{Kind: backend.KindRoute, Prefix: r.dst, Metric: r.metric}
}

// object returns r as the model has it. Of a route that the model cannot
// express (several next hops, another type) it has the key, and nothing that
// anyone could want.
func (r route) object(name func(index int) string) backend.Route {
	o := backend.Route{Dst: r.dst, Metric: r.metric}
	switch {
	case r.kind == unix.RTN_BLACKHOLE:
		o.Blackhole = true
	case r.kind == unix.RTN_UNICAST && len(r.hops) == 1:
		o.Link, o.Via, o.OnLink = name(r.hops[0].link), r.hops[0].via, r.hops[0].onLink
	}
	return o
}

// decodeRoute decodes RTM_NEWROUTE and RTM_DELROUTE (struct rtmsg,
// rtnetlink(7)).
func decodeRoute(msg []byte) (route, bool, error) {
	attrs := after("route", msg, unix.SizeofRtMsg)
	if attrs.err != nil {
		return route{}, false, attrs.err
	}
	h := nl.DeserializeRtMsg(msg)
	r := route{family: h.Family, protocol: h.Protocol, table: h.Table, kind: h.Type, tos: h.Tos, flags: h.Flags}
	var dst netip.Addr
	switch h.Family {
	case unix.AF_INET:
		dst = netip.IPv4Unspecified()
	case unix.AF_INET6:
		dst = netip.IPv6Unspecified()
	default:
		return route{}, false, nil
	}
	single := hop{onLink: h.Flags&unix.RTNH_F_ONLINK != 0}
	for attrs.next() {
		switch attrs.typ {
		case unix.RTA_DST:
			dst = attrs.addr()
		case unix.RTA_PREFSRC:
			r.src = attrs.addr()
		case unix.RTA_PRIORITY:
			r.metric = attrs.uint32()
		case unix.RTA_MULTIPATH:
			var err error
			if r.hops, err = decodeHops(attrs.value); err != nil {
				return route{}, false, err
			}
		default:
			single.decode(&attrs)
		}
	}
	if single.link != 0 {
		r.hops = append(r.hops, single)
	}
	r.dst = netip.PrefixFrom(dst, int(h.Dst_len))
	return r, r.dst.IsValid(), attrs.err
}

// decode takes over an attribute that a route and each of several next hops
// can have.
func (h *hop) decode(a *attributes) {
	switch a.typ {
	case unix.RTA_OIF:
		h.link = int(a.uint32())
	case unix.RTA_GATEWAY:
		h.via = a.addr()
	case unix.RTA_VIA: // struct rtvia: a gateway of the other family
		h.via, _ = netip.AddrFromSlice(a.value[min(2, len(a.value)):])
	}
}

// decodeHops decodes RTA_MULTIPATH, a list of struct rtnexthop (rtnetlink(7)).
func decodeHops(b []byte) ([]hop, error) {
	var hops []hop
	for len(b) >= unix.SizeofRtNexthop {
		size := int(native.Uint16(b))
		attrs := after("next hop", b[:min(size, len(b))], unix.SizeofRtNexthop)
		h := hop{link: int(native.Uint32(b[4:])), onLink: b[2]&unix.RTNH_F_ONLINK != 0}
		for attrs.next() {
			h.decode(&attrs)
		}
		if attrs.err != nil {
			return nil, attrs.err
		}
		hops = append(hops, h)
		b = b[min(align(size), len(b)):]
	}
	return hops, nil
}

// whose routes to dump.
type whose int

const (
	ours   whose = iota // of our protocol
	others              // of any other
	anyone
)

// routes dumps routes of the main table. The kernel filters for one protocol,
// and has no filter against one: ours, which may be 20 000, are not decoded
// where others' are asked for.
func (k *Kernel) routes(ctx context.Context, w whose) ([]route, error) {
	var protocol uint8 // 0: any
	if w == ours {
		protocol = uint8(k.cfg.Protocol)
	}
	var all []route
	for _, f := range subnet.Families {
		h := &nl.RtMsg{RtMsg: unix.RtMsg{Family: families[f], Table: unix.RT_TABLE_MAIN, Protocol: protocol}}
		rs, err := dump(ctx, k, request(unix.RTM_GETROUTE, 0, h), unix.RTM_NEWROUTE, func(msg []byte) (route, bool, error) {
			if mine := len(msg) >= unix.SizeofRtMsg && int(nl.DeserializeRtMsg(msg).Protocol) == k.cfg.Protocol; w == ours && !mine || w == others && mine {
				return route{}, false, nil
			}
			r, ok, err := decodeRoute(msg)
			// A kernel without IPv6 answers with all families that it has.
			ok = ok && r.family == families[f] && r.table == unix.RT_TABLE_MAIN && r.flags&unix.RTM_F_CLONED == 0
			return r, ok, err
		})
		// No link was ever up here, and the table not made yet (inet_dump_fib).
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("reading %s routes: %w", f, err)
		}
		all = append(all, rs...)
	}
	return all, nil
}

// routeMode says how to put a route: one that is not known to be there must not
// replace that of another.
func routeMode(have backend.Object) int {
	if have == nil {
		return unix.NLM_F_EXCL
	}
	return unix.NLM_F_REPLACE // in one step: there is no moment without a route
}

// route adds a message with struct rtmsg about r; the rest of h is given.
func (m *messages) route(typ, flags int, h unix.RtMsg, r backend.Route) {
	h.Family, h.Dst_len, h.Table = family(r.Dst.Addr()), uint8(r.Dst.Bits()), unix.RT_TABLE_MAIN
	m.begin(typ, flags, (&nl.RtMsg{RtMsg: h}).Serialize())
	m.addr(unix.RTA_DST, r.Dst.Addr())
	if r.Metric != 0 {
		m.uint32(unix.RTA_PRIORITY, r.Metric)
	}
}

// hop adds h to a route message.
func (m *messages) hop(h hop) {
	m.uint32(unix.RTA_OIF, uint32(h.link))
	if h.via.IsValid() {
		m.addr(unix.RTA_GATEWAY, h.via)
	}
}

// encodeRoute adds the message that puts r.
func (b *batch) encodeRoute(m *messages, r backend.Route, mode int) error {
	if r.Dst.Addr().Is6() && r.Metric == 0 {
		return errors.New("an IPv6 route needs a metric: the kernel would make 0 into 1024")
	}
	h := unix.RtMsg{Protocol: uint8(b.k.cfg.Protocol), Scope: unix.RT_SCOPE_UNIVERSE, Type: unix.RTN_UNICAST}
	if r.Blackhole {
		h.Type = unix.RTN_BLACKHOLE
		m.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|mode, h, r)
		return nil
	}
	d, err := b.device(r.Link)
	if err != nil {
		return err
	}
	if !r.Via.IsValid() && r.Dst.Addr().Is4() {
		h.Scope = unix.RT_SCOPE_LINK // as for any destination without a router
	}
	if r.OnLink {
		h.Flags = unix.RTNH_F_ONLINK
	}
	if !d.ours {
		b.k.carry(d.index) // before the kernel does: its notification is not told to us
	}
	m.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|mode, h, r)
	m.hop(hop{via: r.Via, link: d.index})
	return nil
}

// putRoute puts r at once.
func (b *batch) putRoute(r backend.Route, mode int) error {
	var m messages
	if err := b.encodeRoute(&m, r, mode); err != nil {
		return err
	}
	return b.makeWay(r, mode, b.k.do(&m))
}

// decideRoute returns what becomes of a route that the kernel refused.
func (b *batch) decideRoute(ctx context.Context, have backend.Object, r backend.Route, refused error) error {
	err := b.makeWay(r, routeMode(have), refused)
	if have != nil || !errors.Is(err, unix.EEXIST) {
		return err
	}
	switch other, found, lookup := b.inTheWay(ctx, r); {
	case lookup != nil:
		return lookup
	case !found:
		return err
	case int(other.protocol) != b.k.cfg.Protocol:
		return b.shadowed(other)
	case other.object(b.name) == r:
		return nil
	}
	return b.putRoute(r, unix.NLM_F_REPLACE) // ours, of which the caller did not know
}

// makeWay returns what becomes of an IPv6 route that was refused because of its
// gateway. IPv6 takes none, on link or not, which a route already leads to by
// another device (ip6_route_check_nh_onlink, net/ipv6/route.c): the very
// route to be replaced does, when a subnet moves from one device to another.
// A route to the gateway alone settles that, and is not needed afterwards.
func (b *batch) makeWay(r backend.Route, mode int, refused error) error {
	if !errors.Is(refused, unix.EINVAL) || !r.OnLink || !r.Via.Is6() || r.Dst.IsSingleIP() {
		return refused
	}
	var there, put, gone messages
	way := backend.Route{Dst: netip.PrefixFrom(r.Via, r.Via.BitLen()), Link: r.Link, Metric: r.Metric}
	err := errors.Join(b.encodeRoute(&there, way, unix.NLM_F_EXCL), b.encodeRoute(&put, r, mode))
	if err != nil || b.k.do(&there) != nil {
		return refused
	}
	gone.route(unix.RTM_DELROUTE, 0, b.k.ofOurs(), way)
	return errors.Join(b.k.do(&put), b.k.do(&gone))
}

// ofOurs begins a message that deletes a route of our protocol.
func (k *Kernel) ofOurs() unix.RtMsg {
	return unix.RtMsg{Protocol: uint8(k.cfg.Protocol), Scope: unix.RT_SCOPE_NOWHERE}
}

// encodeNoRoute adds the message that deletes r by destination, metric and our
// protocol. To the kernel no metric means any: the route without one is looked
// up first (a dump of the table for each batch), and told by its next hop from
// ours with others.
func (b *batch) encodeNoRoute(ctx context.Context, r backend.Route) error {
	h := b.k.ofOurs()
	if r.Metric != 0 {
		b.out.route(unix.RTM_DELROUTE, 0, h, r)
		return nil
	}
	found, ok, err := b.inTheWay(ctx, r)
	if err != nil {
		return err
	}
	if !ok || int(found.protocol) != b.k.cfg.Protocol {
		return unix.ESRCH
	}
	h.Type = found.kind
	b.out.route(unix.RTM_DELROUTE, 0, h, r)
	if len(found.hops) == 1 {
		b.out.hop(found.hops[0])
	}
	return nil
}

// inTheWay returns the route that has the destination and metric of r; ours
// if several have. The table is read once for a batch.
func (b *batch) inTheWay(ctx context.Context, r backend.Route) (found route, ok bool, err error) {
	if b.table == nil {
		all, err := b.k.routes(ctx, anyone)
		if err != nil {
			return route{}, false, err
		}
		b.table = make(map[backend.Key]route, len(all))
		for _, other := range all {
			if known, ok := b.table[other.key()]; !ok || int(known.protocol) != b.k.cfg.Protocol {
				b.table[other.key()] = other
			}
		}
	}
	found, ok = b.table[r.Key()]
	return found, ok, nil
}

// shadowed is the error of a route that a foreign one keeps out.
func (b *batch) shadowed(other route) error {
	protocol := netlink.RouteProtocol(other.protocol).String()
	return fmt.Errorf("a foreign %s of protocol %s takes its place: remove that one (ip route delete %s proto %s metric %d) or choose another network; will retry",
		other.object(b.name), protocol, other.dst, protocol, other.metric)
}
