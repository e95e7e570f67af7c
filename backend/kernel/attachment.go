package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

// What a CNI plugin does to one attachment of a pod, and how it looks at it:
// single requests, where the daemon would take a dump.

// Interface returns one interface and its addresses; AcceptRA and ForwardsIP6
// are left out. unix.ENODEV: there is none of that name.
func (k *Kernel) Interface(ctx context.Context, name string) (backend.Interface, error) {
	return k.interfaceBy(ctx, name, byName(name))
}

// interfaceBy is Interface; what says which one, for the error.
func (k *Kernel) interfaceBy(ctx context.Context, what any, by []nl.NetlinkRequestData) (backend.Interface, error) {
	err := ctx.Err()
	if err != nil {
		return backend.Interface{}, err
	}
	d, err := k.device(by)
	if err != nil {
		return backend.Interface{}, fmt.Errorf("finding link %v: %w", what, err)
	}
	i := backend.Interface{Name: d.name, Kind: d.kind, MTU: d.mtu, Up: d.up(), Loopback: d.flags&unix.IFF_LOOPBACK != 0, Alias: d.alias}
	if d.master != 0 {
		m, err := k.device(byIndex(d.master))
		if err != nil {
			return backend.Interface{}, fmt.Errorf("finding the master of link %v: %w", what, err)
		}
		i.Master = m.name
	}
	addresses, err := k.addresses(ctx, d.index)
	if err != nil {
		return backend.Interface{}, fmt.Errorf("reading the addresses of link %v: %w", what, err)
	}
	for _, a := range addresses {
		i.Addresses = append(i.Addresses, backend.InterfaceAddress{Prefix: a.prefix, Usable: a.usable()})
	}
	return i, nil
}

// Carrying returns the interfaces that have the address p with its prefix
// length, as Interface does.
func (k *Kernel) Carrying(ctx context.Context, p netip.Prefix) ([]backend.Interface, error) {
	addresses, err := k.addresses(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("reading addresses: %w", err)
	}
	var all []backend.Interface
	for _, a := range addresses {
		if a.prefix != p {
			continue
		}
		i, err := k.interfaceBy(ctx, a.index, byIndex(a.index))
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, nil
}

// HostEnd returns the name of our end of a veth pair whose other end is the
// interface ifName in the namespace of pod. It reports false when ifName is no
// veth, or when the other end is not here. Indexes are numbers of their
// namespace, so each end must point at the other and ours at the namespace
// too. unix.ENODEV: the pod has no such interface.
func (k *Kernel) HostEnd(ctx context.Context, pod *Kernel, ifName string) (name string, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return "", false, err
	}
	theirs, err := pod.end(byName(ifName))
	if err != nil {
		return "", false, fmt.Errorf("finding link %s of the pod: %w", ifName, err)
	}
	if theirs.kind != "veth" || theirs.nsid < 0 {
		return "", false, nil
	}
	ours, err := k.end(byIndex(theirs.peer))
	if err == nil && ours.kind == "veth" && ours.nsid >= 0 && ours.peer == theirs.index {
		var nsid int32
		nsid, err = k.nsid(pod.cfg.NetNS)
		ok = err == nil && nsid == ours.nsid
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return "", false, fmt.Errorf("finding the host's end of link %s of the pod: %w", ifName, err)
	}
	return ours.name, ok, nil
}

// end is an interface and what the kernel tells of the other end of its pair:
// its index (IFLA_LINK) and our number for its namespace (IFLA_LINK_NETNSID),
// -1 when it is in our own.
type end struct {
	device
	peer int
	nsid int32
}

func (k *Kernel) end(by []nl.NetlinkRequestData) (end, error) {
	msgs, err := k.get(request(unix.RTM_GETLINK, 0, by...), unix.RTM_NEWLINK)
	if err != nil || len(msgs) == 0 {
		return end{}, cmp.Or(err, error(unix.ENODEV))
	}
	d, ok, err := k.decodeDevice(msgs[0])
	if err != nil || !ok {
		return end{}, cmp.Or(err, error(unix.ENODEV))
	}
	attrs := after("link", msgs[0], unix.SizeofIfInfomsg)
	e := end{device: d, nsid: -1}
	for attrs.next() {
		switch attrs.typ {
		case unix.IFLA_LINK:
			e.peer = int(attrs.uint32())
		case unix.IFLA_LINK_NETNSID:
			e.nsid = int32(attrs.uint32())
		}
	}
	return e, attrs.err
}

// nsid returns our number for a namespace (rtnetlink's RTM_GETNSID), -1 when it
// has none: no interface here has its other end there.
func (k *Kernel) nsid(fd int) (int32, error) {
	msgs, err := k.get(request(unix.RTM_GETNSID, 0, &nl.RtGenMsg{}, nl.NewRtAttr(unix.NETNSA_FD, nl.Uint32Attr(uint32(fd)))), unix.RTM_NEWNSID)
	if err != nil {
		return -1, fmt.Errorf("asking for the number of a network namespace: %w", err)
	}
	for _, msg := range msgs {
		attrs := after("namespace", msg, 4) // struct rtgenmsg, aligned
		for attrs.next() {
			if attrs.typ == unix.NETNSA_NSID {
				return int32(attrs.uint32()), attrs.err
			}
		}
		if attrs.err != nil {
			return -1, attrs.err
		}
	}
	return -1, nil
}

// SetAlias sets the alias of an interface (ip link set alias), at most 255
// bytes. unix.ENODEV: there is none of that name.
func (k *Kernel) SetAlias(ctx context.Context, name, alias string) error {
	err := ctx.Err()
	if err == nil {
		err = k.do(request(unix.RTM_SETLINK, 0, append(byName(name), nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(alias)))...))
	}
	if err != nil {
		return fmt.Errorf("setting the alias of link %s: %w", name, err)
	}
	return nil
}

// DeleteVeth deletes a veth, and its other end wherever that is. One that has
// gone is no error.
func (k *Kernel) DeleteVeth(ctx context.Context, name string) error {
	err := ctx.Err()
	if err == nil {
		var d device
		if d, err = k.device(byName(name)); err == nil && d.kind != "veth" {
			return fmt.Errorf("deleting link %s: it is of kind %q, not a veth", name, d.kind)
		}
		if err == nil {
			err = k.do(request(unix.RTM_DELLINK, 0, byIndex(d.index)...))
		}
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting link %s: %w", name, err)
	}
	return nil
}
