package overlay

import (
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
	index  backend.State
	shared map[backend.Key]int // in how many more plans the object of a key is: of some permits
}

func newDesired() *desired {
	return &desired{byNode: map[string][]backend.Object{}, index: backend.State{}, shared: map[backend.Key]int{}}
}

// wants reports whether the object is what we want under that key; nil is
// none.
func (d *desired) wants(k backend.Key, o backend.Object) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.index[k] == o
}

// get returns the object that we want under a key; nil for none.
func (d *desired) get(k backend.Key) backend.Object {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.index[k]
}

// replace takes new plans for some nodes and returns what changes thereby. All
// that the old plans wanted is taken out before the new ones go in: an object
// may move from one node to another.
func (d *desired) replace(plans map[string][]backend.Object) []backend.Change {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := backend.State{}
	for node := range plans {
		for _, o := range d.byNode[node] {
			k := o.Key()
			if _, seen := before[k]; !seen {
				before[k] = d.index[k]
			}
			d.forget(k)
		}
	}
	after := map[backend.Key]bool{}
	for node, objects := range plans {
		if len(objects) == 0 {
			delete(d.byNode, node)
			continue
		}
		d.byNode[node] = objects
		for _, o := range objects {
			k := o.Key()
			other, there := d.index[k]
			if there {
				d.shared[k]++
			}
			if _, seen := before[k]; !seen {
				before[k] = other
			}
			d.index[k] = o
			after[k] = true
		}
	}
	var changes []backend.Change
	for k := range after {
		if have, want := before[k], d.index[k]; have != want {
			changes = append(changes, backend.Change{Have: have, Want: want})
		}
	}
	for k, have := range before {
		if !after[k] && have != nil && d.index[k] == nil && k.Kind != backend.KindSysctl {
			changes = append(changes, backend.Change{Have: have})
		}
	}
	backend.SortChanges(changes)
	return changes
}

// forget takes an object out of the index, unless another plan has it too.
// Called with the lock held.
func (d *desired) forget(k backend.Key) {
	switch n := d.shared[k]; n {
	case 0:
		delete(d.index, k)
	case 1:
		delete(d.shared, k)
	default:
		d.shared[k] = n - 1
	}
}

// has reports whether there is a plan for a node.
func (d *desired) has(node string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byNode[node] != nil
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

// diff compares all that we want with what there is; without prune, what
// nobody wants is left alone.
func (d *desired) diff(have backend.State, prune bool) []backend.Change {
	d.mu.RLock()
	defer d.mu.RUnlock()
	changes := backend.Diff(d.index, have)
	if prune {
		return changes
	}
	kept := changes[:0]
	for _, c := range changes {
		if c.Want != nil {
			kept = append(kept, c)
		}
	}
	return kept
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
