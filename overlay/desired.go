package overlay

import (
	"slices"
	"sync"

	"github.com/twill-net/twill/backend"
)

// hostPlan is the place of this node's own objects among those of the peers;
// no node has that name.
const hostPlan = ""

// desired is what we want in the kernel: the sum of one plan for each peer and
// one for this node.
type desired struct {
	mu     sync.RWMutex
	byNode map[string][]backend.Object
	kernel *backend.Set
	guard  *backend.Set        // what is the Guard's
	shared map[backend.Key]int // in how many more plans the object of a key is: of some permits
}

func newDesired() *desired {
	return &desired{byNode: map[string][]backend.Object{}, kernel: backend.NewSet(0), guard: backend.NewSet(0), shared: map[backend.Key]int{}}
}

// index is where objects of a kind are.
func (d *desired) index(k backend.Kind) *backend.Set {
	if guarded(k) {
		return d.guard
	}
	return d.kernel
}

// wants reports whether the object is what we want under that key; nil is
// none.
func (d *desired) wants(k backend.Key, o backend.Object) bool { return d.get(k) == o }

// get returns the object that we want under a key; nil for none.
func (d *desired) get(k backend.Key) backend.Object {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.index(k.Kind).Get(k)
}

// replace takes new plans for some nodes and returns what changes thereby, in no
// order. All that the old plans wanted is taken out before the new ones go
// in: an object may move from one node to another.
func (d *desired) replace(plans map[string][]backend.Object) []backend.Change {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.byNode) == 0 { // a start: room is made once
		d.byNode = make(map[string][]backend.Object, len(plans))
		d.kernel, d.guard = backend.NewSet(3*len(plans)), backend.NewSet(2*len(plans))
	}
	before := backend.State{} // what was wanted under the keys that more than one plan, old or new, has
	for node, objects := range plans {
		if slices.Equal(d.byNode[node], objects) {
			continue
		}
		for _, o := range d.byNode[node] {
			k := o.Key()
			if _, seen := before[k]; !seen {
				before[k] = d.index(k.Kind).Get(k)
			}
			d.forget(k)
		}
	}
	var changes []backend.Change
	for node, objects := range plans {
		if slices.Equal(d.byNode[node], objects) {
			continue
		}
		if len(objects) == 0 {
			delete(d.byNode, node)
			continue
		}
		d.byNode[node] = objects
		for _, o := range objects {
			k := o.Key()
			other := d.index(k.Kind).Get(k)
			if other != nil {
				d.shared[k]++
			}
			d.index(k.Kind).Put(o)
			if _, seen := before[k]; seen || other == o {
				continue
			}
			if other == nil {
				changes = append(changes, backend.Change{Want: o})
				continue
			}
			// Two plans disagree, which no two records that count make them do.
			n := len(changes)
			changes = slices.DeleteFunc(changes, func(c backend.Change) bool { return c.Key() == k })
			if before[k] = nil; len(changes) == n {
				before[k] = other
			}
		}
	}
	for k, have := range before {
		want := d.index(k.Kind).Get(k)
		if have != want && (want != nil || k.Kind != backend.KindSysctl) {
			changes = append(changes, backend.Change{Have: have, Want: want})
		}
	}
	return changes
}

// forget takes an object out of the index, unless another plan has it too.
// Called with the lock held.
func (d *desired) forget(k backend.Key) {
	switch n := d.shared[k]; n {
	case 0:
		d.index(k.Kind).Delete(k)
	case 1:
		delete(d.shared, k)
	default:
		d.shared[k] = n - 1
	}
}

// peerNews is which peers came, changed or went.
type peerNews struct {
	added, changed, gone int
	some                 []struct{ id, what string } // the first of them
}

// maxNews bounds peerNews.some.
const maxNews = 8

// news returns what becomes of the nodes that are dirty by their new plans.
func (d *desired) news(dirty map[string]bool, plans map[string][]backend.Object) (n peerNews) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for id := range dirty {
		var what string
		switch had, has := d.byNode[id] != nil, plans[id] != nil; {
		case had && !has:
			what = "peer gone"
			n.gone++
		case had:
			what = "peer changed"
			n.changed++
		case has:
			what = "peer added"
			n.added++
		default:
			continue // a record that does not count
		}
		if len(n.some) < maxNews {
			n.some = append(n.some, struct{ id, what string }{id, what})
		}
	}
	return n
}

// peers returns to how many nodes there is a way.
func (d *desired) peers() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n := len(d.byNode)
	if d.byNode[hostPlan] != nil {
		n--
	}
	return n
}

// objects returns how many objects we want.
func (d *desired) objects() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.kernel.Len() + d.guard.Len()
}

// nodes returns for which nodes there are plans.
func (d *desired) nodes() []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	ids := make([]string, 0, len(d.byNode))
	for id := range d.byNode {
		if id != hostPlan {
			ids = append(ids, id)
		}
	}
	return ids
}

// compare compares what we want of the kernel, or of the guard, with what read
// finds there, and returns what differs in no order; what nobody wants is left alone
// where it may not be pruned. It holds up who
// plans, and nobody else.
func (d *desired) compare(with *backend.Set, prunes func(backend.Kind) bool, read func(found func(backend.Object)) error) ([]backend.Change, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	c := backend.NewComparison(with)
	if err := read(c.Found); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(c.Changes(), func(c backend.Change) bool { return c.Want == nil && !prunes(c.Key().Kind) }), nil
}

// sysctls returns the names of the sysctls that we want.
func (d *desired) sysctls() []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var names []string
	for _, o := range d.byNode[hostPlan] {
		if s, ok := o.(backend.Sysctl); ok {
			names = append(names, s.Name)
		}
	}
	return names
}
