package subnet

import (
	"cmp"
	"slices"

	"github.com/gaissmai/bart"
)

// Refusal is a record that does not count, and why.
type Refusal struct {
	Key    string
	Node   string // Lease.ID, as far as it could be read
	Reason string
}

// Check says whether a lease can be used by the backend at all, and which
// things it claims for itself besides its subnets and public IPs, in words:
// "VTEP MAC 02:…". No two nodes may claim one thing.
type Check func(Lease) (claims []string, err error)

// Snapshot is what a store holds, as one node sees it: which records are
// peers, and which are refused. It is not safe for concurrent use.
//
// What is settled depends on the records alone, not on the order they came in:
//   - A record that is broken, that Check does not take, or that conflicts
//     with our own lease is refused, and stands in nobody's way.
//   - Of the others of one node that which was written last counts: it is
//     where the node is now.
//   - Of two nodes that have an address of a subnet, a public IP or a claim in
//     common the one whose record is older counts, if nothing else stands in
//     its way.
//   - Our own records, and reservations that wait for their node, are neither
//     peers nor refused.
//
// A change costs what the records cost that it makes count or not count,
// whatever the number of others.
type Snapshot struct {
	self      string
	own       Lease
	ownClaims []string
	check     Check
	records   map[string]*entry // by key
	refused   map[string]*entry // those that do not count, by key

	// The records that may count, by what there can be one of.
	byNode   map[string][]*entry // by Lease.ID
	byClaim  map[string][]*entry
	bySubnet *bart.Table[[]*entry] // both families
}

// entry is a record and what was settled about it.
type entry struct {
	Record
	contends bool     // it may count; it is in the indices
	claims   []string // of a contender, its public IPs among them
	refused  string   // why it does not count
	queued   bool     // it is to be settled
}

// counts reports whether the record makes its node a peer.
func (e *entry) counts() bool { return e.contends && e.refused == "" }

// NewSnapshot returns an empty snapshot of the node called self. check is
// asked once for each record; nil takes all.
func NewSnapshot(self string, check Check) *Snapshot {
	s := &Snapshot{self: self, check: check}
	s.clear()
	return s
}

func (s *Snapshot) clear() {
	s.records = map[string]*entry{}
	s.refused = map[string]*entry{}
	s.byNode = map[string][]*entry{}
	s.byClaim = map[string][]*entry{}
	s.bySubnet = &bart.Table[[]*entry]{}
}

// Put takes a new or changed record and returns the IDs of the nodes whose
// lease is another now, or may be, sorted.
func (s *Snapshot) Put(r Record) []string {
	if s.unchanged(r) {
		return nil
	}
	var c changes
	s.unlink(r.Key, &c)
	s.link(r, &c)
	return s.settle(&c)
}

// Delete forgets a record and returns the IDs of the nodes whose lease is
// another now, or may be, sorted.
func (s *Snapshot) Delete(key string) []string {
	var c changes
	s.unlink(key, &c)
	return s.settle(&c)
}

// Replace takes a full list and returns the IDs of the nodes whose lease is
// another now, or may be, sorted. Records that are as they were cost a
// comparison.
func (s *Snapshot) Replace(list []Record) []string {
	var c changes
	keep := make(map[string]bool, len(list))
	for _, r := range list {
		keep[r.Key] = true
	}
	for key := range s.records {
		if !keep[key] {
			s.unlink(key, &c)
		}
	}
	for _, r := range list {
		if !s.unchanged(r) {
			s.unlink(r.Key, &c)
			s.link(r, &c)
		}
	}
	return s.settle(&c)
}

// SetOwn names our own lease and how peers are checked from now on, and
// settles everything again. It returns the IDs of all nodes, sorted.
func (s *Snapshot) SetOwn(own Lease, check Check) []string {
	s.own, s.check = own, check
	s.ownClaims, _ = s.claims(own)
	records := s.records
	s.clear()
	var c changes
	for _, e := range records {
		s.link(e.Record, &c)
		c.note(e.Lease.ID())
	}
	return s.settle(&c)
}

// Peer returns the lease of a node that is a peer: active, accepted, not us.
func (s *Snapshot) Peer(id string) (Lease, bool) {
	for _, e := range s.byNode[id] {
		if e.counts() {
			return e.Lease, true
		}
	}
	return Lease{}, false
}

// KeysOf returns the keys of the records of a node that may count.
func (s *Snapshot) KeysOf(id string) []string {
	var keys []string
	for _, e := range s.byNode[id] {
		keys = append(keys, e.Key)
	}
	return keys
}

// Peers returns the IDs of all peers, sorted.
func (s *Snapshot) Peers() []string {
	ids := make([]string, 0, len(s.byNode))
	for id := range s.byNode {
		if _, ok := s.Peer(id); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Records returns all records, sorted by key.
func (s *Snapshot) Records() []Record {
	out := make([]Record, 0, len(s.records))
	for _, e := range s.records {
		out = append(out, e.Record)
	}
	slices.SortFunc(out, func(a, b Record) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// Keys returns the keys of all records, in no order.
func (s *Snapshot) Keys() []string {
	keys := make([]string, 0, len(s.records))
	for key := range s.records {
		keys = append(keys, key)
	}
	return keys
}

// Record returns the record under a key.
func (s *Snapshot) Record(key string) (Record, bool) {
	e, ok := s.records[key]
	if !ok {
		return Record{}, false
	}
	return e.Record, true
}

// Refused returns the records that do not count, sorted by key. It costs what
// they cost, not the others.
func (s *Snapshot) Refused() []Refusal {
	var out []Refusal
	for key, e := range s.refused {
		out = append(out, Refusal{Key: key, Node: e.Lease.ID(), Reason: e.refused})
	}
	slices.SortFunc(out, func(a, b Refusal) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// unchanged reports whether a record is known already, and notes when it was
// written: a flannel renews its lease by writing it again. Where the node has
// another record that may decide which of them counts.
func (s *Snapshot) unchanged(r Record) bool {
	e := s.records[r.Key]
	if e == nil {
		return false
	}
	old := e.Record
	old.Modified = r.Modified
	if old != r || e.Modified != r.Modified && len(s.byNode[r.Lease.ID()]) > 1 {
		return false
	}
	e.Record = r
	return true
}

func (s *Snapshot) isOwn(l Lease) bool { return l.Node != "" && l.Node == s.self }

// claims returns what no other node may have besides l, apart from subnets.
func (s *Snapshot) claims(l Lease) (claims []string, err error) {
	if s.check != nil && l.Active() {
		claims, err = s.check(l)
	}
	for _, ip := range l.PublicIPs {
		if ip.IsValid() {
			claims = append(claims, "public IP "+ip.String())
		}
	}
	return claims, err
}

// link takes a record in. What does not depend on other nodes is settled here.
func (s *Snapshot) link(r Record, c *changes) {
	e := &entry{Record: r}
	s.records[e.Key] = e
	l := e.Lease
	if r.Invalid != "" {
		s.refuse(e, r.Invalid)
		return
	}
	if !l.Active() || s.isOwn(l) {
		return
	}
	if l.ID() == "" {
		s.refuse(e, "it has neither a node name nor a public IP")
		return
	}
	var err error
	if e.claims, err = s.claims(l); err != nil {
		s.refuse(e, err.Error())
		return
	}
	if what := conflict(e, s.own, s.ownClaims); what != "" {
		s.refuse(e, what+" of this node")
		return
	}
	e.contends = true
	s.refuse(e, "not settled yet")
	s.index(e)
	c.queue(s.byNode[l.ID()]...)
}

// refuse notes why a record does not count; "" when it does.
func (s *Snapshot) refuse(e *entry, reason string) {
	e.refused = reason
	if reason == "" {
		delete(s.refused, e.Key)
	} else {
		s.refused[e.Key] = e
	}
}

// unlink forgets a record and queues those in whose way it stood.
func (s *Snapshot) unlink(key string, c *changes) {
	e := s.records[key]
	if e == nil {
		return
	}
	delete(s.records, key)
	delete(s.refused, key)
	if !e.contends {
		return
	}
	if e.counts() {
		s.changed(e, c)
	}
	s.unindex(e)
	e.contends = false
	c.queue(s.byNode[e.Lease.ID()]...)
}
