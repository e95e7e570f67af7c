package overlay

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/twill-net/twill/overlay/lastgood"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
)

// removalDelay is how long leases that a restored store no longer has are
// kept: their owners announce themselves again within it.
const removalDelay = 60 * time.Second

// leases takes what the store tells of its leases.
func (b *inbox) leases(u subnet.Update) {
	defer b.poke()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told++
	b.answered = true
	b.news.refusals = true
	var dirty []string
	for _, r := range u.Put {
		if d := b.doubtful[r.Key]; d.instead == nil || d.instead.Modified != r.Modified {
			delete(b.doubtful, r.Key)
		}
	}
	if u.Full {
		list := u.Put
		if u.WentBack || len(b.doubtful) > 0 {
			list = b.keepDoubtful(list, u.WentBack)
		}
		dirty = b.snapshot.Replace(list)
		if u.WentBack && !b.inSync {
			// What an earlier run wrote down last may be older than what it
			// programmed: a node that had moved meanwhile is where the kernel has it.
			b.unsure = time.Now().Add(removalDelay)
		}
		b.inSync = true
		b.news.resync = everything
	} else {
		for _, r := range u.Put {
			dirty = append(dirty, b.announced(r)...)
			dirty = append(dirty, b.snapshot.Put(r)...)
		}
		for _, key := range u.Gone {
			if d := b.doubtful[key]; d.instead != nil { // that is what has gone
				b.doubtful[key] = doubt{until: d.until}
				continue
			}
			dirty = append(dirty, b.snapshot.Delete(key)...)
		}
	}
	b.markNodes(dirty)
}

// doubt is of a record that a restored store lacked when it was first seen, or in
// whose place it had that of a former owner.
type doubt struct {
	until   time.Time
	instead *subnet.Record // what the store has in its place; nil for nothing
}

// keepDoubtful returns the list with the records that are doubtful, for as long as
// they are kept. Called with the lock held.
func (b *inbox) keepDoubtful(listed []subnet.Record, wentBack bool) []subnet.Record {
	list := slices.Clone(listed)
	at := make(map[string]int, len(list))
	for i, r := range list {
		at[r.Key] = i
	}
	until := time.Now().Add(removalDelay)
	for _, known := range b.snapshot.Records() {
		_, doubtful := b.doubtful[known.Key]
		i, has := at[known.Key]
		switch {
		case has && wentBack && !doubtful && listed[i].Modified < known.Modified && listed[i].Lease.ID() != known.Lease.ID():
			instead := listed[i]
			b.doubtful[known.Key] = doubt{until, &instead}
			list[i] = known
		case has && doubtful:
			list[i] = known
		case has || !doubtful && !wentBack:
		default:
			list = append(list, known)
			if !doubtful {
				b.doubtful[known.Key] = doubt{until: until}
			}
		}
	}
	return list
}

// resolve lets a doubtful record go, for what the store has. Called with the lock
// held.
func (b *inbox) resolve(key string) (dirty []string) {
	d := b.doubtful[key]
	delete(b.doubtful, key)
	if d.instead != nil {
		return b.snapshot.Put(*d.instead)
	}
	return b.snapshot.Delete(key)
}

// announced lets go the doubtful records of a node that has announced itself
// again: theirs are the higher revisions, of a history that is no more. Called
// with the lock held.
func (b *inbox) announced(r subnet.Record) (dirty []string) {
	if len(b.doubtful) == 0 {
		return nil
	}
	for _, key := range b.snapshot.KeysOf(r.Lease.ID()) {
		if _, ok := b.doubtful[key]; ok && key != r.Key {
			dirty = append(dirty, b.resolve(key)...)
		}
	}
	return dirty
}

// expire lets the doubtful records go whose time has come, and returns when
// the next one's will; zero for none.
func (b *inbox) expire(now time.Time) (next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, d := range b.doubtful {
		switch {
		case !now.Before(d.until):
			b.markNodes(b.resolve(key))
			b.news.refusals = true
			b.told++ // it is to be remembered
		case next.IsZero() || d.until.Before(next):
			next = d.until
		}
	}
	switch {
	case b.unsure.IsZero():
	case !now.Before(b.unsure):
		b.unsure, b.news.resync = time.Time{}, everything
	case next.IsZero() || b.unsure.Before(next):
		next = b.unsure
	}
	return next
}

// markNodes notes nodes to plan again. Called with the lock held.
func (b *inbox) markNodes(ids []string) {
	if len(ids) > 0 && b.news.nodes == nil {
		b.news.nodes = make(map[string]bool, len(ids))
	}
	for _, id := range ids {
		b.news.nodes[id] = true
	}
}

// setOwn settles the leases for our own and another backend, and returns the
// IDs of all nodes.
func (b *inbox) setOwn(own subnet.Lease, check subnet.Check) map[string]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	dirty := map[string]bool{}
	for _, id := range b.snapshot.SetOwn(own, check) {
		dirty[id] = true
	}
	return dirty
}

// peer returns the lease of a node that is a peer.
func (b *inbox) peer(id string) (subnet.Lease, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.snapshot.Peer(id)
}

// heard reports whether the store told of leases. A network config alone may
// be of a file.
func (b *inbox) heard() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.answered
}

// recall takes what an earlier run knew, unless the store has told something
// meanwhile, but for a network config that is there. It is no full list of the
// store's, so that nothing is deleted for it.
func (b *inbox) recall(s lastgood.State) (taken bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.answered {
		return false
	}
	if !b.configured {
		b.news.config, b.news.configRecalled = s.Config, true
	}
	if !b.located {
		node := underlay.Located(s.Own.Lease)
		b.news.node, b.news.routes, b.routesAt = &node, true, time.Time{}
	}
	b.news.held, b.news.heldRecalled, b.news.refusals = &s.Own, true, true
	b.markNodes(b.snapshot.Replace(s.Records))
	b.poke()
	return true
}

// recollect takes the records that an earlier run knew, before the first full
// list. A node that the list has elsewhere is there: it may have moved since.
func (b *inbox) recollect(records, list []subnet.Record) {
	keys, nodes := make(map[string]bool, len(list)), make(map[string]bool, len(list))
	for _, r := range list {
		keys[r.Key] = true
		if r.Invalid == "" && r.Lease.Active() {
			nodes[r.Lease.ID()] = true
		}
	}
	records = slices.DeleteFunc(records, func(r subnet.Record) bool { return nodes[r.Lease.ID()] && !keys[r.Key] })
	b.mu.Lock()
	defer b.mu.Unlock()
	b.markNodes(b.snapshot.Replace(records))
}

// knows reports whether there is something worth to be remembered: a full list
// and our lease.
func (b *inbox) knows() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.inSync && b.own != nil
}

// known returns our lease, the records of the store, the number of the last
// news, and whether some of the records are doubtful. There are no records
// before the first full list, nor while our lease is not ours.
func (b *inbox) known() (s lastgood.State, records iter.Seq[subnet.Record], told uint64, doubts bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.inSync || b.own == nil {
		return s, nil, 0, false
	}
	s.Own = *b.own
	keys := b.snapshot.Keys()
	return s, func(yield func(subnet.Record) bool) {
		for _, key := range keys {
			b.mu.Lock()
			r, ok := b.snapshot.Record(key)
			b.mu.Unlock()
			if ok && !yield(r) {
				return
			}
		}
	}, b.told, len(b.doubtful) > 0
}

// taken reports whether a peer has a subnet that overlaps p.
func (b *inbox) taken(p netip.Prefix) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range b.snapshot.Peers() {
		if l, ok := b.snapshot.Peer(id); ok && l.Subnets[subnet.FamilyOf(p.Addr())].Overlaps(p) {
			return true
		}
	}
	return false
}

// isInSync reports whether the store's first full list has arrived, before
// which nothing is deleted.
func (b *inbox) isInSync() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.inSync
}

// refused returns the records that do not count.
func (b *inbox) refused() []subnet.Refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.snapshot.Refused()
}

// counts returns how many peers and refused records there are.
func (b *inbox) counts() (peers, refused int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.snapshot.Count()
}

// leasesSeen returns the peers' leases and the records that do not count.
func (b *inbox) leasesSeen() ([]subnet.Lease, []subnet.Refusal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var peers []subnet.Lease
	for _, id := range b.snapshot.Peers() {
		if l, ok := b.snapshot.Peer(id); ok {
			peers = append(peers, l)
		}
	}
	return peers, b.snapshot.Refused()
}
