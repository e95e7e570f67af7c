package overlay

import (
	"maps"
	"time"

	"github.com/twill-net/twill/backend"
)

// What comes together is to arrive together. A link that goes down is announced,
// and then each entry that went with it: one pass mends it all, and begins when
// nothing more has come for driftDelay, but driftMost after the first at the latest.
const (
	driftDelay = 5 * time.Millisecond
	driftMost  = 100 * time.Millisecond
	hostDelay  = 20 * time.Millisecond
)

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
	case e.Key.Kind == backend.KindSysctl:
		b.drifted(e) // one that we could not write may have been mended for us
	case b.desired.wants(e.Key, e.Object):
		b.mu.Lock()
		delete(b.news.drift, e.Key) // it has been mended meanwhile
		b.mu.Unlock()
	default:
		b.drifted(e)
	}
}

// A router with a full table may change it all the time, and a node full of pods
// its interfaces: the next look at either waits lookShare times longer than the
// last one took. Not without bounds, as one that has waited long for the kernel's
// lock has done little.
const (
	lookShare   = 20
	hostMost    = time.Second
	routesPause = time.Second
	routesMost  = 10 * time.Second
)

// hostChanged has the interfaces looked at, soon, or when their time has come: a
// pod that comes is a dozen notifications.
func (b *inbox) hostChanged() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.news.host {
		b.news.host = true
		time.AfterFunc(max(hostDelay, time.Until(b.hostAt)), b.poke)
	}
}

// hostRead notes that the interfaces were looked at, and how long that took.
func (b *inbox) hostRead(took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hostAt = time.Now().Add(min(hostMost, lookShare*took))
}

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
	b.routesAt = time.Now().Add(min(routesMost, max(routesPause, lookShare*took)))
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
