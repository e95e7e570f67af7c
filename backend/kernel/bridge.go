package kernel

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

// ApplyBridge makes changes of Address objects on bridges, which are not ours
// but the CNI plugin's; as Apply does, in the order given and with as many
// errors, but that after a failure the rest of the same bridge and family is
// not tried: an old address shall not go before the new one is there. The
// order is the caller's: of the IPv4 addresses on a link, the kernel lists
// first what was put first (net/ipv4/devinet.c).
func (k *Kernel) ApplyBridge(ctx context.Context, changes []backend.Change) []error {
	type series struct {
		link   string
		family uint8
	}
	b := &batch{k: k, devices: map[string]device{}}
	failed := map[series]error{}
	errs := make([]error, len(changes))
	for i, c := range changes {
		key := c.Key()
		of := series{key.Name, family(key.Prefix.Addr())}
		if before := failed[of]; before != nil {
			errs[i] = fmt.Errorf("%s: not tried after a failure: %w", doing(c), before)
			continue
		}
		err := ctx.Err()
		if err == nil {
			err = b.applyBridge(c)
		}
		if err != nil {
			failed[of] = err
			errs[i] = fmt.Errorf("%s: %w", doing(c), advise(c, err))
		}
	}
	return errs
}

func (b *batch) applyBridge(c backend.Change) error {
	if a, ok := c.Want.(backend.Address); ok {
		d, err := b.bridge(a.Link)
		if err != nil {
			return err
		}
		var m messages
		m.address(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, a, d.index)
		return b.k.do(&m)
	}
	a, ok := c.Have.(backend.Address)
	if !ok || c.Want != nil {
		return fmt.Errorf("nothing but an address is put on a bridge of others")
	}
	d, err := b.bridge(a.Link)
	if err == nil {
		var m messages
		m.address(unix.RTM_DELADDR, 0, a, d.index)
		err = b.k.do(&m)
	}
	return unlessGone(err)
}

// bridge returns the bridge called name.
func (b *batch) bridge(name string) (device, error) {
	d, err := b.device(name)
	if err == nil && d.kind != "bridge" {
		return device{}, fmt.Errorf("%s is not a bridge: %w", d.describe(), unix.ENODEV)
	}
	return d, err
}

// SetBridgeMTU sets the MTU of a bridge, in bytes. From then on the kernel
// does not adjust it any more to the smallest MTU of the bridge's ports
// (net/bridge/br_if.c, br_mtu_auto_adjust).
func (k *Kernel) SetBridgeMTU(ctx context.Context, name string, mtu int) error {
	err := ctx.Err()
	if err == nil {
		b := &batch{k: k, devices: map[string]device{}}
		var d device
		if d, err = b.bridge(name); err == nil {
			err = b.set(d, 0, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
		}
	}
	if err != nil {
		return fmt.Errorf("setting the MTU of bridge %s to %d bytes: %w", name, mtu, err)
	}
	return nil
}

// Behind returns the addresses in the network namespace at the other end of a
// veth pair, but for those that mean nothing outside of it (loopback, link
// scope): own are those of the pair's other end itself, without IPv6 addresses
// that have a lifetime, which the kernel makes by itself when a router
// advertises a prefix; others are all else. index is the veth's own, which no
// other has after it; it is 0 when the other end is in our namespace, and
// nothing was read. The kernel tells it without entering the namespace (since
// 5.0), to one who has CAP_NET_ADMIN over it. unix.ENODEV: there is no such
// veth.
func (k *Kernel) Behind(ctx context.Context, link string) (index int, own, others []netip.Addr, err error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, nil, err
	}
	e, err := k.end(byName(link))
	switch {
	case err == nil && (e.name != link || e.kind != "veth"):
		err = fmt.Errorf("it is not a veth: %w", unix.ENODEV)
	case err == nil && e.peer == 0:
		err = fmt.Errorf("the kernel does not tell its peer")
	}
	if err != nil {
		return 0, nil, nil, fmt.Errorf("finding the other end of link %q: %w", link, err)
	}
	if e.nsid < 0 {
		return 0, nil, nil, nil
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		req := request(unix.RTM_GETADDR, 0, nl.NewIfAddrmsg(family),
			nl.NewRtAttr(unix.IFA_TARGET_NETNSID, nl.Uint32Attr(uint32(e.nsid))))
		addresses, err := dump(ctx, k, req, unix.RTM_NEWADDR, func(msg []byte) (address, bool, error) {
			return decodeBehind(msg, e.nsid)
		})
		if err != nil {
			return e.index, nil, nil, fmt.Errorf("reading the addresses in the namespace behind %s: %w", link, err)
		}
		for _, a := range addresses {
			if a.index == e.peer && (family == unix.AF_INET || a.flags&unix.IFA_F_PERMANENT != 0) {
				own = append(own, a.prefix.Addr())
			} else {
				others = append(others, a.prefix.Addr())
			}
		}
	}
	return e.index, own, others, nil
}

// decodeBehind decodes an address and makes sure that it is of the namespace
// that was asked for: a kernel that does not know the attribute answers with
// our own.
func decodeBehind(msg []byte, nsid int32) (address, bool, error) {
	attrs := after("address", msg, unix.SizeofIfAddrmsg)
	asked := false
	for attrs.next() {
		asked = asked || attrs.typ == unix.IFA_TARGET_NETNSID && int32(attrs.uint32()) == nsid
	}
	if attrs.err != nil {
		return address{}, false, attrs.err
	}
	if !asked {
		return address{}, false, fmt.Errorf("the kernel cannot read another namespace: %w", unix.EOPNOTSUPP)
	}
	a, ok, err := decodeAddress(msg)
	return a, ok && a.scope < unix.RT_SCOPE_LINK, err
}
