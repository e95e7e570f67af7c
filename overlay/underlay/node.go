package underlay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// Node is what a cluster says of this node's addresses. The zero value says
// nothing.
type Node struct {
	// Internal is how the other nodes know this one, a Node's InternalIP: it
	// names the interface which has it, and behind NAT, where none has, it is
	// what peers are told.
	Internal subnet.PerFamily[netip.Addr]
	// Local is an address of the interface to use, the annotations
	// node-public-ip and node-public-ipv6. It comes before Internal.
	Local   subnet.PerFamily[netip.Addr]
	LocalBy subnet.PerFamily[string] // the names of those annotations
	// Unusable is why an annotation, of Local or of the address to tell peers, is
	// passed over; "" for none.
	Unusable subnet.PerFamily[string]
}

// Located returns a node by a lease that it had: where its packets came from, which
// is where peers were told it is unless the lease says another source.
func Located(own subnet.Lease) Node {
	n := Node{Internal: own.PublicIPs}
	for f, ip := range own.Sources {
		if ip.IsValid() {
			n.Internal[f] = ip
		}
	}
	return n
}

// asked reports whether the operator chose the interface.
func (o Options) asked() bool {
	return len(o.Interfaces) > 0 || len(o.Patterns) > 0 || o.CanReach.IsValid()
}

// byNode returns the interface that the cluster names; none where it names
// none of this host's.
func (o Options) byNode(host backend.Host, all []backend.Interface, before backend.Underlay) (i backend.Interface, found bool, err error) {
	if o.Node.Local != (subnet.PerFamily[netip.Addr]{}) {
		i, found = named(all, o.Node.Local)
		if !found {
			err = fmt.Errorf("%s: no interface that is up has %s (there are %s)", o.Node.annotations(), both(o.Node.Local), o.list(host))
		}
		return o.at(i), found, err
	}
	if i, found = named(all, o.Node.Internal); !found {
		// An interface that is down comes back with its address; until then no
		// other one is what the cluster knows.
		down := slices.DeleteFunc(slices.Clone(host.Interfaces), func(i backend.Interface) bool { return i.Up || o.never(i) })
		if i, ok := named(down, o.Node.Internal); ok {
			return i, false, fmt.Errorf("interface %s, which has the Node's InternalIP %s, is down: waiting for it", i.Name, both(o.Node.Internal))
		}
		return i, false, nil
	}
	if i.Kind != "dummy" {
		return i, true, nil
	}
	if way, ok := byDefaultRoute(all, host.Routes, before); ok {
		return o.routed(way, host), true, nil
	}
	return i, false, nil
}

// at returns i with those of its addresses that Local or else Internal names.
func (o Options) at(i backend.Interface) backend.Interface {
	for _, f := range subnet.Families {
		for _, ip := range []netip.Addr{o.Node.Local[f], o.Node.Internal[f]} {
			if ip.IsValid() && has(i, ip) {
				i = with(i, ip)
				break
			}
		}
	}
	return i
}

// routed is at for an interface that a route leads to: those of Internal count
// as well that are on an interface by which no packet leaves, the loopback or a
// dummy. Of a host that speaks BGP they are the node's, whichever way it goes.
func (o Options) routed(i backend.Interface, host backend.Host) backend.Interface {
	i = o.at(i)
	for _, nowhere := range host.Interfaces {
		for _, ip := range o.Node.Internal {
			if ip.IsValid() && (nowhere.Loopback || nowhere.Kind == "dummy") && has(nowhere, ip) {
				i = with(i, ip)
			}
		}
	}
	return i
}

// named returns the first interface with one of the addresses, by IPv4 first,
// and of its addresses those that are named.
func named(all []backend.Interface, by subnet.PerFamily[netip.Addr]) (i backend.Interface, found bool) {
	for _, ip := range by {
		n := slices.IndexFunc(all, func(i backend.Interface) bool { return ip.IsValid() && has(i, ip) })
		if n < 0 {
			continue
		}
		i = all[n]
		for _, ip := range by {
			if ip.IsValid() && has(all[n], ip) {
				i = with(i, ip)
			}
		}
		return i, true
	}
	return i, false
}

// translated returns the address of a family by which the other nodes know this
// one although it is on none of its interfaces: behind NAT.
func (o Options) translated(host backend.Host, f subnet.Family) (netip.Addr, bool) {
	ip := o.Node.Internal[f]
	if !ip.IsValid() || o.asked() || o.Node.Local != (subnet.PerFamily[netip.Addr]{}) || Holder(host, ip) != "" {
		return netip.Addr{}, false
	}
	return ip, true
}

// Holder returns the name of the interface that has an address; "" for none.
func Holder(host backend.Host, ip netip.Addr) string {
	for _, i := range host.Interfaces {
		if has(i, ip) {
			return i.Name
		}
	}
	return ""
}

// Explain says by what a choice was made, and what of it those may wonder at
// who know the node by the addresses that the cluster says.
func (o Options) Explain(host backend.Host, u backend.Underlay) (by string, notes []string) {
	by = o.by(host, u)
	for _, f := range subnet.Families {
		if local := o.Node.Local[f]; local.IsValid() && u.Addresses[f].IsValid() && u.Addresses[f] != local {
			notes = append(notes, fmt.Sprintf("the address %s, which the Node's annotation says to use, is not used: the interface is chosen by %s", local, by))
		}
		internal, told := o.Node.Internal[f], u.PublicIPs[f]
		switch {
		case !internal.IsValid() || !told.IsValid():
		case o.PublicIPs[f].IsValid() && told != internal:
			notes = append(notes, fmt.Sprintf("peers are told %s by flag, not the Node's InternalIP %s", told, internal))
		case told == internal && u.Addresses[f] != internal && !o.PublicIPs[f].IsValid():
			notes = append(notes, fmt.Sprintf("the Node's InternalIP %s is on no interface: it is taken for one behind NAT, peers are told it, packets leave from %s", internal, u.Addresses[f]))
		case told != internal:
			where := "no interface"
			if name := Holder(host, internal); name != "" {
				where = name
			}
			notes = append(notes, fmt.Sprintf("peers are told %s, not the Node's InternalIP %s, which is on %s: the interface is chosen by %s", told, internal, where, by))
		}
	}
	return by, notes
}

func (o Options) by(host backend.Host, u backend.Underlay) string {
	switch {
	case len(o.Interfaces) > 0 || len(o.Patterns) > 0:
		return o.wanted()
	case o.CanReach.IsValid():
		return "--iface-can-reach " + o.CanReach.String()
	case o.Node.Local != (subnet.PerFamily[netip.Addr]{}):
		return "the Node's annotation for " + both(o.Node.Local)
	}
	for _, f := range subnet.Families {
		if ip := u.Addresses[f]; ip.IsValid() && ip == o.Node.Internal[f] {
			return "the Node's InternalIP " + ip.String()
		}
	}
	if slices.ContainsFunc(host.Routes, func(r backend.HostRoute) bool { return r.Dst.Bits() == 0 && r.Link == u.Interface }) {
		return "the default route"
	}
	return "being the only one"
}

// annotations writes those of Local as kubectl takes them.
func (n Node) annotations() string {
	var list []string
	for f, ip := range n.Local {
		if ip.IsValid() {
			list = append(list, n.LocalBy[f]+"="+ip.String())
		}
	}
	return "annotation " + strings.Join(list, " and ")
}

// both writes the addresses of a node.
func both(a subnet.PerFamily[netip.Addr]) string {
	var list []string
	for _, ip := range a {
		if ip.IsValid() {
			list = append(list, ip.String())
		}
	}
	return strings.Join(list, " or ")
}
