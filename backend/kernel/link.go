package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

// vxlanOverhead is what VXLAN adds to a packet: outer IP header, UDP (8),
// VXLAN (8, RFC 7348) and the inner Ethernet header (14).
func vxlanOverhead(l backend.Link) int {
	if l.Local.Is4() {
		return 20 + 30
	}
	return 40 + 30
}

// errFixed: the kernel cannot change this on a living device.
var errFixed = errors.New("not changeable in place")

// putLink creates the device, or alters it where it differs: a living device
// keeps its FDB entries, neighbours and routes, but for the neighbours when
// the MAC changes.
func (b *batch) putLink(ctx context.Context, l backend.Link) error {
	if !l.Local.IsValid() || !b.k.cfg.LinkPattern.MatchString(l.Name) {
		return fmt.Errorf("%s is not a link that we can own: it needs a local address, and a name that matches %s", l, b.k.cfg.LinkPattern)
	}
	delete(b.devices, l.Name) // read it afresh, now and for what comes after
	defer delete(b.devices, l.Name)
	d, err := b.k.device(byName(l.Name))
	switch {
	case errors.Is(err, unix.ENODEV):
		return b.createLink(ctx, l)
	case err != nil:
		return err
	case !d.ours:
		return fmt.Errorf("the name is taken by %s: rename that one or remove it (ip link delete %s); will retry", d.describe(), d.name)
	case l.Replaces(d.link(b.name(d.parent))):
		return b.replaceLink(ctx, l)
	}
	err = b.alterLink(ctx, l, d)
	if errors.Is(err, errFixed) {
		return b.replaceLink(ctx, l)
	}
	return err
}

// describe names a device that is not ours.
func (d device) describe() string {
	if d.kind == "" {
		return "interface " + d.name
	}
	return fmt.Sprintf("%s device %s", d.kind, d.name)
}

func (b *batch) replaceLink(ctx context.Context, l backend.Link) error {
	if err := b.deleteLink(l.Name); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting its predecessor: %w", err)
	}
	return b.createLink(ctx, l)
}

// deleteLink deletes the link if it is still ours.
func (b *batch) deleteLink(name string) error {
	delete(b.devices, name)
	d, err := b.own(name)
	if err != nil {
		return err
	}
	delete(b.devices, name)
	return b.k.do(request(unix.RTM_DELLINK, 0, byIndex(d.index)...))
}

// createLink creates the device, down, and then sets what can be set later.
func (b *batch) createLink(ctx context.Context, l backend.Link) error {
	v := nl.NewRtAttr(nl.IFLA_INFO_DATA, nil)
	v.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(l.VXLAN.VNI))
	v.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, l.VXLAN.Port))
	if l.VXLAN.GBP {
		v.AddRtAttr(nl.IFLA_VXLAN_GBP, nil)
	}
	if err := b.changeable(v, l, device{}); err != nil {
		return err
	}
	err := b.k.do(request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(l.Name)),
		nl.NewRtAttr(unix.IFLA_ADDRESS, l.MAC[:]),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(l.MTU))),
		vxlanInfo(v)))
	if errors.Is(err, unix.EEXIST) {
		return b.rival(ctx, l, err)
	}
	if err != nil {
		return err
	}
	d, err := b.k.device(byName(l.Name))
	if err != nil {
		return err
	}
	return b.alterLink(ctx, l, d)
}

// changeable adds to v what vxlan_changelink takes and have lacks. It refuses
// even unchanged values of the rest (drivers/net/vxlan/vxlan_core.c).
func (b *batch) changeable(v *nl.RtAttr, l backend.Link, have device) error {
	if parent := b.name(have.parent); l.Parent != parent || have.index == 0 {
		index := 0
		if l.Parent != "" {
			p, err := b.device(l.Parent)
			if err != nil {
				return fmt.Errorf("finding the external interface: %w", err)
			}
			index = p.index
		}
		v.AddRtAttr(nl.IFLA_VXLAN_LINK, nl.Uint32Attr(uint32(index)))
	}
	if l.Local != have.local {
		typ := nl.IFLA_VXLAN_LOCAL
		if l.Local.Is6() {
			typ = nl.IFLA_VXLAN_LOCAL6
		}
		v.AddRtAttr(typ, l.Local.AsSlice())
	}
	if l.VXLAN.Learning != have.vxlan.Learning || have.index == 0 {
		on := byte(0)
		if l.VXLAN.Learning {
			on = 1
		}
		v.AddRtAttr(nl.IFLA_VXLAN_LEARNING, []byte{on})
	}
	return nil
}

// alterLink brings the living device d to l, each thing by itself: a refused
// MTU must not keep the link down.
func (b *batch) alterLink(ctx context.Context, l backend.Link, d device) error {
	d, err := b.alterTunnel(ctx, l, d)
	if errors.Is(err, errFixed) {
		return err
	}
	errs := []error{err}
	if l.MTU != d.mtu {
		errs = append(errs, b.setMTU(l, d))
	}
	if l.MAC != d.mac {
		if err := b.set(d, 0, nl.NewRtAttr(unix.IFLA_ADDRESS, l.MAC[:])); err != nil {
			errs = append(errs, fmt.Errorf("setting MAC %s: %w", l.MAC, err))
		}
	}
	switch {
	case l.Up && !d.up():
		errs = append(errs, b.bringUp(l, d))
	case !l.Up && d.up():
		errs = append(errs, b.set(d, unix.IFF_UP))
	}
	return errors.Join(errs...)
}

// alterTunnel changes parent, local address and learning of d where they
// differ, and returns d as it is then: its MTU may be clamped.
func (b *batch) alterTunnel(ctx context.Context, l backend.Link, d device) (device, error) {
	v := nl.NewRtAttr(nl.IFLA_INFO_DATA, nil)
	if err := b.changeable(v, l, d); err != nil {
		return d, err
	}
	if v.Len() == unix.SizeofRtAttr {
		return d, nil
	}
	err := b.k.do(request(unix.RTM_NEWLINK, 0, append(byIndex(d.index), vxlanInfo(v))...))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return d, errFixed
	}
	if err != nil {
		return d, fmt.Errorf("changing its tunnel to local %s dev %s: %w", l.Local, l.Parent, err)
	}
	now, err := b.k.device(byIndex(d.index))
	if err != nil {
		return d, err
	}
	if l.Local != d.local && l.Local.Is6() {
		err = b.refreshFDB(ctx, now)
	}
	return now, err
}

// vxlanInfo wraps the attributes of a VXLAN device.
func vxlanInfo(v *nl.RtAttr) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("vxlan"))
	info.AddChild(v)
	return info
}

// refreshFDB makes d forget the routes that it keeps for its FDB entries. Over
// IPv6 the kernel goes on to send from the old local address until something
// near the route to the destination changes (seen on 6.18; not over IPv4). A
// replaced destination is looked up anew, and to force the parent on it and
// take that back is a replacement that loses no packet. A device without a
// parent has no such way.
func (b *batch) refreshFDB(ctx context.Context, d device) error {
	entries, err := b.k.entries(ctx, unix.AF_BRIDGE, d.index)
	if err != nil {
		return fmt.Errorf("reading the FDB of %s: %w", d.name, err)
	}
	var errs []error
	for _, e := range entries {
		_, o, _ := e.object(d)
		f, ok := o.(backend.FDB)
		if !ok || !f.Dst.IsValid() {
			continue
		}
		for _, via := range []int{d.parent, 0} {
			var m messages
			m.fdb(unix.RTM_NEWNEIGH, unix.NLM_F_REPLACE, f, d.index, via)
			if err := b.k.do(&m); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("refreshing %s: %w", f, err))
			}
		}
	}
	return errors.Join(errs...)
}

// set changes attributes of d, and the IFF_* flags given to clear.
func (b *batch) set(d device, clear uint32, attrs ...nl.NetlinkRequestData) error {
	h := nl.NewIfInfomsg(unix.AF_UNSPEC)
	h.Index, h.Change = int32(d.index), clear
	return b.k.do(request(unix.RTM_SETLINK, 0, append([]nl.NetlinkRequestData{h}, attrs...)...))
}

// setMTU says how large an MTU the parent allows: the kernel cuts a larger
// one silently when the device is created, and later refuses it with EINVAL.
func (b *batch) setMTU(l backend.Link, d device) error {
	err := b.set(d, 0, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(l.MTU))))
	if err == nil {
		return nil
	}
	if p, e := b.device(l.Parent); e == nil && l.MTU > p.mtu-vxlanOverhead(l) {
		return fmt.Errorf("setting MTU %d: %w: the MTU of %s is %d and VXLAN takes %d bytes of it, so at most %d; the link has %d",
			l.MTU, err, p.name, p.mtu, vxlanOverhead(l), p.mtu-vxlanOverhead(l), d.mtu)
	}
	return fmt.Errorf("setting MTU %d: %w", l.MTU, err)
}

// bringUp sets the link up, without an IPv6 link-local address: it would be
// announced and tested for duplicates to peers who cannot answer.
func (b *batch) bringUp(l backend.Link, d device) error {
	inet6 := nl.NewRtAttr(unix.AF_INET6, nil)
	inet6.AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{nl.IN6_ADDR_GEN_MODE_NONE})
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddChild(inet6)
	// The kernel sets the flags of a message before its IPv6 attributes. It
	// has none of these without IPv6, or with an MTU below 1280.
	if err := b.set(d, 0, spec); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("switching off link-local addresses: %w", err)
	}
	h := nl.NewIfInfomsg(unix.AF_UNSPEC)
	h.Index, h.Flags, h.Change = int32(d.index), unix.IFF_UP, unix.IFF_UP
	err := b.k.do(request(unix.RTM_SETLINK, 0, h))
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("bringing it up: %w: UDP port %d is taken by another program, or by a VXLAN device that differs in GBP (see ss -lnup 'sport = :%d'): stop that, or choose another port; will retry",
			err, l.VXLAN.Port, l.VXLAN.Port)
	case errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("bringing it up: %w: this kernel has no IPv6 for a tunnel from %s", err, l.Local)
	case err != nil:
		return fmt.Errorf("bringing it up: %w", err)
	}
	return nil
}

// rival explains why the kernel will not create l: in one namespace there can
// be one VXLAN device for a VNI, port and underlay family.
func (b *batch) rival(ctx context.Context, l backend.Link, exists error) error {
	devices, err := b.k.devices(ctx)
	if err != nil {
		return errors.Join(exists, err)
	}
	for _, d := range devices {
		v := d.vxlan
		if d.kind == "vxlan" && v.VNI == l.VXLAN.VNI && v.Port == l.VXLAN.Port && d.local.Is6() == l.Local.Is6() {
			return fmt.Errorf("VXLAN device %s already uses VNI %d on port %d: remove it (ip link delete %s) or choose another VNI; will retry: %w",
				d.name, v.VNI, v.Port, d.name, exists)
		}
	}
	return fmt.Errorf("%w: a VXLAN device that was moved to another network namespace may hold VNI %d on port %d; will retry",
		exists, l.VXLAN.VNI, l.VXLAN.Port)
}
