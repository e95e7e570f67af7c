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

// Options is what the operator said of the external interface. The zero value
// means the interface of the default route.
type Options struct {
	Interfaces []string         // names or addresses; the first that is there counts
	Patterns   []*regexp.Regexp // of names or addresses; after Interfaces
	CanReach   netip.Addr       // the interface whose route leads there; after Patterns
	PublicIPs  subnet.PerFamily[netip.Addr]
	Ours       func(name string) bool // links that can never be it
}

// RouteFunc returns the link and the source address of the route to an address.
type RouteFunc func(netip.Addr) (link string, src netip.Addr, err error)

// candidate is an interface, and the address of it that was asked for, if one
// was.
type candidate struct {
	backend.Interface
	address netip.Addr
}

// Select chooses the external interface and its addresses. Those of before, the
// previous choice or the zero value, are kept where they are still as good as
// others. The error says what was looked for and what there is.
func (o Options) Select(host backend.Host, route RouteFunc, before backend.Underlay) (backend.Underlay, error) {
	c, err := o.choose(host, route, before)
	if err != nil {
		return backend.Underlay{}, err
	}
	u := backend.Underlay{Interface: c.Name, MTU: c.MTU, OnLink: onLink(host.Routes)}
	for _, f := range subnet.Families {
		u.Addresses[f] = c.addressOf(f, before.Addresses[f])
		u.PublicIPs[f] = u.Addresses[f]
		if public := o.PublicIPs[f]; public.IsValid() && u.Addresses[f].IsValid() {
			u.PublicIPs[f] = public
		}
	}
	if u.Addresses == (subnet.PerFamily[netip.Addr]{}) {
		return backend.Underlay{}, fmt.Errorf("interface %s has no address that peers could be told: give it one or choose another with --iface", c.Name)
	}
	return u, nil
}

func (o Options) choose(host backend.Host, route RouteFunc, before backend.Underlay) (candidate, error) {
	all := o.candidates(host)
	switch {
	case len(o.Interfaces) > 0 || len(o.Patterns) > 0:
		if c, ok := o.named(all); ok {
			return c, nil
		}
		return candidate{}, fmt.Errorf("no interface matches %s: there are %s", o.wanted(), list(all))
	case o.CanReach.IsValid():
		link, src, err := route(o.CanReach)
		if err != nil {
			return candidate{}, fmt.Errorf("finding the interface that can reach %s: %w", o.CanReach, err)
		}
		if i := slices.IndexFunc(all, func(i backend.Interface) bool { return i.Name == link }); i >= 0 {
			return candidate{all[i], src}, nil
		}
		return candidate{}, fmt.Errorf("the route to %s leads through %s, which cannot face peers: there are %s", o.CanReach, link, list(all))
	}
	return byDefaultRoute(all, host.Routes, before)
}

// candidates are the interfaces that are up and not ours.
func (o Options) candidates(host backend.Host) []backend.Interface {
	var out []backend.Interface
	for _, i := range host.Interfaces {
		if i.Up && !i.Loopback && (o.Ours == nil || !o.Ours(i.Name)) {
			out = append(out, i)
		}
	}
	return out
}

// named returns the first interface that was asked for by name or address.
func (o Options) named(all []backend.Interface) (candidate, bool) {
	for _, want := range o.Interfaces {
		addr, _ := netip.ParseAddr(want)
		for _, i := range all {
			if i.Name == want {
				return candidate{i, netip.Addr{}}, true
			}
			if addr.IsValid() && has(i, addr) {
				return candidate{i, addr}, true
			}
		}
	}
	for _, re := range o.Patterns {
		for _, i := range all {
			if re.MatchString(i.Name) {
				return candidate{i, netip.Addr{}}, true
			}
			for _, a := range i.Addresses {
				if a.Usable && re.MatchString(a.Prefix.Addr().String()) {
					return candidate{i, a.Prefix.Addr()}, true
				}
			}
		}
	}
	return candidate{}, false
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

// byDefaultRoute takes the interface of the best default route, IPv4 before
// IPv6; without one, the only interface that has an address.
func byDefaultRoute(all []backend.Interface, routes []backend.HostRoute, before backend.Underlay) (candidate, error) {
	for _, f := range subnet.Families {
		var best *backend.HostRoute
		for _, r := range routes {
			if r.Dst.Bits() != 0 || subnet.FamilyOf(r.Dst.Addr()) != f || !contains(all, r.Link) {
				continue
			}
			if best == nil || r.Metric < best.Metric || r.Metric == best.Metric && r.Link == before.Interface {
				best = &r
			}
		}
		if best != nil {
			i := slices.IndexFunc(all, func(i backend.Interface) bool { return i.Name == best.Link })
			return candidate{all[i], netip.Addr{}}, nil
		}
	}
	var addressed []backend.Interface
	for _, i := range all {
		if slices.ContainsFunc(i.Addresses, func(a backend.InterfaceAddress) bool { return a.Usable }) && i.Master == "" {
			addressed = append(addressed, i)
		}
	}
	if len(addressed) == 1 {
		return candidate{addressed[0], netip.Addr{}}, nil
	}
	if len(all) == 0 {
		return candidate{}, errors.New("no interface is up: waiting for the network")
	}
	return candidate{}, fmt.Errorf("there is no default route to choose the interface by: name it with --iface; there are %s", list(all))
}

func contains(all []backend.Interface, name string) bool {
	return slices.ContainsFunc(all, func(i backend.Interface) bool { return i.Name == name })
}

func list(all []backend.Interface) string {
	if len(all) == 0 {
		return "none that are up"
	}
	names := make([]string, len(all))
	for n, i := range all {
		names[n] = i.Name
	}
	return strings.Join(names, ", ")
}

func (c candidate) addressOf(f subnet.Family, before netip.Addr) netip.Addr {
	if c.address.IsValid() && subnet.FamilyOf(c.address) == f {
		return c.address
	}
	var first netip.Addr
	for _, a := range c.Addresses {
		addr := a.Prefix.Addr()
		if !a.Usable || subnet.FamilyOf(addr) != f {
			continue
		}
		if addr == before {
			return addr
		}
		if !first.IsValid() {
			first = addr
		}
	}
	return first
}

// onLink returns the routes that tell which addresses need no router: those on
// link, and those through a gateway that take a part out of one of them.
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
			return d.Dst.Bits() < r.Dst.Bits() && d.Dst.Contains(r.Dst.Addr())
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

func has(i backend.Interface, addr netip.Addr) bool {
	return slices.ContainsFunc(i.Addresses, func(a backend.InterfaceAddress) bool { return a.Prefix.Addr() == addr })
}
