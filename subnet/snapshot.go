package subnet

import (
	"cmp"
	"hash/maphash"
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
	for e := range s.byNode.of(s.hash(id)) {
		if e.counts {
			if l := e.lease(); l.ID() == id {
				return l, true
			}
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
