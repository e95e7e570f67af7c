package backend

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/twill-net/twill/subnet"
)

// Kind sorts objects: what has a larger Kind may depend on what has a smaller
// one. Objects are put in this order and deleted in the reverse.
type Kind uint8

// The kinds of object, in the order in which they are put. Who may speak to our
// VTEP is known before the guard asks for it, and is known until it is gone.
const (
	KindPermit Kind = iota + 1 // package hygiene: Permit
	KindGuard                  // Guard
	KindPod                    // Pod
	KindLink
	KindSysctl
	KindAddress
	KindNeighbor
	KindFDB
	KindRoute
	KindRules // the host's rules as a whole, which are no Object: for what tells of repairs
)

// String returns the kind in the words of status, metrics and logs.
func (k Kind) String() string {
	names := [...]string{"", "permit", "guard", "pod", "link", "sysctl", "address", "neighbour", "fdb", "route", "rules"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Key identifies an object: the fields which the kernel takes as identity, so
// that putting another object of the same Key replaces the first.
type Key struct {
	Kind   Kind
	Name   string       // the link's name (none for routes), the sysctl's, or a permit's outer address
	Prefix netip.Prefix // address, neighbour (a host prefix), a route's destination, or a permit's inner prefix
	MAC    subnet.MAC   // FDB
	Metric uint32       // routes
}

// String names the object for logs, status and errors: "route 10.244.3.0/24",
// "fdb 02:…:01 dev twill.1".
func (k Key) String() string {
	var b strings.Builder
	b.WriteString(k.Kind.String())
	switch k.Kind {
	case KindLink, KindSysctl, KindPod:
		fmt.Fprintf(&b, " %s", k.Name)
	case KindPermit:
		fmt.Fprintf(&b, " %s", k.Name)
		if k.Prefix.IsValid() {
			fmt.Fprintf(&b, " from %s", k.Prefix)
		}
	case KindAddress:
		fmt.Fprintf(&b, " %s dev %s", k.Prefix, k.Name)
	case KindNeighbor:
		fmt.Fprintf(&b, " %s dev %s", k.Prefix.Addr(), k.Name)
	case KindFDB:
		fmt.Fprintf(&b, " %s dev %s", k.MAC, k.Name)
	case KindRoute:
		fmt.Fprintf(&b, " %s", k.Prefix)
		if k.Metric != 0 {
			fmt.Fprintf(&b, " metric %d", k.Metric)
		}
	}
	return b.String()
}

// Object is one thing in the kernel. The implementations in this package are
// comparable values: two are the same thing in the same condition when ==.
type Object interface {
	Key() Key
	String() string // as iproute2 would write it
}

// Link is a VXLAN device of ours.
type Link struct {
	Name   string
	MTU    int // of inner packets: bytes
	MAC    subnet.MAC
	Up     bool
	Parent string     // the external interface; "" when the kernel shall choose by route
	Local  netip.Addr // the source of outer packets; its family is the tunnel's
	VXLAN  VXLAN
}

// VXLAN holds what belongs to the tunnel itself. Learning aside, another value
// means a new device.
type VXLAN struct {
	VNI      uint32
	Port     uint16 // UDP destination port
	Learning bool   // learn FDB entries from traffic
	GBP      bool   // carry the group policy id (draft-smith-vxlan-group-policy)
}

// Key implements Object.
func (l Link) Key() Key { return Key{Kind: KindLink, Name: l.Name} }

// String implements Object.
func (l Link) String() string {
	state := "down"
	if l.Up {
		state = "up"
	}
	return fmt.Sprintf("link %s vxlan id %d dstport %d local %s dev %s mtu %d address %s learning %t gbp %t %s",
		l.Name, l.VXLAN.VNI, l.VXLAN.Port, l.Local, l.Parent, l.MTU, l.MAC, l.VXLAN.Learning, l.VXLAN.GBP, state)
}

// Replaces reports whether have must be deleted before l can be there: the
// kernel changes local address, parent and learning of a living VXLAN device,
// but not the tunnel's family, VNI, port or group policy
// (drivers/net/vxlan/vxlan_core.c, vxlan_changelink). To take the parent away
// is accepted there and ignored.
func (l Link) Replaces(have Link) bool {
	living := have.VXLAN
	living.Learning = l.VXLAN.Learning
	return l.VXLAN != living || l.Parent == "" && have.Parent != "" ||
		have.Local.IsValid() && l.Local.Is4() != have.Local.Is4()
}

// Sysctl is a kernel parameter. Its Name has slashes, because link names have
// dots: "net/ipv4/conf/twill.1/rp_filter".
type Sysctl struct {
	Name  string
	Value string
}

// Key implements Object.
func (s Sysctl) Key() Key { return Key{Kind: KindSysctl, Name: s.Name} }

// String implements Object.
func (s Sysctl) String() string { return fmt.Sprintf("sysctl %s=%s", s.Name, s.Value) }

// Address is an address on a link of ours.
type Address struct {
	Link   string
	Prefix netip.Prefix
}

// Key implements Object.
func (a Address) Key() Key { return Key{Kind: KindAddress, Name: a.Link, Prefix: a.Prefix} }

// String implements Object.
func (a Address) String() string { return fmt.Sprintf("address %s dev %s", a.Prefix, a.Link) }

// Neighbor is a permanent neighbour (ARP or NDP) entry on a link of ours.
type Neighbor struct {
	Link string
	IP   netip.Addr
	MAC  subnet.MAC
}

// Key implements Object.
func (n Neighbor) Key() Key {
	return Key{Kind: KindNeighbor, Name: n.Link, Prefix: netip.PrefixFrom(n.IP, n.IP.BitLen())}
}

// String implements Object.
func (n Neighbor) String() string {
	return fmt.Sprintf("neighbour %s lladdr %s dev %s", n.IP, n.MAC, n.Link)
}

// FDB is a static forwarding entry of a VXLAN link of ours: frames to MAC go
// to the VTEP at Dst.
type FDB struct {
	Link string
	MAC  subnet.MAC
	Dst  netip.Addr // observed as invalid: several, or not only an address
}

// Key implements Object.
func (f FDB) Key() Key { return Key{Kind: KindFDB, Name: f.Link, MAC: f.MAC} }

// String implements Object.
func (f FDB) String() string { return fmt.Sprintf("fdb %s dst %s dev %s", f.MAC, f.Dst, f.Link) }

// Route is a route of protocol 116 in the main table. One observed with
// several next hops, or of a type that is neither unicast nor blackhole, has
// nothing but Dst and Metric.
type Route struct {
	Dst       netip.Prefix
	Link      string     // "" for a blackhole
	Via       netip.Addr // the gateway; invalid for none
	OnLink    bool       // the gateway is on the link though no address says so
	Blackhole bool       // drop what has no better route; Link and Via are empty
	Metric    uint32     // the kernel's: for IPv6 0 is not a value, it means 1024
}

// Key implements Object. Route replacement in the kernel goes by destination
// and metric, whatever the link.
func (r Route) Key() Key { return Key{Kind: KindRoute, Prefix: r.Dst, Metric: r.Metric} }

// String implements Object.
func (r Route) String() string {
	if r.Blackhole {
		return fmt.Sprintf("route blackhole %s metric %d", r.Dst, r.Metric)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "route %s", r.Dst)
	if r.Via.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Via)
	}
	fmt.Fprintf(&b, " dev %s", r.Link)
	if r.OnLink {
		b.WriteString(" onlink")
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	return b.String()
}
