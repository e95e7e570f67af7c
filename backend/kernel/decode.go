package kernel

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// Dumps and notifications are the same messages, and are decoded by the same
// functions: so what Observe shows and what Watch tells of one thing are equal.

// device is a network interface, whoever's it is.
type device struct {
	index, parent, master int // parent: of a VXLAN device
	name, kind, alias     string
	mtu                   int
	flags                 uint32 // IFF_*
	mac                   subnet.MAC
	local                 netip.Addr
	vxlan                 backend.VXLAN
	ours                  bool // a VXLAN device by our pattern
}

func (d device) up() bool { return d.flags&unix.IFF_UP != 0 }

// shown returns of d what backend.Interface shows.
func (d device) shown() device {
	return device{name: d.name, kind: d.kind, alias: d.alias, mtu: d.mtu, master: d.master, flags: d.flags & (unix.IFF_UP | unix.IFF_LOOPBACK)}
}

// link returns d as the model has it; parent is the name of d.parent.
func (d device) link(parent string) backend.Link {
	return backend.Link{Name: d.name, MTU: d.mtu, MAC: d.mac, Up: d.up(), Parent: parent, Local: d.local, VXLAN: d.vxlan}
}

// decodeDevice decodes RTM_NEWLINK and RTM_DELLINK. Messages of another
// family than AF_UNSPEC tell of a port's place in a bridge and are left out.
func (k *Kernel) decodeDevice(msg []byte) (device, bool, error) {
	if len(msg) < unix.SizeofIfInfomsg {
		return device{}, false, errShort("link", msg)
	}
	if msg[0] != unix.AF_UNSPEC {
		return device{}, false, nil
	}
	l, err := netlink.LinkDeserialize(nil, msg)
	if err != nil {
		return device{}, false, fmt.Errorf("decoding a link message: %w", err)
	}
	a := l.Attrs()
	d := device{index: a.Index, master: a.MasterIndex, name: a.Name, alias: a.Alias, mtu: a.MTU, flags: a.RawFlags}
	if _, hardware := l.(*netlink.Device); !hardware {
		d.kind = l.Type()
	}
	copy(d.mac[:], a.HardwareAddr)
	if v, ok := l.(*netlink.Vxlan); ok {
		d.parent = v.VtepDevIndex
		d.local, _ = netip.AddrFromSlice(v.SrcAddr)
		d.vxlan = backend.VXLAN{VNI: uint32(v.VxlanId), Port: uint16(v.Port), Learning: v.Learning, GBP: v.GBP}
		d.ours = k.cfg.LinkPattern.MatchString(d.name)
	}
	return d, true, nil
}

// address is an address of any interface.
type address struct {
	index  int
	prefix netip.Prefix
	flags  uint32 // IFA_F_*
	scope  uint8
	peer   bool // prefix is the local end of a point-to-point pair
}

// ours reports whether we could have put a: the kernel makes link-local
// addresses itself, and a point-to-point pair is nothing that the model has.
func (a address) ours() bool { return !a.peer && !a.prefix.Addr().IsLinkLocalUnicast() }

// decodeAddress decodes RTM_NEWADDR and RTM_DELADDR (struct ifaddrmsg,
// rtnetlink(7)).
func decodeAddress(msg []byte) (address, bool, error) {
	attrs := after("address", msg, unix.SizeofIfAddrmsg)
	if attrs.err != nil {
		return address{}, false, attrs.err
	}
	a := address{index: int(native.Uint32(msg[4:])), flags: uint32(msg[2]), scope: msg[3]}
	var local, remote netip.Addr
	for attrs.next() {
		switch attrs.typ {
		case unix.IFA_LOCAL:
			local = attrs.addr()
		case unix.IFA_ADDRESS:
			remote = attrs.addr()
		case unix.IFA_FLAGS:
			a.flags = attrs.uint32()
		}
	}
	if !local.IsValid() { // IPv6 has IFA_LOCAL only for point-to-point pairs
		local = remote
	}
	a.peer = remote.IsValid() && remote != local
	a.prefix = netip.PrefixFrom(local, int(msg[1]))
	return a, a.prefix.IsValid(), attrs.err
}

// entry is a neighbour or FDB entry of any interface.
type entry struct {
	family, flags uint8
	index         int
	state         uint16 // NUD_*
	ip            netip.Addr
	mac           subnet.MAC
	via           int  // the interface that an FDB entry forces
	odd           bool // an FDB entry with a port, VNI or next hop of its own
}

// entryIndex returns the interface of a neighbour message without decoding
// the rest: on a busy host most are not ours.
func entryIndex(msg []byte) int {
	if len(msg) < unix.SizeofNdMsg {
		return 0
	}
	return int(native.Uint32(msg[4:]))
}

// decodeEntry decodes RTM_NEWNEIGH and RTM_DELNEIGH (struct ndmsg,
// rtnetlink(7)) of all families.
func decodeEntry(msg []byte) (entry, bool, error) {
	attrs := after("neighbour", msg, unix.SizeofNdMsg)
	if attrs.err != nil {
		return entry{}, false, attrs.err
	}
	e := entry{family: msg[0], index: entryIndex(msg), state: native.Uint16(msg[8:]), flags: msg[10]}
	for attrs.next() {
		switch attrs.typ {
		case netlink.NDA_DST:
			e.ip = attrs.addr()
		case netlink.NDA_LLADDR:
			copy(e.mac[:], attrs.value)
		case netlink.NDA_IFINDEX:
			e.via = int(attrs.uint32())
		case netlink.NDA_PORT, netlink.NDA_VNI, netlink.NDA_NH_ID:
			e.odd = true
		}
	}
	return e, true, attrs.err
}

// object returns the entry as the model has it, and its key also when it is
// not one of ours: those are permanent. d is the device that has it.
func (e entry) object(d device) (key backend.Key, o backend.Object, ok bool) {
	if e.family != unix.AF_BRIDGE {
		n := backend.Neighbor{Link: d.name, IP: e.ip, MAC: e.mac}
		ok = e.ip.IsValid() && e.flags&netlink.NTF_PROXY == 0
		if ok && e.state&netlink.NUD_PERMANENT != 0 {
			o = n
		}
		return n.Key(), o, ok
	}
	f := backend.FDB{Link: d.name, MAC: e.mac, Dst: e.ip}
	// The device's parent forced on an entry is the detour of refreshFDB.
	if e.odd || e.via != 0 && e.via != d.parent {
		f.Dst = netip.Addr{}
	}
	ok = e.flags&netlink.NTF_SELF != 0
	if ok && e.state&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 {
		o = f
	}
	return f.Key(), o, ok
}
