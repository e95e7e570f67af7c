package pods

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

// DefaultBridge is the bridge that the CNI bridge plugin makes when its config
// names none.
const DefaultBridge = "cni0"

const (
	kindVeth   = "veth"
	kindBridge = "bridge"
)

// From returns the pods of which a host veth carries the alias, in the order
// of the interfaces. An alias that cannot be read is left out. A veth in a VRF has
// a master, too, but is no port of a bridge: its packets are routed.
func From(interfaces []backend.Interface) []Pod {
	var all []Pod
	bridges := map[string]bool{}
	for _, i := range interfaces {
		bridges[i.Name] = i.Kind == kindBridge
	}
	for _, i := range interfaces {
		if p, ok := podOf(i); ok {
			if bridges[i.Master] {
				p.Bridge = i.Master
			}
			all = append(all, p)
		}
	}
	return all
}

func podOf(i backend.Interface) (Pod, bool) {
	if i.Kind != kindVeth {
		return Pod{}, false
	}
	p, err := Parse(i.Alias)
	if err != nil {
		return Pod{}, false
	}
	p.Link = i.Name
	return p, true
}

// Ground says which veths without an alias may lead to pods of ours.
type Ground struct {
	Overlay []netip.Prefix // the overlay networks, of both families; none: every bridge may be ours
	Bridges []string       // on which our networks put pods, as their configs say; DefaultBridge always counts
}

// Inventory is what the kernel knows of the pods of this node.
type Inventory struct {
	Pods []Pod // those with an alias
	// InUse holds the addresses behind veths without one: pods made by
	// flannel or by a twill-cni which wrote no alias, an ADD that was cut
	// off, or a veth whose alias somebody has overwritten; and others'
	// containers, whose addresses are none of ours.
	InUse []netip.Addr
	// Unknown are the veths that may lead to pods of ours with addresses
	// that nobody can tell, as their other end has none: of an ADD under way
	// or cut off, say.
	Unknown []Veth
}

// Veth is a host veth without an alias.
type Veth struct {
	Name  string
	Index int // the kernel's, which no later veth gets; 0 when not known
}

// Kernel is what the inventory is read from; kernel.Kernel is one.
type Kernel interface {
	Interfaces(ctx context.Context) ([]backend.Interface, error)
	Behind(ctx context.Context, link string) (index int, own, others []netip.Addr, err error)
}

// Read makes the inventory of the pods there are now.
func Read(ctx context.Context, k Kernel, g Ground) (Inventory, error) {
	interfaces, err := k.Interfaces(ctx)
	if err != nil {
		return Inventory{}, err
	}
	return Take(ctx, interfaces, g, k.Behind)
}

// Behind returns the index of a veth and the addresses in the namespace at its
// other end: own are those that somebody has put on that end itself, others
// all the rest. The index is 0 when that is our own namespace
// (kernel.Kernel.Behind). Its error is unix.ENODEV when the veth has gone.
type Behind func(ctx context.Context, link string) (index int, own, others []netip.Addr, err error)

// Take makes the inventory. Pods with an alias are read from the interfaces;
// behind is asked for the veths that have none and may be ours. Those on somebody
// else's bridge (Docker's, say) are left alone, and so are the host's own links.
func Take(ctx context.Context, interfaces []backend.Interface, g Ground, behind Behind) (Inventory, error) {
	inv := Inventory{Pods: From(interfaces)}
	foreign := g.foreignBridges(interfaces)
	for _, i := range interfaces {
		if _, ok := podOf(i); ok || i.Kind != kindVeth || foreign[i.Master] || g.foreign(i) {
			continue
		}
		index, own, others, err := behind(ctx, i.Name)
		switch {
		case ctx.Err() != nil:
			return Inventory{}, fmt.Errorf("looking behind veth %s: %w", i.Name, ctx.Err())
		case err == nil && index == 0, errors.Is(err, unix.ENODEV):
			continue
		case err != nil:
			inv.Unknown = append(inv.Unknown, Veth{Name: i.Name, Index: index})
			continue
		}
		inv.InUse = append(append(inv.InUse, own...), others...)
		if !g.settled(own) {
			inv.Unknown = append(inv.Unknown, Veth{Name: i.Name, Index: index})
		}
	}
	return inv, nil
}

// settled reports whether the addresses on the other end of a veth say all
// about its pod. One of ours in the making has none there, whatever its other
// interfaces have; later it has those reserved for it, and InUse holds them.
// So one whose addresses are all outside of the overlay is somebody else's,
// but who does not know the overlay cannot say so.
func (g Ground) settled(own []netip.Addr) bool {
	return slices.ContainsFunc(own, g.inOverlay) || len(own) > 0 && len(g.Overlay) > 0
}

// foreignBridges returns the bridges on which there cannot be a pod of ours:
// they have addresses, none of them in the overlay, no port with our alias,
// and no network of ours puts pods there. The bridge plugin gives its bridge
// the pods' gateway address.
func (g Ground) foreignBridges(interfaces []backend.Interface) map[string]bool {
	foreign := map[string]bool{}
	for _, i := range interfaces {
		if i.Kind != kindBridge || i.Name == DefaultBridge || slices.Contains(g.Bridges, i.Name) {
			continue
		}
		foreign[i.Name] = g.foreign(i)
	}
	for _, i := range interfaces {
		if Ours(i.Alias) {
			delete(foreign, i.Master)
		}
	}
	return foreign
}

// foreign reports whether an interface has addresses of its own, none of them in
// the overlay. A veth that has is no pod's: bridge gives a pod's host end none,
// ptp the pods' gateway. It is a link of the host, as where a node is a
// container itself (kind).
func (g Ground) foreign(i backend.Interface) bool {
	addressed, ours := false, false
	for _, a := range i.Addresses {
		ip := a.Prefix.Addr()
		addressed = addressed || !ip.IsLinkLocalUnicast()
		ours = ours || g.inOverlay(ip)
	}
	return addressed && !ours && len(g.Overlay) > 0
}

func (g Ground) inOverlay(a netip.Addr) bool {
	return slices.ContainsFunc(g.Overlay, func(p netip.Prefix) bool { return p.Contains(a) })
}
