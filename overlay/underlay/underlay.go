// Package underlay chooses the interface and the addresses that face the
// peers, from what the kernel tells of the host. It is pure: the caller brings
// the Host, and asks again when it changes.
package underlay

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// Options is what the operator, and the cluster, said of the external interface.
// The operator is heard first. The zero value means the interface of the
// default route.
type Options struct {
	// Interfaces are names or addresses; the first that is there, up and has an
	// address counts. An address that is asked for is announced even when it is
	// deprecated, say; an IPv6 link-local one only names the interface.
	Interfaces []string
	Patterns   []*regexp.Regexp // of names or addresses; after Interfaces
	CanReach   netip.Addr       // the interface whose route leads there; unless Interfaces or Patterns are given
	PublicIPs  subnet.PerFamily[netip.Addr]
	Node       Node
	Ours       func(name string) bool // links that can never be it
}

// RouteFunc returns the link and the source address of the route to an address.
type RouteFunc func(netip.Addr) (link string, src netip.Addr, err error)

// Select chooses the external interface and its addresses. Those of before, the
// previous choice or the zero value, are kept where they are still as good as
// others. A family in which the interface has no address stays without one,
// whatever PublicIPs says. The error says what was looked for and what there
// is.
func (o Options) Select(host backend.Host, route RouteFunc, before backend.Underlay) (backend.Underlay, error) {
	i, err := o.choose(host, route, before)
	if err != nil {
		return backend.Underlay{}, err
	}
	u := backend.Underlay{Interface: i.Name, MTU: i.MTU, OnLink: onLink(host.Routes)}
	for _, f := range subnet.Families {
		u.Addresses[f] = addressOf(i, f, before.Addresses[f])
		u.PublicIPs[f] = u.Addresses[f]
		if !u.Addresses[f].IsValid() {
			continue
		}
		if public, ok := o.translated(host, f); ok {
			u.PublicIPs[f] = public
		}
		if public := o.PublicIPs[f]; public.IsValid() {
			u.PublicIPs[f] = public
		}
	}
	u.TakesRA = i.AcceptRA == 2 || i.AcceptRA == 1 && (!i.ForwardsIP6 || before.Interface == i.Name && before.TakesRA)
	if u.Addresses == (subnet.PerFamily[netip.Addr]{}) {
		return backend.Underlay{}, fmt.Errorf("interface %s has no address that peers could be told: give it one or choose another with --iface", i.Name)
	}
	return u, nil
}

func (o Options) choose(host backend.Host, route RouteFunc, before backend.Underlay) (backend.Interface, error) {
	all := o.candidates(host)
	switch {
	case len(o.Interfaces) > 0 || len(o.Patterns) > 0:
		matches := o.matches(all)
		if len(matches) == 0 {
			return backend.Interface{}, fmt.Errorf("no interface matches %s: there are %s", o.wanted(), o.list(host))
		}
		if n := slices.IndexFunc(matches, addressed); n >= 0 {
			return o.at(matches[n]), nil
		}
		return matches[0], nil
	case o.CanReach.IsValid():
		link, src, err := route(o.CanReach)
		if err != nil {
			return backend.Interface{}, fmt.Errorf("finding the interface that can reach %s: %w", o.CanReach, err)
		}
		if i, ok := find(all, link); ok {
			// The source may be an address of another link, of lo, say.
			return with(i, src), nil
		}
		return backend.Interface{}, fmt.Errorf("the route to %s leads through %s, which cannot face peers: there are %s", o.CanReach, link, o.list(host))
	}
	if i, ok, err := o.byNode(host, all, before); ok || err != nil {
		return i, err
	}
	if i, ok := byDefaultRoute(all, host.Routes, before); ok {
		return o.routed(i, host), nil
	}
	return o.guess(host, all, before)
}

// candidates are the interfaces that are up and not ours.
func (o Options) candidates(host backend.Host) []backend.Interface {
	return slices.DeleteFunc(slices.Clone(host.Interfaces), func(i backend.Interface) bool {
		return !i.Up || o.never(i)
	})
}

func (o Options) never(i backend.Interface) bool {
	return i.Loopback || o.Ours != nil && o.Ours(i.Name)
}

// matches returns the interfaces that were asked for by name or address, best
// first, each with the addresses that were asked for.
func (o Options) matches(all []backend.Interface) []backend.Interface {
	var out []backend.Interface
	for _, want := range o.Interfaces {
		addr, _ := netip.ParseAddr(want)
		addr = addr.Unmap()
		for _, i := range all {
			switch {
			case i.Name == want:
				out = append(out, i)
			case addr.IsValid() && has(i, addr):
				out = append(out, with(i, addr))
			}
		}
	}
	for _, re := range o.Patterns {
		for _, i := range all {
			if re.MatchString(i.Name) {
				out = append(out, i)
			} else if i, ok := narrow(i, re); ok {
				out = append(out, i)
			}
		}
	}
	return out
}

func (o Options) wanted() string {
	var w []string
	for _, s := range o.Interfaces {
		w = append(w, "--iface "+s)
	}
	for _, re := range o.Patterns {
		w = append(w, "--iface-regex "+re.String())
	}
	return strings.Join(w, ", ")
}

// byDefaultRoute returns the interface of the best default route, IPv4 before
// IPv6.
func byDefaultRoute(all []backend.Interface, routes []backend.HostRoute, before backend.Underlay) (i backend.Interface, found bool) {
	for _, f := range subnet.Families {
		var best backend.HostRoute
		for _, r := range routes {
			if r.Dst.Bits() != 0 || subnet.FamilyOf(r.Dst.Addr()) != f {
				continue
			}
			if on, ok := find(all, r.Link); ok &&
				(!found || r.Metric < best.Metric || r.Metric == best.Metric && r.Link == before.Interface) {
				i, best, found = on, r, true
			}
		}
		if found {
			return i, true
		}
	}
	return i, false
}

// guess returns the interface of before, else the only one that can face peers.
func (o Options) guess(host backend.Host, all []backend.Interface, before backend.Underlay) (backend.Interface, error) {
	outer := slices.DeleteFunc(slices.Clone(all), func(i backend.Interface) bool {
		return !addressed(i) || i.Master != "" || inner(i, all)
	})
	if i, ok := find(outer, before.Interface); ok {
		return i, nil
	}
	switch {
	case len(outer) == 1:
		return outer[0], nil
	case len(outer) > 1:
		return backend.Interface{}, fmt.Errorf("there is no default route to choose the interface by: name it with --iface; there are %s", o.list(host))
	case len(all) > 0:
		return backend.Interface{}, fmt.Errorf("no interface has an address that peers could be told: waiting for the network; there are %s", o.list(host))
	}
	return backend.Interface{}, errors.New("no interface is up: waiting for the network")
}

// inner reports whether an interface is of the kind that a host has for its
// own pods, containers and virtual machines. Such a one faces peers only when a
// route or the operator says so.
func inner(i backend.Interface, all []backend.Interface) bool {
	switch i.Kind {
	case "vxlan", "dummy":
		return true
	case "bridge":
		return !slices.ContainsFunc(all, func(port backend.Interface) bool {
			return port.Master == i.Name && port.Kind != "veth" && port.Kind != "tun"
		})
	}
	return false
}

// list names the interfaces to choose from, for errors: not the ports of a
// bridge, of which there is one for each pod.
func (o Options) list(host backend.Host) string {
	const most = 8
	var names []string
	more := 0
	for _, i := range host.Interfaces {
		switch {
		case o.never(i) || i.Master != "":
		case len(names) == most:
			more++
		case !i.Up:
			names = append(names, i.Name+" (down)")
		default:
			names = append(names, i.Name)
		}
	}
	s := strings.Join(names, ", ")
	switch {
	case s == "":
		return "none"
	case more > 0:
		return fmt.Sprintf("%s and %d more", s, more)
	}
	return s
}

// onLink returns the routes that tell which addresses need no router: those on
// link, and those through a gateway that take one of them, or a part, away.
func onLink(routes []backend.HostRoute) []backend.HostRoute {
	var direct, out []backend.HostRoute
	for _, r := range routes {
		if !r.Via.IsValid() && r.Dst.Bits() > 0 && !r.Dst.Addr().IsLinkLocalUnicast() && !r.Dst.Addr().IsMulticast() {
			direct = append(direct, r)
		}
	}
	out = append(out, direct...)
	for _, r := range routes {
		if r.Via.IsValid() && slices.ContainsFunc(direct, func(d backend.HostRoute) bool {
			return d.Dst.Bits() <= r.Dst.Bits() && d.Dst.Contains(r.Dst.Addr())
		}) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b backend.HostRoute) int {
		return cmp.Or(a.Dst.Addr().Compare(b.Dst.Addr()), cmp.Compare(a.Dst.Bits(), b.Dst.Bits()),
			cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Link, b.Link), a.Via.Compare(b.Via))
	})
	return out
}
