package subnet

import (
	"hash/maphash"
	"iter"
)

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
