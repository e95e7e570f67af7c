package underlay

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// addressOf returns the address of a family that peers are told: the one of
// before or else the first that is usable. Where none is, the one of before is
// kept while it is there: a deprecated address still works (RFC 4862, 5.5.4),
// and one that came back with its link is tentative for a second.
func addressOf(i backend.Interface, f subnet.Family, before netip.Addr) netip.Addr {
	var first, kept netip.Addr
	for _, a := range i.Addresses {
		addr := a.Prefix.Addr()
		switch {
		case subnet.FamilyOf(addr) != f:
		case a.Usable && addr == before:
			return addr
		case a.Usable && !first.IsValid():
			first = addr
		case addr == before:
			kept = addr
		}
	}
	return cmp.Or(first, kept)
}

// addressed reports whether an interface has an address that peers can be told.
func addressed(i backend.Interface) bool {
	return slices.ContainsFunc(i.Addresses, func(a backend.InterfaceAddress) bool { return a.Usable })
}

// with returns i with addr as the only, and a usable, address of its family. One
// that means nothing on another host leaves i as it is.
func with(i backend.Interface, addr netip.Addr) backend.Interface {
	if !addr.IsValid() || addr.Is6() && addr.IsLinkLocalUnicast() {
		return i
	}
	i.Addresses = slices.DeleteFunc(slices.Clone(i.Addresses), func(a backend.InterfaceAddress) bool {
		return subnet.FamilyOf(a.Prefix.Addr()) == subnet.FamilyOf(addr)
	})
	i.Addresses = append(i.Addresses, backend.InterfaceAddress{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Usable: true})
	return i
}

// narrow returns i with only those addresses that a pattern matches, in each
// family where it matches a usable one; ok means that it does in one at least.
func narrow(i backend.Interface, re *regexp.Regexp) (narrowed backend.Interface, ok bool) {
	var matched subnet.PerFamily[bool]
	matches := func(a backend.InterfaceAddress) bool { return a.Usable && re.MatchString(a.Prefix.Addr().String()) }
	for _, a := range i.Addresses {
		if matches(a) {
			matched[subnet.FamilyOf(a.Prefix.Addr())] = true
		}
	}
	i.Addresses = slices.DeleteFunc(slices.Clone(i.Addresses), func(a backend.InterfaceAddress) bool {
		return matched[subnet.FamilyOf(a.Prefix.Addr())] && !matches(a)
	})
	return i, matched != subnet.PerFamily[bool]{}
}

func find(all []backend.Interface, name string) (backend.Interface, bool) {
	return backend.Host{Interfaces: all}.Interface(name)
}

func has(i backend.Interface, addr netip.Addr) bool {
	return slices.ContainsFunc(i.Addresses, func(a backend.InterfaceAddress) bool { return a.Prefix.Addr() == addr })
}
