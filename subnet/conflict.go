package subnet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// component returns e and all records that conflict with it, directly or
// through others, by key.
func (s *Snapshot) component(e *entry) map[string]*entry {
	found := map[string]*entry{e.Key: e}
	for todo := []*entry{e}; len(todo) > 0; todo = todo[1:] {
		for _, other := range s.rivals(todo[0]) {
			if found[other.Key] == nil {
				found[other.Key] = other
				todo = append(todo, other)
			}
		}
	}
	return found
}

// rivals returns the records which share e's node, a claim or a part of a
// subnet with it, some of them twice; e itself is among them.
func (s *Snapshot) rivals(e *entry) []*entry {
	var out []*entry
	if id := e.Lease.ID(); id != "" {
		out = append(out, s.byNode[id]...)
	}
	for _, c := range e.claims {
		out = append(out, s.byClaim[c]...)
	}
	for _, p := range e.Lease.Subnets {
		if !p.IsValid() {
			continue
		}
		for _, holders := range s.bySubnet.Supernets(p) {
			out = append(out, holders...)
		}
		for _, holders := range s.bySubnet.Subnets(p) {
			out = append(out, holders...)
		}
	}
	return out
}

// settle decides which of a component's records count: by seniority, each that
// is fit and does not conflict with one accepted before.
func (s *Snapshot) settle(component map[string]*entry, dirty map[string]bool) {
	order := slices.SortedFunc(maps.Values(component), s.compareSeniority)
	for _, e := range order {
		e.refused = "not settled"
	}
	for _, e := range order {
		e.refused = s.reason(e)
		dirty[e.Lease.ID()] = true
	}
}

// compareSeniority orders ours first, then the older record. Of one node's
// own records the younger counts: it is where the node is now.
func (s *Snapshot) compareSeniority(a, b *entry) int {
	if aOwn, bOwn := s.isOwn(a.Lease), s.isOwn(b.Lease); aOwn != bOwn {
		if aOwn {
			return -1
		}
		return 1
	}
	if a.Lease.ID() == b.Lease.ID() {
		a, b = b, a
	}
	return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Key, b.Key))
}

// reason says why e cannot count beside those that were settled before it.
func (s *Snapshot) reason(e *entry) string {
	id := e.Lease.ID()
	switch {
	case s.isOwn(e.Lease):
		return ""
	case e.unfit != "":
		return e.unfit
	case id == "":
		return "it has neither a node name nor a public IP"
	}
	if what := conflict(e, s.own, s.ownClaims); what != "" {
		return what + " of this node"
	}
	rivals := s.rivals(e)
	slices.SortFunc(rivals, func(a, b *entry) int { return cmp.Compare(a.Key, b.Key) })
	for _, o := range rivals {
		if o == e || o.refused != "" || s.isOwn(o.Lease) {
			continue
		}
		if o.Lease.ID() == id {
			return fmt.Sprintf("node %s has a newer lease, %s", id, o.Key)
		}
		if what := conflict(e, o.Lease, o.claims); what != "" {
			return fmt.Sprintf("%s of node %s, whose lease is older", what, o.Lease.ID())
		}
	}
	return ""
}

// conflict says what e has that another lease has too, "" for nothing.
func conflict(e *entry, other Lease, claims []string) string {
	for _, f := range Families {
		if p, q := e.Lease.Subnets[f], other.Subnets[f]; p.IsValid() && q.IsValid() && p.Overlaps(q) {
			return fmt.Sprintf("its subnet %s overlaps %s", p, q)
		}
	}
	for _, c := range e.claims {
		if slices.Contains(claims, c) {
			return fmt.Sprintf("its %s is also that", c)
		}
	}
	return ""
}

func drop(m map[string][]*entry, k string, e *entry) {
	if left := without(m[k], e); len(left) > 0 {
		m[k] = left
	} else {
		delete(m, k)
	}
}

// without returns list less e, in place.
func without(list []*entry, e *entry) []*entry {
	return slices.DeleteFunc(list, func(o *entry) bool { return o == e })
}

func sorted(ids map[string]bool) []string {
	delete(ids, "")
	return slices.Sorted(maps.Keys(ids))
}
