package kernel

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

// groups are the notifications that Watch listens to (enum rtnetlink_groups).
// FDB entries come with the neighbours.
var groups = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// subscribe opens a notification socket.
func (k *Kernel) subscribe() (*socket, error) {
	s, err := k.open(unix.NETLINK_ROUTE, unix.SOCK_NONBLOCK, groups...)
	if err != nil {
		return nil, err
	}
	if err := s.dropEchoes(k.port); err != nil {
		s.close()
		return nil, err
	}
	err = s.set(func(fd int) error {
		// A container may lack CAP_NET_ADMIN in the first user namespace, which
		// exceeding net.core.rmem_max takes; then rmem_max must do.
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, k.cfg.ReceiveBuffer)
		if err != nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, k.cfg.ReceiveBuffer)
		}
		return err
	})
	if err != nil {
		s.close()
		return nil, fmt.Errorf("setting the receive buffer of a netlink socket: %w", err)
	}
	return s, nil
}

// maxDeaths bounds how often in a row Watch opens a socket that brings
// nothing.
const maxDeaths = 5

// Watch calls notify for each change in the kernel until ctx is over, which is
// no error. The first event has Resync set: nothing from there on is missed,
// whatever was before must be observed. Further ones with Resync tell that
// notifications were lost, or that the kernel drops things without a word: when
// a link goes down, and when the last IPv4 address of a link is deleted.
//
// Events of what carries our mark have its Key, and the Object as the message
// showed it. What k itself does to routes and neighbours is not told, so that
// an event of one may be older than what k wrote last; the echo of any other own
// write equals what was written. Sysctl
// events come for forwarding and rp_filter of each interface; of other sysctls
// the kernel tells nothing. Notify must return soon.
func (k *Kernel) Watch(ctx context.Context, notify func(backend.Event)) error {
	for deaths := 0; ctx.Err() == nil; deaths++ {
		received, err := k.watchOnce(ctx, notify)
		if ctx.Err() != nil {
			return nil
		}
		if received {
			deaths = 0
		}
		if deaths == maxDeaths {
			return fmt.Errorf("watching the kernel: %w", err)
		}
	}
	return nil
}

// watchOnce watches through one socket until that dies, and reports whether
// it brought anything.
func (k *Kernel) watchOnce(ctx context.Context, notify func(backend.Event)) (received bool, err error) {
	s, err := k.listen()
	if err != nil {
		return false, err
	}
	defer context.AfterFunc(ctx, s.close)()
	defer s.close()

	w := &watcher{k: k, notify: notify, devices: map[int]device{}}
	if err := w.start(ctx); err != nil {
		return false, err
	}
	for {
		b, err := s.receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// Told once, and before what still waits; until that is read the
			// kernel drops all else without a word (af_netlink.c,
			// NETLINK_S_CONGESTED). A new socket begins clean.
			return true, nil
		case err != nil:
			return received, err
		}
		received = true
		for len(b) > 0 {
			var m message
			if m, b, err = cut(b); err == nil {
				err = w.message(m.typ, m.flags, m.data)
			}
			if err != nil {
				notify(backend.Event{Resync: true})
			}
		}
	}
}

// watcher translates the messages of one socket.
type watcher struct {
	k       *Kernel
	notify  func(backend.Event)
	devices map[int]device
}

// start reads what the messages to come refer to. They may be older: what
// they then say wrongly, a later one says again.
func (w *watcher) start(ctx context.Context) error {
	devices, err := w.k.devices(ctx)
	if err != nil {
		return err
	}
	for _, d := range devices {
		w.devices[d.index] = d
	}
	routes, err := w.k.routes(ctx, ours)
	if err != nil {
		return err
	}
	for _, r := range routes {
		w.carry(r)
	}
	w.notify(backend.Event{Resync: true})
	return nil
}

// carry notes the interfaces that r leaves by.
func (w *watcher) carry(r route) {
	for _, h := range r.hops {
		w.k.carry(h.link)
	}
}

func (w *watcher) name(index int) string { return w.devices[index].name }

// own returns the device with that index if it is ours.
func (w *watcher) own(index int) (device, bool) {
	d, ok := w.devices[index]
	return d, ok && d.ours
}

func (w *watcher) message(typ, flags uint16, msg []byte) error {
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return w.link(typ == unix.RTM_DELLINK, msg)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return w.address(typ == unix.RTM_DELADDR, msg)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return w.entry(typ == unix.RTM_DELNEIGH, msg)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return w.route(typ == unix.RTM_DELROUTE, flags&unix.NLM_F_REPLACE != 0, msg)
	case unix.RTM_NEWNETCONF:
		return w.netconf(msg)
	}
	return nil
}

func (w *watcher) link(gone bool, msg []byte) error {
	d, ok, err := w.k.decodeDevice(msg)
	if !ok || err != nil {
		return err
	}
	before, known := w.devices[d.index]
	carries := w.k.carries(d.index, gone)
	if gone {
		delete(w.devices, d.index)
	} else {
		w.devices[d.index] = d
	}
	if known && before.name != d.name {
		w.renamed(before, d)
	}
	// The kernel drops the IPv4 routes of a link that goes down, without a
	// notification (fib_disable_ip in net/ipv4/fib_frontend.c).
	lost := gone || known && before.up() && !d.up()
	if !d.ours {
		if gone || !known || before.shown() != d.shown() {
			w.notify(backend.Event{Host: true, Resync: lost && carries})
		}
		return nil
	}
	e := backend.Event{Key: backend.Key{Kind: backend.KindLink, Name: d.name}, Resync: lost || known && before.name != d.name}
	if !gone {
		e.Object = d.link(w.name(d.parent))
	}
	w.notify(e)
	return nil
}

// renamed tells of devices of ours that go by another name now, or whose
// parent does.
func (w *watcher) renamed(before, now device) {
	if before.ours {
		w.notify(backend.Event{Key: backend.Key{Kind: backend.KindLink, Name: before.name}, Resync: true})
	}
	for _, child := range w.devices {
		if child.parent == now.index && child.ours {
			l := child.link(now.name)
			w.notify(backend.Event{Key: l.Key(), Object: l})
		}
	}
}

func (w *watcher) address(gone bool, msg []byte) error {
	a, ok, err := decodeAddress(msg)
	if !ok || err != nil {
		return err
	}
	// With the last IPv4 address the kernel drops the IPv4 routes, again
	// without a notification, and the neighbours. Whether it was the last is
	// not in the message.
	lost := gone && a.prefix.Addr().Is4()
	d, ours := w.own(a.index)
	switch {
	case !ours:
		w.notify(backend.Event{Host: true, Resync: lost && w.k.carries(a.index, false)})
	case a.ours():
		o := backend.Address{Link: d.name, Prefix: a.prefix}
		e := backend.Event{Key: o.Key(), Resync: lost}
		if !gone {
			e.Object = o
		}
		w.notify(e)
	}
	return nil
}

func (w *watcher) entry(gone bool, msg []byte) error {
	d, ours := w.own(entryIndex(msg))
	if !ours {
		return nil
	}
	e, _, err := decodeEntry(msg)
	if err != nil {
		return err
	}
	key, o, ok := e.object(d)
	if !ok {
		return nil
	}
	if gone {
		o = nil
	}
	w.notify(backend.Event{Key: key, Object: o})
	return nil
}

func (w *watcher) route(gone, replaces bool, msg []byte) error {
	if len(msg) < unix.SizeofRtMsg {
		return errShort("route", msg)
	}
	h := nl.DeserializeRtMsg(msg)
	if h.Table != unix.RT_TABLE_MAIN || h.Flags&unix.RTM_F_CLONED != 0 {
		return nil
	}
	foreign := int(h.Protocol) != w.k.cfg.Protocol
	if foreign && !replaces { // not decoded: a router that learns routes may learn many
		w.notify(backend.Event{Routes: true})
		return nil
	}
	r, ok, err := decodeRoute(msg)
	switch {
	case !ok || err != nil:
		return err
	case foreign: // what it replaces, the message does not say: perhaps ours
		w.notify(backend.Event{Key: r.key(), Routes: true})
		return nil
	case r.tos != 0:
		return nil
	}
	e := backend.Event{Key: r.key()}
	if !gone {
		w.carry(r)
		e.Object = r.object(w.name)
	}
	w.notify(e)
	return nil
}
