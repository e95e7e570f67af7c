package pods

import (
	"net/netip"
	"slices"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

// Node is what the bridges of this node are compared with.
type Node struct {
	Overlay []netip.Prefix                 // the overlay networks, of both families
	Subnets subnet.PerFamily[netip.Prefix] // ours; zero for a family without one
	Taken   func(subnet netip.Prefix) bool // whether a peer holds a subnet that overlaps it; nil: none does
	Bridges []string                       // see Ground
	// Gateways are those of the bridges which, by the configs of our networks,
	// have the first address of our subnet.
	Gateways []string
}

// BridgePlan is what is to be done to the bridges of the pods.
type BridgePlan struct {
	// Changes are of Address objects, to be made in this order
	// (kernel.Kernel.ApplyBridge).
	Changes []backend.Change
	// MTUs are proposals (kernel.Kernel.SetBridgeMTU).
	MTUs []BridgeMTU
	// Stranded are the pods with an address outside of our subnets: no peer
	// finds a way to them. They must be made anew.
	Stranded []Pod
}

// BridgeMTU says that a bridge has not the MTU of its ports, in bytes.
type BridgeMTU struct {
	Bridge     string
	Have, Want int
}

// Bridges compares the gateway addresses of the bridges on which our pods are
// with our subnets. A bridge that has the gateway of a subnet which is not
// ours any more gets ours; the bridge plugin would otherwise refuse the next
// pod ("already has an IP address different from"). Nothing is put on a bridge
// which has no gateway of the family, unless it must have lost it, and nothing is taken away but first host
// addresses that are inside the overlay networks or that pods of ours on that
// bridge have as gateway.
//
// The pods of the old subnet still reach this node and, masqueraded, what is
// outside; so their gateway stays as long as there are any, unless a peer has
// got their subnet: our connected route would cut us off from its pods. The
// bridge plugin allows for that: of IPv6 addresses it minds only overlapping
// ones, and of IPv4 addresses it looks at the first that the kernel lists and
// is content when it is the right one (ensureAddr in
// plugins/main/bridge/bridge.go). So ours must be listed first, which means
// that the old one is deleted and put again once.
func Bridges(h backend.Host, inv Inventory, n Node) BridgePlan {
	var p BridgePlan
	if n.Subnets == (subnet.PerFamily[netip.Prefix]{}) {
		return p // nothing is known yet
	}
	for _, i := range h.Interfaces {
		carries := slices.ContainsFunc(h.Interfaces, func(port backend.Interface) bool { return port.Master == i.Name && Ours(port.Alias) })
		if i.Kind != kindBridge || !carries && i.Name != DefaultBridge && !slices.Contains(n.Bridges, i.Name) {
			continue
		}
		for _, f := range subnet.Families {
			p.Changes = append(p.Changes, n.gateways(i, f, inv)...)
		}
		if want := smallestPort(h, i); carries && want != i.MTU {
			p.MTUs = append(p.MTUs, BridgeMTU{Bridge: i.Name, Have: i.MTU, Want: want})
		}
	}
	for _, pod := range inv.Pods {
		for _, f := range subnet.Families {
			if a := pod.Addresses[f]; a.IsValid() && !n.Subnets[f].Contains(a) {
				p.Stranded = append(p.Stranded, pod)
				break
			}
		}
	}
	return p
}

// gateways returns the changes of one bridge and family.
func (n Node) gateways(bridge backend.Interface, f subnet.Family, inv Inventory) (changes []backend.Change) {
	own := n.Subnets[f]
	if !own.IsValid() {
		return nil
	}
	there := false // an address of our subnet, be it another than the first (ipam.gateway)
	var old []netip.Prefix
	behind := map[netip.Prefix]bool{} // of old: listed after ours
	for _, a := range bridge.Addresses {
		switch p := a.Prefix; {
		case subnet.FamilyOf(p.Addr()) != f:
		case p.Masked() == own.Masked():
			there = true
		case p == envfile.Gateway(p) && (n.inside(p) || hasPods(bridge.Name, p, inv.Pods)):
			old = append(old, p)
			behind[p] = there
		}
	}
	if len(old) == 0 && (there || !n.lost(bridge, f, inv)) {
		return nil
	}
	if !there {
		changes = append(changes, backend.Change{Want: backend.Address{Link: bridge.Name, Prefix: envfile.Gateway(own)}})
	}
	for _, p := range old {
		o := backend.Address{Link: bridge.Name, Prefix: p}
		keep := n.keeps(p, own, inv)
		if !keep || f == subnet.IPv4 && !behind[p] {
			changes = append(changes, backend.Change{Have: o})
			if keep {
				changes = append(changes, backend.Change{Want: o})
			}
		}
	}
	return changes
}

// lost reports whether a bridge without a gateway of a family had one: its pods
// have addresses of this family, and it has one by the network's config, or it
// is the gateway of the other family. The kernel drops the IPv6 addresses of a
// bridge that goes down (addrconf_ifdown in net/ipv6/addrconf.c); those of IPv4
// go by somebody's hand.
func (n Node) lost(bridge backend.Interface, f subnet.Family, inv Inventory) bool {
	if !hasPods(bridge.Name, n.Subnets[f], inv.Pods) {
		return false
	}
	other := n.Subnets[f.Other()]
	return slices.Contains(n.Gateways, bridge.Name) || other.IsValid() &&
		slices.ContainsFunc(bridge.Addresses, func(a backend.InterfaceAddress) bool { return a.Prefix == envfile.Gateway(other) })
}

// keeps reports whether pods still need the gateway of an old subnet.
func (n Node) keeps(gateway, own netip.Prefix, inv Inventory) bool {
	if gateway.Overlaps(own) || n.Taken != nil && n.Taken(gateway.Masked()) {
		return false
	}
	return len(inv.Unknown) > 0 || slices.ContainsFunc(inv.InUse, gateway.Contains) ||
		slices.ContainsFunc(inv.Pods, func(p Pod) bool { return slices.ContainsFunc(p.Addresses[:], gateway.Contains) })
}

// hasPods reports whether a pod with our alias is on the bridge and has an
// address of the gateway's subnet: the overlay network itself may have changed.
func hasPods(bridge string, gateway netip.Prefix, pods []Pod) bool {
	return slices.ContainsFunc(pods, func(p Pod) bool {
		return p.Bridge == bridge && slices.ContainsFunc(p.Addresses[:], gateway.Contains)
	})
}

// inside reports whether p is a part of an overlay network, and not the whole.
func (n Node) inside(p netip.Prefix) bool {
	return slices.ContainsFunc(n.Overlay, func(o netip.Prefix) bool { return o.Bits() < p.Bits() && o.Contains(p.Addr()) })
}

// smallestPort returns the smallest MTU of a bridge's ports, 0 when it has
// none. That is the bridge's own MTU, by the kernel's doing, unless somebody
// has set it: a larger one drops what the host sends to a smaller port without
// a word, a smaller one cuts large packets without need. So a bridge grows only
// when the last pod of a smaller MTU has gone.
func smallestPort(h backend.Host, bridge backend.Interface) (smallest int) {
	for _, i := range h.Interfaces {
		if i.Master == bridge.Name && (smallest == 0 || i.MTU < smallest) {
			smallest = i.MTU
		}
	}
	return smallest
}
