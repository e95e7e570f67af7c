package backend

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/twill-net/twill/subnet"
)

// Underlay is how this node meets its peers: the external interface, chosen
// from a Host.
type Underlay struct {
	Interface string
	MTU       int
	Addresses subnet.PerFamily[netip.Addr] // on the interface; the source of outer packets
	PublicIPs subnet.PerFamily[netip.Addr] // what peers are told; another than Addresses behind NAT
	TakesRA   bool                         // the interface takes router advertisements, and must go on when we forward
	OnLink    []HostRoute                  // see Reaches; sorted by destination
}

// Equal reports whether two underlays are the same.
func (u Underlay) Equal(o Underlay) bool {
	return u.Interface == o.Interface && u.MTU == o.MTU && u.Addresses == o.Addresses &&
		u.PublicIPs == o.PublicIPs && u.TakesRA == o.TakesRA && slices.Equal(u.OnLink, o.OnLink)
}

// Reaches returns the link on which addr can be reached without a router.
// OnLink holds the host's on-link routes and those through a gateway that
// take a part out of one of them; the longest prefix decides.
func (u Underlay) Reaches(addr netip.Addr) (link string, ok bool) {
	best := -1
	for _, r := range u.OnLink {
		if r.Dst.Bits() > best && r.Dst.Contains(addr) {
			best, link, ok = r.Dst.Bits(), r.Link, !r.Via.IsValid()
		}
	}
	return link, ok
}

// HostOptions are what the operator asks of every backend.
type HostOptions struct {
	Blackhole bool // drop what is sent to pods of our subnet that do not exist
}

// blackholeMetric loses against any route of the bridge, and wins against none.
const blackholeMetric = 1 << 30

// HostObjects returns what this node needs whatever its backend: forwarding,
// with which the uplink still takes router advertisements if it did, and the
// blackhole route if it is asked for.
func HostObjects(cfg subnet.Config, own subnet.Lease, u Underlay, opts HostOptions) []Object {
	forwarding := subnet.PerFamily[string]{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}
	var objects []Object
	if u.TakesRA && cfg.Networks[subnet.IPv6].Enabled() {
		objects = append(objects, Sysctl{Name: "net/ipv6/conf/" + u.Interface + "/accept_ra", Value: "2"})
	}
	for _, f := range subnet.Families {
		if !cfg.Networks[f].Enabled() {
			continue
		}
		objects = append(objects, Sysctl{Name: forwarding[f], Value: "1"})
		if p := own.Subnets[f]; opts.Blackhole && p.IsValid() {
			objects = append(objects, Route{Dst: p, Blackhole: true, Metric: blackholeMetric})
		}
	}
	return objects
}

// RouteMetric returns the metric of our route to a peer's subnet: of IPv4 the
// number of the subnet among all of its length (from 1), of IPv6 the kernel's
// default, 1024.
//
// The kernel keeps next hops of IPv4 routes (fib_info) in a hash that knows
// device and metric, but not the gateway (fib_info_hashfn_1 in
// net/ipv4/fib_semantics.c), and goes through a whole chain for each route that
// is added or deleted. Each route with a metric of its own means a chain each.
func RouteMetric(p netip.Prefix) uint32 {
	if !p.Addr().Is4() {
		return 1024
	}
	a := p.Masked().Addr().As4()
	return binary.BigEndian.Uint32(a[:])>>(32-p.Bits()) + 1
}
