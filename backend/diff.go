package backend

import (
	"cmp"
	"slices"
	"strings"
)

// State is a set of objects by their keys.
type State map[Key]Object

// NewState returns the objects as a State; of two objects with one key the
// later counts.
func NewState(objects ...Object) State {
	s := make(State, len(objects))
	for _, o := range objects {
		s[o.Key()] = o
	}
	return s
}

// Change is one step from what the kernel has to what we want. Have is nil
// when the object is not there yet, Want is nil when it shall go.
type Change struct {
	Have, Want Object
}

// Key returns the key of the object that changes.
func (c Change) Key() Key {
	if c.Want != nil {
		return c.Want.Key()
	}
	return c.Have.Key()
}

// String tells the change for the audit log.
func (c Change) String() string {
	switch {
	case c.Have == nil:
		return "add " + c.Want.String()
	case c.Want == nil:
		return "delete " + c.Have.String()
	}
	return "replace " + c.Have.String() + " by " + c.Want.String()
}

// Diff returns the changes which lead from have to want, in an order that can
// be applied: puts by ascending Kind, then deletes by descending Kind, so that
// the new way is there before the old one goes. What the kernel drops with a
// link that is replaced or gets another MAC counts as absent; what it drops
// with a link that is deleted is not deleted one by one.
func Diff(want, have State) []Change {
	deleted := map[string]bool{}
	renewed := map[string]bool{}
	readdressed := map[string]bool{}
	for k, h := range have {
		h, ok := h.(Link)
		if !ok {
			continue
		}
		w, ok := want[k].(Link)
		deleted[h.Name] = !ok
		renewed[h.Name] = ok && w.Replaces(h)
		readdressed[h.Name] = ok && w.MAC != h.MAC
	}
	lost := func(o Object) bool {
		_, neighbor := o.(Neighbor) // neigh_changeaddr, net/core/neighbour.c
		return renewed[LinkOf(o)] || neighbor && readdressed[LinkOf(o)]
	}
	var changes []Change
	for k, w := range want {
		h := have[k]
		if h != nil && lost(h) {
			h = nil
		}
		if h != w {
			changes = append(changes, Change{Have: h, Want: w})
		}
	}
	for k, h := range have {
		if _, ok := want[k]; !ok && k.Kind != KindSysctl && !lost(h) && !deleted[LinkOf(h)] {
			changes = append(changes, Change{Have: h})
		}
	}
	SortChanges(changes)
	return changes
}

// SortChanges puts changes into the order of application; see Diff. Changes
// of one kind are in no particular, but a stable order, with one exception:
// forwarding is switched on after the other sysctls, which say what it leaves
// alone.
func SortChanges(changes []Change) {
	rank := func(c Change) int {
		if c.Want == nil {
			return 2 * (2*int(KindRoute) - int(c.Have.Key().Kind))
		}
		n := 2 * int(c.Want.Key().Kind)
		if s, ok := c.Want.(Sysctl); ok && strings.Contains(s.Name, "forward") {
			n++
		}
		return n
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(rank(a), rank(b)) })
}

// LinkOf returns the link that carries o and takes it along, "" when none
// does.
func LinkOf(o Object) string {
	switch o := o.(type) {
	case Address:
		return o.Link
	case Neighbor:
		return o.Link
	case FDB:
		return o.Link
	case Route:
		return o.Link
	case Sysctl: // net/ipv4/conf/twill.1/rp_filter
		if path := strings.Split(o.Name, "/"); len(path) == 5 && path[0] == "net" {
			return path[3]
		}
	}
	return ""
}
