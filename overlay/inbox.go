package overlay

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/lastgood"
	"github.com/twill-net/twill/subnet"
)

// removalDelay is how long leases that a restored store no longer has are
// kept: their owners announce themselves again within it.
const removalDelay = 60 * time.Second

// What comes together is to arrive together. A link that goes down is announced,
// and then each entry that went with it: one pass mends it all, and begins when
// nothing more has come for driftDelay, but driftMost after the first at the latest.
const (
	driftDelay = 5 * time.Millisecond
	driftMost  = 100 * time.Millisecond
	hostDelay  = 20 * time.Millisecond
)

// inbox gathers what happened since the reconciler last looked. Nothing in it
// is a queue: each part holds the newest state of something, so that it never
// grows beyond what there is.
type inbox struct {
	wake    chan struct{} // capacity 1
	desired *desired      // to drop the echoes of our own writes

	mu       sync.Mutex
	news     news
	snapshot *subnet.Snapshot
	inSync   bool                            // the first full list has arrived
	own      *subnet.Held                    // our lease as last told
	told     uint64                          // how often something came of the store
	doubtful map[string]time.Time            // keys a restored store lacks, and when they go
	routesAt time.Time                       // before which the host's routes are not looked at again
	drifting struct{ since, last time.Time } // when the drift that is waited for began (zero for none), and went on
	rulesN   uint64                          // how often the rules were told of
	suspects map[backend.Key]bool            // see Agent.suspect
}

// news is what the reconciler takes out of the inbox.
type news struct {
	config                       []byte       // new raw network config
	configRecalled, heldRecalled bool         // they are as an earlier run knew them
	held                         *subnet.Held // new lease of ours
	lost                         error        // why our lease is not ours any more
	nodes                        map[string]bool
	drift                        map[backend.Key]backend.Object // what the kernel has, where it is not what we want; nil when gone
	resync                       scope                          // look at these as a whole
	host                         bool                           // interfaces or addresses of the host changed
	routes                       bool                           // routes of the host changed
	refusals                     bool                           // other records may be refused than before
	rules                        bool                           // the firewall may have changed
	again                        time.Time                      // when there is more to take at the latest; zero: nothing now
	inSync                       bool                           // nodes holds, or held before, all that the store's first full list named
}

func newInbox(node string, d *desired) *inbox {
	b := &inbox{
		wake: make(chan struct{}, 1), desired: d,
		snapshot: subnet.NewSnapshot(node),
		doubtful: map[string]time.Time{},
	}
	// The first pass looks at everything.
	b.news = news{resync: everything, routes: true, rules: true}
	b.poke()
	return b
}

func (b *inbox) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox, but for routes whose time has not come.
func (b *inbox) take(now time.Time) news {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.news
	n.inSync = b.inSync
	b.news = news{}
	for k := range n.drift {
		// What hung on a link that is another one may have gone without a word:
		// the kernel drops the IPv4 routes of one that goes down silently
		// (net/ipv4/fib_frontend.c, fib_disable_ip). One that we make is
		// another one for a moment.
		if k.Kind == backend.KindLink {
			n.resync.kernel = true
		}
	}
	if n.routes && now.Before(b.routesAt) {
		n.routes, b.news.routes, n.again = false, true, b.routesAt
	}
	return n
}

func (b *inbox) put(edit func(*news)) {
	b.mu.Lock()
	edit(&b.news)
	b.mu.Unlock()
	b.poke()
}

func (b *inbox) config(raw []byte) {
	b.put(func(n *news) { n.config, n.configRecalled, b.told = raw, false, b.told+1 })
}
func (b *inbox) held(h subnet.Held) {
	b.put(func(n *news) { n.held, n.heldRecalled, n.lost, b.own, b.told = &h, false, nil, &h, b.told+1 })
}
func (b *inbox) lost(why error) { b.put(func(n *news) { n.lost, b.own = why, nil }) }
func (b *inbox) rules()         { b.put(func(n *news) { n.rules, b.rulesN = true, b.rulesN+1 }) }

// event takes a notification of the kernel, or of the guard; all is what its
// Resync is about. Those that tell what we want anyway, the echoes of our own
// writes above all, end here.
func (b *inbox) event(e backend.Event, all scope) {
	b.unsuspect(e, all)
	if e.Resync {
		b.lookAt(all)
	}
	if e.Host {
		b.hostChanged()
	}
	if e.Routes {
		b.routesChanged()
	}
	switch {
	case e.Key == (backend.Key{}):
	case e.Key.Kind == backend.KindSysctl && b.desired.get(e.Key) == nil: // none of our business
	case b.desired.wants(e.Key, e.Object):
		b.mu.Lock()
		delete(b.news.drift, e.Key) // it has been mended meanwhile
		b.mu.Unlock()
	default:
		b.drifted(e)
	}
}

// hostChanged has the underlay chosen again, soon: a pod that comes is a dozen
// notifications.
func (b *inbox) hostChanged() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.news.host {
		b.news.host = true
		time.AfterFunc(hostDelay, b.poke)
	}
}

// routesPause is the least time between two looks at the host's own routes, and
// routesShare how many times longer than a look the next one waits: a router
// with a full table may change it all the time.
const (
	routesPause = time.Second
	routesShare = 20
)

// routesChanged has the host's routes looked at: soon, as the way to the peers
// may be another one, or when their time has come.
func (b *inbox) routesChanged() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.news.routes {
		b.news.routes = true
		time.AfterFunc(max(hostDelay, time.Until(b.routesAt)), b.poke)
	}
}

// routesRead notes that the host's routes were looked at, and how long that took.
func (b *inbox) routesRead(took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.routesAt = time.Now().Add(max(routesPause, routesShare*took))
}

// suspect waits to be told of objects, and reports whether there are any that
// it has not been told of yet.
func (b *inbox) suspect(keys []backend.Key) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.suspects = map[backend.Key]bool{}
	for _, k := range keys {
		if _, told := b.news.drift[k]; !told && !b.news.resync.holds(k.Kind) {
			b.suspects[k] = true
		}
	}
	return len(b.suspects) > 0
}

// takeSuspects returns those that it still has not been told of.
func (b *inbox) takeSuspects() (keys []backend.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k := range b.suspects {
		keys = append(keys, k)
	}
	b.suspects = nil
	return keys
}

// unsuspect takes an event as what it is waited for.
func (b *inbox) unsuspect(e backend.Event, all scope) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.suspects, e.Key)
	if e.Resync {
		maps.DeleteFunc(b.suspects, func(k backend.Key, _ bool) bool { return all.holds(k.Kind) })
	}
}

// rulesHeard returns how often the rules were told of.
func (b *inbox) rulesHeard() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rulesN
}

func (b *inbox) drifted(e backend.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.news.drift == nil {
		b.news.drift = map[backend.Key]backend.Object{}
	}
	b.news.drift[e.Key] = e.Object
	b.drift()
}

// lookAt has these looked at as a whole.
func (b *inbox) lookAt(all scope) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.news.resync = b.news.resync.or(all)
	b.drift()
}

// drift has a pass begin once no more drift comes. Called with the lock held.
func (b *inbox) drift() {
	b.drifting.last = time.Now()
	if b.drifting.since.IsZero() {
		b.drifting.since = b.drifting.last
		time.AfterFunc(driftDelay, b.settle)
	}
}

func (b *inbox) settle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if left := driftDelay - now.Sub(b.drifting.last); left > 0 && now.Sub(b.drifting.since) < driftMost {
		time.AfterFunc(left, b.settle)
		return
	}
	b.drifting.since = time.Time{}
	b.poke()
}

// leases takes what the store tells of its leases.
func (b *inbox) leases(u subnet.Update) {
	defer b.poke()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told++
	b.news.refusals = true
	var dirty []string
	for _, r := range u.Put {
		delete(b.doubtful, r.Key)
	}
	if u.Full {
		list := u.Put
		if u.WentBack || len(b.doubtful) > 0 {
			list = b.keepDoubtful(list, u.WentBack)
		}
		dirty = b.snapshot.Replace(list)
		b.inSync = true
		b.news.resync = everything
	} else {
		for _, r := range u.Put {
			dirty = append(dirty, b.announced(r)...)
			dirty = append(dirty, b.snapshot.Put(r)...)
		}
		for _, key := range u.Gone {
			dirty = append(dirty, b.snapshot.Delete(key)...)
		}
	}
	b.markNodes(dirty)
}

// keepDoubtful adds to the list the records that a restored store lacked when
// it was first seen, for as long as they are kept. Called with the lock held.
func (b *inbox) keepDoubtful(list []subnet.Record, wentBack bool) []subnet.Record {
	listed := make(map[string]bool, len(list))
	for _, r := range list {
		listed[r.Key] = true
	}
	until := time.Now().Add(removalDelay)
	for _, r := range b.snapshot.Records() {
		_, doubtful := b.doubtful[r.Key]
		if listed[r.Key] || !doubtful && !wentBack {
			continue
		}
		list = append(list, r)
		if !doubtful {
			b.doubtful[r.Key] = until
		}
	}
	return list
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
			delete(b.doubtful, key)
			dirty = append(dirty, b.snapshot.Delete(key)...)
		}
	}
	return dirty
}

// expire lets the doubtful records go whose time has come, and returns when
// the next one's will; zero for none.
func (b *inbox) expire(now time.Time) (next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, until := range b.doubtful {
		switch {
		case !now.Before(until):
			delete(b.doubtful, key)
			b.markNodes(b.snapshot.Delete(key))
			b.news.refusals = true
		case next.IsZero() || until.Before(next):
			next = until
		}
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

// heard returns how often something came of the store.
func (b *inbox) heard() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.told
}

// recall takes what an earlier run knew, unless the store has told something
// meanwhile. It is no full list of the store's, so that nothing is deleted for
// it.
func (b *inbox) recall(s lastgood.State) (taken bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.told > 0 {
		return false
	}
	b.news.config, b.news.held = s.Config, &s.Own
	b.news.configRecalled, b.news.heldRecalled, b.news.refusals = true, true, true
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

// known returns our lease, the records of the store and the number of the last
// news. There are no records before the first full list, while our lease is not
// ours, or while some are doubtful: what was written before is of the store as it
// was, by which another run doubts them, too.
func (b *inbox) known() (s lastgood.State, records iter.Seq[subnet.Record], told uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.inSync || b.own == nil || len(b.doubtful) > 0 {
		return s, nil, 0
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
	}, b.told
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
