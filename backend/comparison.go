package backend

// Comparison compares what there is with what is wanted, one object at a time:
// of those that are as they must be, of which there may be 100 000, nothing is
// kept but that.
type Comparison struct {
	want  Objects
	same  *Set           // found as wanted; nil for none
	other map[Key]Object // found otherwise, or not wanted

	// Links that will be deleted, made anew, and get another MAC.
	deleted, renewed, readdressed map[string]bool
}

// NewComparison begins a comparison. Nil is a set of nothing.
func NewComparison(want Objects) *Comparison {
	if want == nil {
		want = State(nil)
	}
	return &Comparison{
		want: want, other: map[Key]Object{},
		deleted: map[string]bool{}, renewed: map[string]bool{}, readdressed: map[string]bool{},
	}
}

// Found takes an object that is there, once or more often, in any order.
func (c *Comparison) Found(have Object) {
	k := have.Key()
	want := c.want.Get(k)
	if want == have {
		if c.same == nil { // most likely all of it is there
			c.same = NewSet(c.want.Len())
		}
		c.same.Put(want) // not have, which costs memory of its own
		return
	}
	c.other[k] = have
	h, ok := have.(Link)
	if !ok {
		return
	}
	switch w, ok := want.(Link); {
	case !ok:
		c.deleted[h.Name] = true
	case w.Replaces(h):
		c.renewed[h.Name] = true
	case w.MAC != h.MAC:
		c.readdressed[h.Name] = true
	}
}

// Changes returns the changes which lead from what was found to what is wanted,
// in no order; see SortChanges. What the kernel drops with a link that is
// replaced or gets another MAC counts as absent; what it drops with a link that
// is deleted is not deleted one by one. Sysctls are not deleted.
func (c *Comparison) Changes() []Change {
	if c.same == nil {
		c.same = NewSet(0)
	}
	if len(c.other) == 0 && c.same.Len() == c.want.Len() {
		return nil
	}
	changes := make([]Change, 0, max(0, c.want.Len()-c.same.Len()))
	nothing := len(c.other)+c.same.Len() == 0 // as at the first start of a node
	for want := range c.want.All() {
		var have Object
		if !nothing {
			have = c.found(want.Key())
		}
		if have != nil && c.lost(have) {
			have = nil
		}
		if have != want {
			changes = append(changes, Change{Have: have, Want: want})
		}
	}
	for k, have := range c.other {
		if k.Kind != KindSysctl && c.want.Get(k) == nil && !c.lost(have) && !c.deleted[LinkOf(have)] {
			changes = append(changes, Change{Have: have})
		}
	}
	return changes
}

// found returns what was found under a key; nil for nothing.
func (c *Comparison) found(k Key) Object {
	if o, ok := c.other[k]; ok {
		return o
	}
	return c.same.Get(k)
}

// lost reports whether the kernel drops an object with the link that it is on.
func (c *Comparison) lost(o Object) bool {
	if len(c.renewed) == 0 && len(c.readdressed) == 0 {
		return false
	}
	_, neighbor := o.(Neighbor) // neigh_changeaddr, net/core/neighbour.c
	return c.renewed[LinkOf(o)] || neighbor && c.readdressed[LinkOf(o)]
}
