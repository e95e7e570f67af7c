package kube

import (
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/twill-net/twill/subnet/internal/tasks"
)

// How often what is not as it shall be is written again.
const (
	rewriteMin = time.Second
	rewriteMax = 10 * time.Second
	rewriteOK  = time.Minute // left alone for this long, it counts as settled
)

// repeat paces a write that somebody undoes, or that fails; another one is
// made at once.
type repeat struct {
	pace *backoff.ExponentialBackOff
	away retry // paces what nobody answered
	what string
	last time.Time // of the last write
	next time.Time // not before
	due  bool      // one waits for that
}

func newRepeat() *repeat {
	return &repeat{pace: tasks.NewPace(rewriteMin, rewriteMax), away: newRetry()}
}

// turn reports whether it is time to write this; else wait tells when.
func (r *repeat) turn(now time.Time, what string) bool {
	if r.due = r.what == what && now.Before(r.next); r.due {
		return false
	}
	if r.what != what || now.Sub(r.last) > rewriteOK {
		r.pace.Reset()
		r.away = newRetry()
	}
	r.what, r.last, r.next = what, now, now.Add(r.pace.NextBackOff())
	return true
}

// failed has the write made again: soon where nobody answered, for then nobody
// undid it either.
func (r *repeat) failed(err error) {
	r.due = true
	if !answered(err) {
		r.next = time.Now().Add(r.away.pause(err, r.last))
		r.pace.Reset()
	}
}

// wait returns what fires when a write that waits is due, for once.
func (r *repeat) wait() <-chan time.Time {
	if !r.due {
		return nil
	}
	r.due = false
	return time.After(time.Until(r.next))
}
