package subnet

import (
	"cmp"
	"hash/maphash"
	"iter"
	"slices"
)

// Refusal is a record that does not count, and why.
type Refusal struct {
	Key    string
	Node   string // Lease.ID, as far as it could be read
	Reason string
}

// Check says whether a lease can be used by the backend at all, and which
// things it claims for itself besides its subnets and public IPs, in words:
// "VTEP MAC 02:…". No two nodes may claim one thing. Its answer must depend on
// the lease alone: it is asked once for each record, and again in a conflict.
type Check func(Lease) (claims []string, err error)

// Snapshot is what a store holds, as one node sees it: which records are
// peers, and which are refused. It is not safe for concurrent use.
//
// What is settled depends on the records alone, not on the order they came in:
//   - Before SetOwn nothing is: there are no peers and nobody is refused.
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
// whatever the number of others. A record takes some 400 bytes.
type Snapshot struct {
	self      string
	settles   bool // SetOwn was called
	own       Lease
	ownClaims []string
	check     Check
	records   map[string]*entry // by key
	refused   map[*entry]string // those that do not count, and why

	// The records that may count, by what there can be one of.
	byNode   holders // by Lease.ID
	byClaim  holders
	bySubnet subnetHolders
	seed     maphash.Seed // of their hashes
}

// entry is a record and what was settled about it.
type entry struct {
	packed            packed
	created, modified int64
	claims            []uint64 // of a contender: the hashes of its claims, its public IPs among them
	contends          bool     // it may count; it is in the indices
	counts            bool     // it makes its node a peer
	queued            bool     // it is to be settled
}

func (e *entry) key() string    { return e.packed.key() }
func (e *entry) record() Record { return e.packed.record(e.created, e.modified) }
func (e *entry) lease() Lease   { return e.record().Lease }
func (e *entry) id() string     { return e.lease().ID() }

// NewSnapshot returns an empty snapshot of the node called self.
func NewSnapshot(self string) *Snapshot {
	s := &Snapshot{self: self, records: map[string]*entry{}, seed: maphash.MakeSeed()}
	s.clear()
	return s
}

// clear forgets what was settled.
func (s *Snapshot) clear() {
	s.refused = map[*entry]string{}
	s.byNode, s.byClaim = newHolders(), newHolders()
	s.bySubnet = newSubnetHolders()
}

// Put takes a new or changed record and returns the IDs of the nodes whose
// lease is another now, or may be, sorted.
func (s *Snapshot) Put(r Record) []string {
	var c changes
	s.put(&r, &c)
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
	if len(s.records) > 0 {
		keep := make(map[string]bool, len(list))
		for i := range list {
			keep[list[i].Key] = true
		}
		for key := range s.records {
			if !keep[key] {
				s.unlink(key, &c)
			}
		}
	}
	for i := range list {
		s.put(&list[i], &c)
	}
	return s.settle(&c)
}

// SetOwn names our own lease and how peers are checked from now on, nil for
// not at all, and settles everything, or everything again. It returns the IDs
// of all nodes, sorted.
func (s *Snapshot) SetOwn(own Lease, check Check) []string {
	s.settles, s.own, s.check = true, own, check
	s.ownClaims, _ = s.claims(&own)
	s.clear()
	c := changes{nodes: make([]string, 0, len(s.records))}
	for _, e := range s.records {
		r := e.record()
		e.contends, e.counts, e.claims = false, false, nil
		s.link(e, &r, &c)
		c.note(r.Lease.ID())
	}
	return s.settle(&c)
}

// Peer returns the lease of a node that is a peer: active, accepted, not us.
func (s *Snapshot) Peer(id string) (Lease, bool) {
	for e := range s.ofNode(id) {
		if e.counts {
			return e.lease(), true
		}
	}
	return Lease{}, false
}

// KeysOf returns the keys of the records of a node that may count.
func (s *Snapshot) KeysOf(id string) []string {
	var keys []string
	for e := range s.ofNode(id) {
		keys = append(keys, e.key())
	}
	return keys
}

// Peers returns the IDs of all peers, sorted.
func (s *Snapshot) Peers() []string {
	ids := make([]string, 0, len(s.records))
	for _, e := range s.records {
		if e.counts {
			ids = append(ids, e.id())
		}
	}
	slices.Sort(ids)
	return ids
}

// Count returns how many peers and how many refused records there are.
func (s *Snapshot) Count() (peers, refused int) {
	for _, e := range s.records {
		if e.counts {
			peers++
		}
	}
	return peers, len(s.refused)
}

// Records returns all records, sorted by key.
func (s *Snapshot) Records() []Record {
	out := make([]Record, 0, len(s.records))
	for _, e := range s.records {
		out = append(out, e.record())
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
	return e.record(), true
}

// Refused returns the records that do not count, sorted by key. It costs what
// they cost, not the others.
func (s *Snapshot) Refused() []Refusal {
	var out []Refusal
	for e, why := range s.refused {
		r := e.record()
		out = append(out, Refusal{Key: r.Key, Node: r.Lease.ID(), Reason: why})
	}
	slices.SortFunc(out, func(a, b Refusal) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// put takes a record in, in the place of an earlier one.
func (s *Snapshot) put(r *Record, c *changes) {
	var room [512]byte
	form := appendPacked(room[:0], r)
	if s.unchanged(r, form) {
		return
	}
	s.unlink(r.Key, c)
	e := &entry{packed: packed(form), created: r.Created, modified: r.Modified}
	s.records[e.key()] = e // a string of its own, not one of r's
	s.link(e, r, c)
}

// unchanged reports whether a record is known already, and notes when it was
// written: a flannel renews its lease by writing it again. Where the node has
// another record that may decide which of them counts.
func (s *Snapshot) unchanged(r *Record, form []byte) bool {
	e := s.records[r.Key]
	if e == nil || e.created != r.Created || string(e.packed) != string(form) {
		return false
	}
	if e.modified != r.Modified {
		if len(s.byNode.more[s.hash(r.Lease.ID())]) > 0 {
			return false
		}
		e.modified = r.Modified
	}
	return true
}

// link settles of a record what does not depend on other nodes, and the rest
// too where there is nobody that it could depend on.
func (s *Snapshot) link(e *entry, r *Record, c *changes) {
	l := &r.Lease
	switch {
	case !s.settles:
		return
	case r.Invalid != "":
		s.refused[e] = r.Invalid
		return
	case !l.Active() || s.isOwn(l):
		return
	}
	id := l.ID()
	if id == "" {
		s.refused[e] = "it has neither a node name nor a public IP"
		return
	}
	claims, err := s.claims(l)
	if err != nil {
		s.refused[e] = err.Error()
		return
	}
	if what := conflict(l, claims, &s.own, s.ownClaims); what != "" {
		s.refused[e] = what + " of this node"
		return
	}
	e.claims = s.hashes(l, claims)
	e.contends, e.counts = true, !s.contested(e, id, l)
	s.index(e, id, l)
	if e.counts {
		c.note(id)
		return
	}
	s.refused[e] = "not settled yet"
	for o := range s.ofNode(id) {
		c.queue(o)
	}
}

// unlink forgets a record and queues those in whose way it stood.
func (s *Snapshot) unlink(key string, c *changes) {
	e := s.records[key]
	if e == nil {
		return
	}
	delete(s.records, key)
	delete(s.refused, e)
	if !e.contends {
		return
	}
	l := e.lease()
	id := l.ID()
	s.unindex(e, id, &l)
	if e.counts {
		c.note(id)
	}
	if s.contested(e, id, &l) {
		s.queueJuniors(e, &l, c)
		for o := range s.ofNode(id) {
			c.queue(o)
		}
	}
	e.contends, e.counts = false, false
}

func (s *Snapshot) isOwn(l *Lease) bool { return l.Node != "" && l.Node == s.self }

// claims returns what no other node may have besides l, apart from subnets and
// public IPs.
func (s *Snapshot) claims(l *Lease) (claims []string, err error) {
	if s.check == nil || !l.Active() {
		return nil, nil
	}
	return s.check(*l)
}

// hashes returns those of a lease's claims and public IPs.
func (s *Snapshot) hashes(l *Lease, claims []string) []uint64 {
	sums := make([]uint64, 0, len(claims)+len(l.PublicIPs))
	for _, c := range claims {
		sums = append(sums, s.hash(c))
	}
	for _, ip := range l.PublicIPs {
		if ip.IsValid() {
			form := ip.As16()
			sums = append(sums, maphash.Bytes(s.seed, form[:]))
		}
	}
	return sums
}

func (s *Snapshot) hash(of string) uint64 { return maphash.String(s.seed, of) }

// ofNode yields the records of a node that may count.
func (s *Snapshot) ofNode(id string) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for e := range s.byNode.of(s.hash(id)) {
			if e.id() == id && !yield(e) {
				return
			}
		}
	}
}
