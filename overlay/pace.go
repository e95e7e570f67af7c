package overlay

import (
	"time"

	"github.com/twill-net/twill/backend"
)

// contended is the number of repairs of one object, none of them followed by
// paceMemory of peace, from which on something is taken to work against us.
const contended = 6

const (
	paceMemory = time.Minute // an object left alone so long starts anew
	paceFirst  = 100 * time.Millisecond
	paceMost   = 10 * time.Second // between repairs of a contended object
)

// pacer slows the repair of objects that something else keeps undoing, so that
// there is no war, and the others do not wait.
type pacer map[backend.Key]*pace

type pace struct {
	times int // repairs since it was last left alone
	last  time.Time
}

// turn returns when the object may be repaired: not after now, or later when it
// is contended.
func (p pacer) turn(k backend.Key, now time.Time) time.Time {
	r := p[k]
	if r == nil || now.Sub(r.last) > paceMemory || r.times < contended {
		return now
	}
	wait := paceMost
	if n := r.times - contended; n < 7 {
		wait = min(paceMost, paceFirst<<n)
	}
	return r.last.Add(wait)
}

// repaired counts a repair and returns how many there were lately.
func (p pacer) repaired(k backend.Key, now time.Time) int {
	r := p[k]
	if r == nil {
		r = &pace{}
		p[k] = r
	}
	if now.Sub(r.last) > paceMemory {
		r.times = 0
	}
	r.times++
	r.last = now
	return r.times
}

// contended returns the objects under contention and how often each was
// repaired, and forgets those left alone.
func (p pacer) contended(now time.Time) map[backend.Key]int {
	out := map[backend.Key]int{}
	for k, r := range p {
		switch {
		case now.Sub(r.last) > paceMemory:
			delete(p, k)
		case r.times >= contended:
			out[k] = r.times
		}
	}
	return out
}
