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

// queue has a record settled.
func (c *changes) queue(e *entry) {
	if !e.queued {
		e.queued = true
		heap.Push(&c.bySeniority, e)
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
		counted := e.counts
		if why := s.reason(e); why == "" {
			e.counts = true
			delete(s.refused, e)
		} else {
			e.counts = false
			s.refused[e] = why
		}
		if e.counts != counted {
			s.changed(e, c)
		}
	}
	slices.Sort(c.nodes)
	return slices.Compact(c.nodes)
}

// changed notes that a record counts now or no longer does.
func (s *Snapshot) changed(e *entry, c *changes) {
	l := e.lease()
	c.note(l.ID())
	s.queueJuniors(e, &l, c)
}

// queueJuniors has those settled in whose way e stands, or stood.
func (s *Snapshot) queueJuniors(e *entry, l *Lease, c *changes) {
	for o := range s.rivals(e, l) {
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
	l := e.lease()
	id := l.ID()
	last := e
	for o := range s.ofNode(id) {
		if compareWritten(o, last) > 0 {
			last = o
		}
	}
	if last != e {
		why := fmt.Sprintf("node %s has a newer lease, %s", id, last.key())
		if a, b := l.MachineID, last.lease().MachineID; a != b && a != "" && b != "" {
			why += ", from another machine"
		}
		return why
	}
	for o := range s.rivals(e, &l) {
		if !o.counts || !senior(o, e) {
			continue
		}
		other := o.lease()
		claims, _ := s.claims(&l)
		others, _ := s.claims(&other)
		if what := conflict(&l, claims, &other, others); what != "" { // else two hashes are one by chance
			return fmt.Sprintf("%s of node %s, whose lease is older", what, other.ID())
		}
	}
	return ""
}

// compareWritten orders the records of one node.
func compareWritten(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.modified, b.modified), cmp.Compare(a.created, b.created), cmp.Compare(a.key(), b.key()))
}

// senior reports whether of two nodes' records a goes before b.
func senior(a, b *entry) bool {
	if a.created != b.created {
		return a.created < b.created
	}
	return a.key() < b.key()
}

// contested reports whether any record is of e's node, or has a part of a
// subnet or a claim in common with e, which is not in the indices yet.
func (s *Snapshot) contested(e *entry, id string, l *Lease) bool {
	for _, p := range l.Subnets {
		if s.bySubnet.first.OverlapsPrefix(p) {
			return true
		}
	}
	for _, c := range e.claims {
		if s.byClaim.first[c] != nil {
			return true
		}
	}
	return s.byNode.first[s.hash(id)] != nil
}

// rivals yields the records which have a part of a subnet or a claim in common
// with e, some of them twice; e itself is among them.
func (s *Snapshot) rivals(e *entry, l *Lease) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for _, p := range l.Subnets {
			for o := range s.bySubnet.overlapping(p) {
				if !yield(o) {
					return
				}
			}
		}
		for _, c := range e.claims {
			for o := range s.byClaim.of(c) {
				if !yield(o) {
					return
				}
			}
		}
	}
}

// conflict says what a lease has that another has too, "" for nothing.
func conflict(l *Lease, claims []string, other *Lease, others []string) string {
	for _, f := range Families {
		if p, q := l.Subnets[f], other.Subnets[f]; p.IsValid() && q.IsValid() && p.Overlaps(q) {
			return fmt.Sprintf("its subnet %s overlaps %s", p, q)
		}
	}
	for _, c := range claims {
		if slices.Contains(others, c) {
			return fmt.Sprintf("its %s is also that", c)
		}
	}
	for f, ip := range l.PublicIPs {
		if ip.IsValid() && ip == other.PublicIPs[f] {
			return fmt.Sprintf("its public IP %s is also that", ip)
		}
	}
	return ""
}

func (s *Snapshot) index(e *entry, id string, l *Lease) {
	s.byNode.add(s.hash(id), e)
	for _, c := range e.claims {
		s.byClaim.add(c, e)
	}
	for _, p := range l.Subnets {
		s.bySubnet.add(p, e)
	}
}

func (s *Snapshot) unindex(e *entry, id string, l *Lease) {
	s.byNode.drop(s.hash(id), e)
	for _, c := range e.claims {
		s.byClaim.drop(c, e)
	}
	for _, p := range l.Subnets {
		s.bySubnet.drop(p, e)
	}
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
