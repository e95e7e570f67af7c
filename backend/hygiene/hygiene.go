// Package hygiene says, as data, who may speak to this node's VTEP and from
// which inner sources, and which source addresses its pods may use: VXLAN
// authenticates nobody (RFC 7348 section 7), so that anyone who reaches the
// port could put packets into pods.
//
// Everything is a backend.Object, so that the machinery that carries links and
// routes (desired state by node, Diff, retry, repair) carries this too; package
// backend/nftables/guard renders it, and another renderer can.
//
// A packet to our VTEP port with our VNI is dropped, and counted, unless
//   - its outer source is that of a peer (ReasonStranger otherwise),
//   - it carries IPv4, IPv6 or ARP, without a VLAN or priority tag: the kernel
//     takes VID 0 off, and what is behind it was not checked
//     (ReasonInnerProtocol),
//   - and its inner source, if it is in the overlay network, is in that peer's
//     subnet (ReasonInnerSource). So our own subnet never comes from outside. A
//     source outside the network, a node's or a LAN client's, is accepted.
//
// Other VNIs and other users of the port pass, but for what pods send: those
// may reach neither our port nor a peer's, whatever the VNI, nor send our VNI to
// anywhere outside the network: masquerading would give their packets this
// node's address, which peers trust (ReasonPodToVTEP). They are known by their
// addresses; of a guarded pod, also what has none of them, but a link-local one.
//
// A pod may use as source its own addresses alone (ReasonSpoofedSource).
//
// It is pure: it imports neither netlink, nftables nor a logger.
package hygiene

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// Reason says why a packet was dropped. Each has a counter of that name.
type Reason string

// The reasons.
const (
	ReasonStranger      Reason = "stranger"       // outer source is no peer's
	ReasonInnerProtocol Reason = "inner-protocol" // neither IPv4, IPv6 nor ARP
	ReasonInnerSource   Reason = "inner-source"   // in the network, not in that peer's subnet
	ReasonFragment      Reason = "fragment"       // an IPv6 fragment, cut so that the headers cannot be read
	ReasonPodToVTEP     Reason = "pod-to-vtep"    // a pod speaks to a VTEP
	ReasonSpoofedSource Reason = "spoofed-source" // a pod uses a source address that is not its own
)

// Reasons lists them all.
var Reasons = [...]Reason{
	ReasonStranger, ReasonInnerProtocol, ReasonInnerSource, ReasonFragment, ReasonPodToVTEP, ReasonSpoofedSource,
}

// ErrNoBridge says that the kernel has no nf_tables for bridges: the VTEP is
// guarded, and pods on a bridge may use any source address.
var ErrNoBridge = errors.New("pods on a bridge are not kept from using others' addresses: " +
	"this kernel has no nf_tables for family bridge (CONFIG_NF_TABLES_BRIDGE)")

// Priorities of our base chains, of which the lower runs first. All are before
// the filter chains of others, so that those see nothing which we drop.
const (
	PriorityInput      = -10  // input, forward; connection tracking has put fragments together by then (-400)
	PriorityPrerouting = -310 // before raw (-300)
	PriorityBridge     = -310 // before NF_BR_PRI_NAT_DST_BRIDGED (linux/netfilter_bridge.h)
)

// Permit lets a peer speak to our VTEP port with our VNI: from its underlay
// address at all (Inner is zero), or with an inner source in Inner, one of its
// subnets. There are permits of both kinds for each of its addresses, also for
// IPv4 pods in an IPv6 tunnel and the other way round.
type Permit struct {
	Outer netip.Addr
	Inner netip.Prefix
}

// Key implements backend.Object.
func (p Permit) Key() backend.Key {
	return backend.Key{Kind: backend.KindPermit, Name: p.Outer.String(), Prefix: p.Inner}
}

// String implements backend.Object.
func (p Permit) String() string { return p.Key().String() }

// Guard is the rules themselves. It must be wanted only once there are permits
// for all peers that the first full list names.
type Guard struct {
	VNI       uint32
	Port      uint16                         // UDP destination port
	Networks  subnet.PerFamily[netip.Prefix] // the overlay network; invalid where a family is off
	Routed    bool                           // there are Pods on no bridge; to check these costs every packet of the host
	Condition Condition                      // Whole when wanted
}

// Condition is what an observer found a Guard to be.
type Condition uint8

// The conditions of a Guard.
const (
	Whole   Condition = iota // as wanted
	Altered                  // someone changed rules; permits are as observed
	Broken                   // what holds the rules is not ours any more, permits included: to be made anew
)

// Key implements backend.Object. There is one Guard.
func (g Guard) Key() backend.Key { return backend.Key{Kind: backend.KindGuard} }

// String implements backend.Object.
func (g Guard) String() string {
	switch g.Condition {
	case Altered:
		return "guard, altered"
	case Broken:
		return "guard, broken"
	}
	var networks []string
	for _, n := range g.Networks {
		if n.IsValid() {
			networks = append(networks, n.String())
		}
	}
	routed := ""
	if g.Routed {
		routed = " and pods on no bridge"
	}
	return fmt.Sprintf("guard vni %d port %d network %s%s", g.VNI, g.Port, strings.Join(networks, " "), routed)
}

// Pod lets what comes from a pod through its host veth have these source
// addresses and no other, but for link-local IPv6 and the unspecified address,
// with which address assignment begins. A Pod without any address is cut off.
type Pod struct {
	Link      string
	Addresses subnet.PerFamily[netip.Addr]
	Altered   bool // observed: its entries are not, or not only, those of one Pod
}

// Key implements backend.Object.
func (p Pod) Key() backend.Key { return backend.Key{Kind: backend.KindPod, Name: p.Link} }

// String implements backend.Object.
func (p Pod) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pod %s", p.Link)
	for _, a := range p.Addresses {
		if a.IsValid() {
			fmt.Fprintf(&b, " address %s", a)
		}
	}
	if p.Altered {
		b.WriteString(", altered")
	}
	return b.String()
}

// Host returns what this node wants whoever its peers are: the Guard; routed
// says whether it has Pods on no bridge. There is none without VTEPs.
func Host(cfg subnet.Config, _ subnet.Lease, routed bool) []backend.Object {
	if cfg.Backend.Type != subnet.BackendVXLAN {
		return nil
	}
	g := Guard{VNI: cfg.Backend.VXLAN.VNI, Port: cfg.Backend.VXLAN.Port, Routed: routed}
	for _, f := range subnet.Families {
		if n := cfg.Networks[f]; n.Enabled() {
			g.Networks[f] = n.Network.Masked()
		}
	}
	return []backend.Object{g}
}

// Peer returns the Permits of a peer: for each underlay address that it
// announces one to speak at all, and one for each of its subnets. A peer whose
// packets come from an address that it does not announce (NAT of what it sends)
// is a stranger.
func Peer(cfg subnet.Config, _, peer subnet.Lease) []backend.Object {
	if cfg.Backend.Type != subnet.BackendVXLAN {
		return nil
	}
	var permits []backend.Object
	for _, outer := range append(peer.PublicIPs[:], peer.Sources[:]...) {
		if !outer.IsValid() {
			continue
		}
		outer = outer.Unmap().WithZone("")
		permits = append(permits, Permit{Outer: outer})
		for _, f := range subnet.Families {
			if p := peer.Subnets[f]; p.IsValid() && cfg.Networks[f].Enabled() {
				permits = append(permits, Permit{Outer: outer, Inner: p.Masked()})
			}
		}
	}
	return permits
}
