package subnet

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// holders finds the records that have something of which there should be one,
// by its hash: nearly always one has it, and a list for each would take more
// memory than all the rest.
type holders struct {
	first map[uint64]*entry
	more  others[uint64]
}

// others are the further holders of a K.
type others[K comparable] map[K][]*entry

func newHolders() holders {
	return holders{first: map[uint64]*entry{}, more: others[uint64]{}}
}

// of yields the holders of k.
func (h holders) of(k uint64) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		if e := h.first[k]; e != nil && yield(e) {
			h.more.each(k, yield)
		}
	}
}

// add adds e to the holders of k, unless it is one.
func (h holders) add(k uint64, e *entry) {
	if first := h.first[k]; first == nil {
		h.first[k] = e
	} else {
		h.more.add(k, first, e)
	}
}

func (h holders) drop(k uint64, e *entry) {
	if first := h.more.drop(k, h.first[k], e); first != nil {
		h.first[k] = first
	} else {
		delete(h.first, k)
	}
}

func (o others[K]) each(k K, yield func(*entry) bool) bool {
	if len(o) == 0 {
		return true
	}
	return !slices.ContainsFunc(o[k], func(e *entry) bool { return !yield(e) })
}

func (o others[K]) add(k K, first, e *entry) {
	if first != e && !slices.Contains(o[k], e) {
		o[k] = append(o[k], e)
	}
}

// drop returns who is the first holder of k once e is none.
func (o others[K]) drop(k K, first, e *entry) *entry {
	list := o[k]
	switch {
	case len(list) == 0:
		if first == e {
			return nil
		}
		return first
	case first == e:
		first = list[0]
		list = slices.Delete(list, 0, 1)
	default:
		list = slices.DeleteFunc(list, func(x *entry) bool { return x == e })
	}
	if o[k] = list; len(list) == 0 {
		delete(o, k)
	}
	return first
}

// subnetHolders finds the records that have a part of a subnet, of either
// family. An invalid subnet is nobody's.
type subnetHolders struct {
	first *bart.Table[*entry]
	more  others[netip.Prefix]
}

func newSubnetHolders() subnetHolders {
	return subnetHolders{first: &bart.Table[*entry]{}, more: others[netip.Prefix]{}}
}

// overlapping yields the holders of subnets that overlap p.
func (h subnetHolders) overlapping(p netip.Prefix) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for q, e := range h.first.Supernets(p) {
			if !yield(e) || !h.more.each(q, yield) {
				return
			}
		}
		for q, e := range h.first.Subnets(p) {
			if !yield(e) || !h.more.each(q, yield) {
				return
			}
		}
	}
}

func (h subnetHolders) add(p netip.Prefix, e *entry) {
	if !p.IsValid() {
		return
	}
	if first, ok := h.first.Get(p); ok {
		h.more.add(p, first, e)
	} else {
		h.first.Insert(p, e)
	}
}

func (h subnetHolders) drop(p netip.Prefix, e *entry) {
	first, ok := h.first.Get(p)
	if !ok {
		return
	}
	if first = h.more.drop(p, first, e); first != nil {
		h.first.Insert(p, first)
	} else {
		h.first.Delete(p)
	}
}
