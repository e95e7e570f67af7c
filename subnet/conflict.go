package subnet

import (
	"cmp"
	"container/heap"
	"fmt"
	"iter"
	"slices"
)

// changes is what is to be settled, the most senior record first, and the
// nodes whose lease is another by what has been.
type changes struct {
	bySeniority seniority
	nodes       []string
}

// note notes a node whose lease may be another.
func (c *changes) note(id string) {
	if id != "" {
		c.nodes = append(c.nodes, id)
	}
}

// queue has records settled.
func (c *changes) queue(list ...*entry) {
	for _, e := range list {
		if !e.queued {
			e.queued = true
			heap.Push(&c.bySeniority, e)
		}
	}
}

// settle decides which of the queued records count, and of those that this
// stands in the way of or clears it for. Whether one counts depends on senior
// ones alone, so that each is looked at once.
func (s *Snapshot) settle(c *changes) []string {
	for c.bySeniority.Len() > 0 {
		e := heap.Pop(&c.bySeniority).(*entry)
		e.queued = false
		if !e.contends {
			continue // forgotten meanwhile
		}
		counted := e.counts()
		if s.refuse(e, s.reason(e)); e.counts() != counted {
			s.changed(e, c)
		}
	}
	slices.Sort(c.nodes)
	return slices.Compact(c.nodes)
}

// changed notes that a record counts now or no longer does.
func (s *Snapshot) changed(e *entry, c *changes) {
	c.note(e.Lease.ID())
	for o := range s.rivals(e) {
		if senior(e, o) {
			c.queue(o)
		}
	}
}

// reason says why e cannot count beside its node's other records and the
// senior ones of other nodes, which have been settled. It finds the same of
// several whatever the order that the records came in: those which count do
// not overlap each other, so that an index has one of them in each place.
func (s *Snapshot) reason(e *entry) string {
	id := e.Lease.ID()
	if last := slices.MaxFunc(s.byNode[id], compareWritten); last != e {
		why := fmt.Sprintf("node %s has a newer lease, %s", id, last.Key)
		if a, b := e.Lease.MachineID, last.Lease.MachineID; a != b && a != "" && b != "" {
			why += ", from another machine"
		}
		return why
	}
	for o := range s.rivals(e) {
		if o.counts() && senior(o, e) {
			return fmt.Sprintf("%s of node %s, whose lease is older", conflict(e, o.Lease, o.claims), o.Lease.ID())
		}
	}
	return ""
}

// compareWritten orders the records of one node.
func compareWritten(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.Modified, b.Modified), cmp.Compare(a.Created, b.Created), cmp.Compare(a.Key, b.Key))
}

// senior reports whether of two nodes' records a goes before b.
func senior(a, b *entry) bool {
	return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Key, b.Key)) < 0
}

// rivals yields the records which have a part of a subnet or a claim in common
// with e, some of them twice; e itself is among them.
func (s *Snapshot) rivals(e *entry) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		each := func(list []*entry) bool {
			return !slices.ContainsFunc(list, func(o *entry) bool { return !yield(o) })
		}
		for _, p := range e.Lease.Subnets {
			for _, holders := range s.bySubnet.Supernets(p) {
				if !each(holders) {
					return
				}
			}
			for _, holders := range s.bySubnet.Subnets(p) {
				if !each(holders) {
					return
				}
			}
		}
		for _, c := range e.claims {
			if !each(s.byClaim[c]) {
				return
			}
		}
	}
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

func (s *Snapshot) index(e *entry) {
	add(s.byNode, e.Lease.ID(), e)
	for _, c := range e.claims {
		add(s.byClaim, c, e)
	}
	for _, p := range e.Lease.Subnets {
		s.bySubnet.Modify(p, func(list []*entry, _ bool) ([]*entry, bool) { return append(list, e), false })
	}
}

func (s *Snapshot) unindex(e *entry) {
	drop(s.byNode, e.Lease.ID(), e)
	for _, c := range e.claims {
		drop(s.byClaim, c, e)
	}
	for _, p := range e.Lease.Subnets {
		s.bySubnet.Modify(p, func(list []*entry, _ bool) ([]*entry, bool) {
			list = without(list, e)
			return list, len(list) == 0
		})
	}
}

func add(m map[string][]*entry, k string, e *entry) { m[k] = append(m[k], e) }

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

// seniority is a heap of records, the most senior on top.
type seniority []*entry

func (q seniority) Len() int           { return len(q) }
func (q seniority) Less(i, j int) bool { return senior(q[i], q[j]) }
func (q seniority) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *seniority) Push(x any)        { *q = append(*q, x.(*entry)) }
func (q *seniority) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return x
}
