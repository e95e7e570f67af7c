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
)

// Apply makes the changes in the order given and returns as many errors, nil
// for what is done. One failure holds up nothing but what needs the object.
// What is to be put and is there already, and what is to be deleted and is
// not there, is done. Once ctx is over, the rest is not tried.
func (k *Kernel) Apply(ctx context.Context, changes []backend.Change) []error {
	b := &batch{k: k, devices: map[string]device{}}
	errs := make([]error, len(changes))
	for i, c := range changes {
		err := ctx.Err()
		if err == nil {
			err = b.apply(ctx, c)
		}
		if err != nil {
			errs[i] = fmt.Errorf("%s: %w", doing(c), advise(c, err))
		}
	}
	return errs
}

// doing says what is done, for errors.
func doing(c backend.Change) string {
	verb, o := "adding", c.Want
	switch {
	case c.Want == nil:
		verb, o = "deleting", c.Have
	case c.Have != nil:
		verb = "replacing"
	}
	if k := o.Key(); k.Kind == backend.KindLink {
		return verb + " " + k.String()
	}
	return verb + " " + o.String()
}

// advise adds what can be done about an error that the kernel leaves bare.
func advise(c backend.Change, err error) error {
	key := c.Key()
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: the capability CAP_NET_ADMIN is needed in this network namespace", err)
	case errors.Is(err, unix.EACCES) && key.Kind == backend.KindAddress:
		return fmt.Errorf("%w: IPv6 is off on the link: set net.ipv6.conf.%s.disable_ipv6=0", err, key.Name)
	case errors.Is(err, unix.EOPNOTSUPP) && key.Kind == backend.KindAddress:
		return fmt.Errorf("%w: this kernel has no IPv6 (ipv6.disable=1)", err)
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("%w: the link is down; will retry", err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: the link is not there; will retry", err)
	}
	return err
}

// batch is one call of Apply: what it found out about the kernel is not
// trusted any longer.
type batch struct {
	k       *Kernel
	devices map[string]device
	table   map[backend.Key]route // the main table; nil until it is needed
}

// device returns the interface called name.
func (b *batch) device(name string) (device, error) {
	if d, ok := b.devices[name]; ok {
		return d, nil
	}
	d, err := b.k.device(byName(name))
	if err != nil {
		return device{}, fmt.Errorf("finding link %q: %w", name, err)
	}
	if d.name != name { // the kernel takes alternative names too
		return device{}, fmt.Errorf("finding link %q: it is an alternative name of %s: %w", name, d.name, unix.ENODEV)
	}
	b.devices[name] = d
	return d, nil
}

// own returns the device of ours called name: nothing but routes is put on
// any other.
func (b *batch) own(name string) (device, error) {
	d, err := b.device(name)
	if err == nil && !b.k.owns(d) {
		return device{}, fmt.Errorf("link %s is not a VXLAN device of ours: %w", name, unix.ENODEV)
	}
	return d, err
}

// name returns the name of an interface, "" when there is none.
func (b *batch) name(index int) string {
	if index == 0 {
		return ""
	}
	for _, d := range b.devices {
		if d.index == index {
			return d.name
		}
	}
	d, err := b.k.device(byIndex(index))
	if err != nil {
		return ""
	}
	b.devices[d.name] = d
	return d.name
}

func (b *batch) apply(ctx context.Context, c backend.Change) error {
	if c.Want != nil {
		return b.put(ctx, c.Have, c.Want)
	}
	return unlessGone(b.delete(ctx, c.Have))
}

// unlessGone returns the error of a deletion, nil when what was to be deleted
// is not there.
func unlessGone(err error) error {
	for _, gone := range []error{unix.ENOENT, unix.ESRCH, unix.ENODEV, unix.ENXIO, unix.EADDRNOTAVAIL} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

func (b *batch) put(ctx context.Context, have, want backend.Object) error {
	const replace = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	switch o := want.(type) {
	case backend.Link:
		return b.putLink(ctx, o)
	case backend.Sysctl:
		return b.k.putSysctl(o)
	case backend.Address:
		return b.on(o.Link, func(d device) error {
			return b.k.do(request(unix.RTM_NEWADDR, replace, addressMessage(o, d.index)...))
		})
	case backend.Neighbor:
		return b.on(o.Link, func(d device) error {
			return b.k.do(request(unix.RTM_NEWNEIGH, replace, neighborMessage(o, d.index)...))
		})
	case backend.FDB:
		return b.on(o.Link, func(d device) error {
			if h, ok := have.(backend.FDB); ok && !h.Dst.IsValid() {
				// Of several destinations the kernel would replace the first.
				if err := b.delete(ctx, h); err != nil && !errors.Is(err, unix.ENOENT) {
					return err
				}
			}
			return b.k.do(request(unix.RTM_NEWNEIGH, replace, fdbMessage(o, d.index, 0)...))
		})
	case backend.Route:
		return b.putRoute(ctx, have, o)
	}
	return fmt.Errorf("the kernel has no objects of type %T", want)
}

func (b *batch) delete(ctx context.Context, have backend.Object) error {
	switch o := have.(type) {
	case backend.Link:
		return b.deleteLink(o.Name)
	case backend.Sysctl:
		return nil // what it was before is not known
	case backend.Address:
		return b.on(o.Link, func(d device) error {
			return b.k.do(request(unix.RTM_DELADDR, 0, addressMessage(o, d.index)...))
		})
	case backend.Neighbor:
		return b.on(o.Link, func(d device) error {
			return b.k.do(request(unix.RTM_DELNEIGH, 0, neighborMessage(o, d.index)...))
		})
	case backend.FDB:
		return b.on(o.Link, func(d device) error {
			o.Dst = netip.Addr{} // all that the MAC has
			return b.k.do(request(unix.RTM_DELNEIGH, 0, fdbMessage(o, d.index, 0)...))
		})
	case backend.Route:
		return b.deleteRoute(ctx, o)
	}
	return fmt.Errorf("the kernel has no objects of type %T", have)
}

// on calls f with the device of ours called name.
func (b *batch) on(name string, f func(device) error) error {
	d, err := b.own(name)
	if err != nil {
		return err
	}
	return f(d)
}

// addressMessage is struct ifaddrmsg with attributes. The scope is global: a
// packet of the host itself into the overlay must have this address as its
// source, so that the answer comes back the same way. No duplicate address
// detection (RFC 4862, 5.4): nobody would answer, and the address would be
// tentative meanwhile.
func addressMessage(a backend.Address, link int) []nl.NetlinkRequestData {
	h := nl.NewIfAddrmsg(int(family(a.Prefix.Addr())))
	h.Index, h.Prefixlen, h.Scope = uint32(link), uint8(a.Prefix.Bits()), unix.RT_SCOPE_UNIVERSE
	if a.Prefix.Addr().Is6() {
		h.Flags = unix.IFA_F_NODAD
	}
	ip := a.Prefix.Addr().AsSlice()
	return []nl.NetlinkRequestData{h, nl.NewRtAttr(unix.IFA_LOCAL, ip), nl.NewRtAttr(unix.IFA_ADDRESS, ip)}
}

// neighborMessage is struct ndmsg with attributes.
func neighborMessage(n backend.Neighbor, link int) []nl.NetlinkRequestData {
	return []nl.NetlinkRequestData{
		&netlink.Ndmsg{Family: family(n.IP), Index: uint32(link), State: netlink.NUD_PERMANENT},
		nl.NewRtAttr(netlink.NDA_DST, n.IP.AsSlice()),
		nl.NewRtAttr(netlink.NDA_LLADDR, n.MAC[:]),
	}
}

// fdbMessage is struct ndmsg with attributes. Packets leave by the interface
// via, or as the route to the destination says when that is 0.
func fdbMessage(f backend.FDB, link, via int) []nl.NetlinkRequestData {
	data := []nl.NetlinkRequestData{
		&netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(link), State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF},
		nl.NewRtAttr(netlink.NDA_LLADDR, f.MAC[:]),
	}
	if f.Dst.IsValid() {
		data = append(data, nl.NewRtAttr(netlink.NDA_DST, f.Dst.AsSlice()))
	}
	if via != 0 {
		data = append(data, nl.NewRtAttr(netlink.NDA_IFINDEX, nl.Uint32Attr(uint32(via))))
	}
	return data
}
