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
// peers, and which are refused. It settles conflicts: our own lease wins, then
// the older record. It is not safe for concurrent use.
//
// A change costs what the records cost that conflict with it, whatever the
// number of others.
type Snapshot struct {
	self      string
	own       Lease
	ownClaims []string
	check     Check
	records   map[string]*entry   // by key
	byNode    map[string][]*entry // by Lease.ID
	byClaim   map[string][]*entry
	bySubnet  *bart.Table[[]*entry] // both families
}

type entry struct {
	Record
	claims  []string
	unfit   string // why check, or the store, does not take it
	refused string // "" when the record counts
}

// NewSnapshot returns an empty snapshot of the node called self. check is
// asked once for each record.
func NewSnapshot(self string, check Check) *Snapshot {
	s := &Snapshot{self: self, check: check}
	s.clear()
	return s
}

func (s *Snapshot) clear() {
	s.records = map[string]*entry{}
	s.byNode = map[string][]*entry{}
	s.byClaim = map[string][]*entry{}
	s.bySubnet = &bart.Table[[]*entry]{}
}

// Put takes a new or changed record and returns the IDs of the nodes whose
// lease may be another now.
func (s *Snapshot) Put(r Record) []string {
	dirty := map[string]bool{}
	s.remove(r.Key, dirty)
	e := s.insert(r)
	s.settle(s.component(e), dirty)
	return sorted(dirty)
}

// Delete forgets a record and returns the IDs of the nodes whose lease may be
// another now.
func (s *Snapshot) Delete(key string) []string {
	dirty := map[string]bool{}
	s.remove(key, dirty)
	return sorted(dirty)
}

// Replace takes a full list and returns the IDs of the nodes whose lease may
// be another now. Records that are as they were cost a comparison.
func (s *Snapshot) Replace(list []Record) []string {
	dirty := map[string]bool{}
	keep := make(map[string]bool, len(list))
	for _, r := range list {
		keep[r.Key] = true
	}
	for key := range s.records {
		if !keep[key] {
			s.remove(key, dirty)
		}
	}
	for _, r := range list {
		if e := s.records[r.Key]; e == nil || e.Record != r {
			for _, id := range s.Put(r) {
				dirty[id] = true
			}
		}
	}
	return sorted(dirty)
}

// SetOwn names our own lease and how peers are checked from now on, and
// settles everything again. It returns the IDs of all nodes.
func (s *Snapshot) SetOwn(own Lease, check Check) []string {
	s.own, s.check = own, check
	s.ownClaims, _ = s.claims(own)
	records := s.records
	s.clear()
	dirty := map[string]bool{}
	for _, e := range records {
		s.insert(e.Record)
	}
	s.settle(s.records, dirty)
	return sorted(dirty)
}

// Peer returns the lease of a node that is a peer: active, accepted, not us.
func (s *Snapshot) Peer(id string) (Lease, bool) {
	for _, e := range s.byNode[id] {
		if e.refused == "" && e.Lease.Active() && !s.isOwn(e.Lease) {
			return e.Lease, true
		}
	}
	return Lease{}, false
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

// Records returns all records, in no order.
func (s *Snapshot) Records() []Record {
	out := make([]Record, 0, len(s.records))
	for _, e := range s.records {
		out = append(out, e.Record)
	}
	return out
}

// Refused returns the records that do not count, sorted by key.
func (s *Snapshot) Refused() []Refusal {
	var out []Refusal
	for key, e := range s.records {
		if e.refused != "" {
			out = append(out, Refusal{Key: key, Node: e.Lease.ID(), Reason: e.refused})
		}
	}
	slices.SortFunc(out, func(a, b Refusal) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// isOwn reports whether a lease is ours: it carries our name, or, written by
// a flannel that ran here before, no name and our address.
func (s *Snapshot) isOwn(l Lease) bool {
	if l.Node != "" {
		return l.Node == s.self
	}
	return l.ID() != "" && l.ID() == Lease{PublicIPs: s.own.PublicIPs}.ID()
}

// claims returns what no other node may have besides l, apart from subnets.
func (s *Snapshot) claims(l Lease) (claims []string, err error) {
	if l.Active() && s.check != nil {
		claims, err = s.check(l)
	}
	for _, ip := range l.PublicIPs {
		if ip.IsValid() {
			claims = append(claims, "public IP "+ip.String())
		}
	}
	return claims, err
}

func (s *Snapshot) insert(r Record) *entry {
	e := &entry{Record: r, unfit: r.Invalid}
	var err error
	if e.claims, err = s.claims(r.Lease); err != nil && e.unfit == "" {
		e.unfit = err.Error()
	}
	s.records[e.Key] = e
	if id := e.Lease.ID(); id != "" {
		s.byNode[id] = append(s.byNode[id], e)
	}
	for _, c := range e.claims {
		s.byClaim[c] = append(s.byClaim[c], e)
	}
	for _, p := range e.Lease.Subnets {
		if p.IsValid() {
			holders, _ := s.bySubnet.Get(p)
			s.bySubnet.Insert(p, append(holders, e))
		}
	}
	return e
}

// remove forgets a record and settles those which it stood in the way of.
func (s *Snapshot) remove(key string, dirty map[string]bool) {
	e := s.records[key]
	if e == nil {
		return
	}
	freed := s.component(e)
	delete(freed, key)
	delete(s.records, key)
	drop(s.byNode, e.Lease.ID(), e)
	for _, c := range e.claims {
		drop(s.byClaim, c, e)
	}
	for _, p := range e.Lease.Subnets {
		if !p.IsValid() {
			continue
		}
		holders, _ := s.bySubnet.Get(p)
		if holders = without(holders, e); len(holders) == 0 {
			s.bySubnet.Delete(p)
		} else {
			s.bySubnet.Insert(p, holders)
		}
	}
	dirty[e.Lease.ID()] = true
	s.settle(freed, dirty)
}
