package kernel

import (
	"context"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

// batchSize is how many changes share a send and a receive: two system calls
// are little then, beside what the kernel does for each. The answers must fit
// into the socket, also when all are errors.
const batchSize = 128

// enqueue has the message of a change wait for flush.
func (b *batch) enqueue(ctx context.Context, i int) {
	err := b.encode(ctx, b.changes[i])
	switch {
	case err == nil:
		b.waiting = append(b.waiting, i)
	case b.changes[i].Want == nil:
		b.done(i, unlessGone(err))
	default:
		b.done(i, err)
	}
}

// flush sends what waits. The kernel makes the changes one after the other and
// answers each that fails, though only the last asks for an answer
// (netlink_rcv_skb in net/netlink/af_netlink.c): what has none by then is done.
func (b *batch) flush(ctx context.Context) {
	if len(b.waiting) == 0 {
		return
	}
	refused := make([]error, len(b.waiting))
	err := ctx.Err()
	if err == nil {
		b.out.flag(unix.NLM_F_ACK)
		err = b.k.socket.ask(&b.out, func(n int, answer message) { refused[n] = answer.err() })
	}
	for n, i := range b.waiting {
		if refused[n] != nil {
			b.done(i, b.decide(ctx, b.changes[i], refused[n]))
		} else {
			b.done(i, err)
		}
	}
	b.out.reset()
	b.waiting = b.waiting[:0]
}

// decide returns what becomes of a change that the kernel refused as it was
// asked for.
func (b *batch) decide(ctx context.Context, c backend.Change, refused error) error {
	if c.Want == nil {
		return unlessGone(refused)
	}
	if r, ok := c.Want.(backend.Route); ok {
		return b.decideRoute(ctx, c.Have, r, refused)
	}
	return refused
}

// encode adds the one message that makes a change, or none and says why.
func (b *batch) encode(ctx context.Context, c backend.Change) error {
	if r, ok := object(c).(backend.Route); ok {
		if c.Want == nil {
			return b.encodeNoRoute(ctx, r)
		}
		return b.encodeRoute(&b.out, r, routeMode(c.Have))
	}
	d, err := b.own(backend.LinkOf(object(c)))
	if err != nil {
		return err
	}
	typ, flags := 0, unix.NLM_F_CREATE|unix.NLM_F_REPLACE
	if c.Want == nil {
		typ, flags = 1, 0 // RTM_DEL… comes after RTM_NEW…
	}
	switch o := object(c).(type) {
	case backend.Address:
		b.out.address(unix.RTM_NEWADDR+typ, flags, o, d.index)
	case backend.Neighbor:
		b.out.neighbor(unix.RTM_NEWNEIGH+typ, flags, o, d.index)
	case backend.FDB:
		if h, ok := c.Have.(backend.FDB); ok && c.Want != nil && !h.Dst.IsValid() {
			// Of several destinations the kernel would replace the first.
			if err := b.deleteFDB(h, d); err != nil {
				return err
			}
		}
		if c.Want == nil {
			o.Dst = netip.Addr{} // all that the MAC has
		}
		b.out.fdb(unix.RTM_NEWNEIGH+typ, flags, o, d.index, 0)
	}
	return nil
}

// deleteFDB deletes at once all that a MAC has.
func (b *batch) deleteFDB(f backend.FDB, d device) error {
	var m messages
	m.fdb(unix.RTM_DELNEIGH, 0, backend.FDB{MAC: f.MAC}, d.index, 0)
	if err := b.k.do(&m); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// address adds a message with struct ifaddrmsg. The scope is global: a
// packet of the host itself into the overlay must have this address as its
// source, so that the answer comes back the same way. No duplicate address
// detection (RFC 4862, 5.4): nobody would answer, and the address would be
// tentative meanwhile.
func (m *messages) address(typ, flags int, a backend.Address, link int) {
	h := nl.NewIfAddrmsg(int(family(a.Prefix.Addr())))
	h.Index, h.Prefixlen, h.Scope = uint32(link), uint8(a.Prefix.Bits()), unix.RT_SCOPE_UNIVERSE
	if a.Prefix.Addr().Is6() {
		h.Flags = unix.IFA_F_NODAD
	}
	m.begin(typ, flags, h.Serialize())
	m.addr(unix.IFA_LOCAL, a.Prefix.Addr())
	m.addr(unix.IFA_ADDRESS, a.Prefix.Addr())
}

// neighbor adds a message with struct ndmsg.
func (m *messages) neighbor(typ, flags int, n backend.Neighbor, link int) {
	h := netlink.Ndmsg{Family: family(n.IP), Index: uint32(link), State: netlink.NUD_PERMANENT}
	m.begin(typ, flags, h.Serialize())
	m.addr(netlink.NDA_DST, n.IP)
	m.bytes(netlink.NDA_LLADDR, n.MAC[:])
}

// fdb adds a message with struct ndmsg. Packets leave by the interface via, or
// as the route to the destination says when that is 0.
func (m *messages) fdb(typ, flags int, f backend.FDB, link, via int) {
	h := netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(link), State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF}
	m.begin(typ, flags, h.Serialize())
	m.bytes(netlink.NDA_LLADDR, f.MAC[:])
	if f.Dst.IsValid() {
		m.addr(netlink.NDA_DST, f.Dst)
	}
	if via != 0 {
		m.uint32(netlink.NDA_IFINDEX, uint32(via))
	}
}
