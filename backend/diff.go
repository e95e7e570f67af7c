package backend

import (
	"iter"
	"maps"
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

// Objects is a set of objects of which no two have the same key.
type Objects interface {
	Get(Key) Object // nil for none
	All() iter.Seq[Object]
	Len() int
}

// Get implements Objects.
func (s State) Get(k Key) Object { return s[k] }

// All implements Objects.
func (s State) All() iter.Seq[Object] { return maps.Values(s) }

// Len implements Objects.
func (s State) Len() int { return len(s) }

// Change is one step from what the kernel has to what we want. Have is nil
// when the object is not there yet, Want is nil when it shall go.
type Change struct {
	Have, Want Object
}

// Object returns what is to be there, or else what is to go.
func (c Change) Object() Object {
	if c.Want != nil {
		return c.Want
	}
	return c.Have
}

// Key returns the key of the object that changes.
func (c Change) Key() Key { return c.Object().Key() }

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
// be applied: those of a Comparison, sorted. Nil is a set of nothing.
func Diff(want, have Objects) []Change {
	c := NewComparison(want)
	if have != nil {
		for h := range have.All() {
			c.Found(h)
		}
	}
	changes := c.Changes()
	SortChanges(changes)
	return changes
}

// ranks bounds what rank returns.
const ranks = 4 * int(KindRules)

// rank says when a change is made: the lower, the earlier.
func rank(c Change) uint8 {
	if c.Want == nil {
		return uint8(2 * (2*int(KindRoute) - int(c.Have.Key().Kind)))
	}
	n := 2 * int(c.Want.Key().Kind)
	if s, ok := c.Want.(Sysctl); ok && strings.Contains(s.Name, "forward") {
		n++
	}
	return uint8(n)
}

// SortChanges puts changes into the order of application: puts by ascending
// Kind, then deletes by descending Kind, so that the new way is there before the
// old one goes. Changes of one kind are in no particular, but a stable order, with one exception:
// forwarding is switched on after the other sysctls, which say what it leaves
// alone.
func SortChanges(changes []Change) { Sort(changes, func(c Change) Change { return c }) }

// Sort is SortChanges for what carries changes.
func Sort[T any](list []T, change func(T) Change) {
	if len(list) < 2 {
		return
	}
	// There are few ranks, and a start brings some 100 000 changes: counted,
	// not compared.
	of := make([]uint8, len(list))
	var next [ranks + 1]int // where the changes of a rank begin
	for i, t := range list {
		of[i] = rank(change(t))
		next[of[i]+1]++
	}
	for r := range ranks {
		next[r+1] += next[r]
	}
	sorted := make([]T, len(list))
	for i, t := range list {
		sorted[next[of[i]]] = t
		next[of[i]]++
	}
	copy(list, sorted)
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
