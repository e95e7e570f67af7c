package kube

import (
	"time"

	"github.com/cenkalti/backoff/v5"
)

// How often what is not as it shall be is written again.
const (
	rewriteMin = time.Second
	rewriteMax = 10 * time.Second
	rewriteOK  = time.Minute // left alone for this long, it counts as settled
)

// repeat paces writes that somebody undoes, or that fail.
type repeat struct {
	pace *backoff.ExponentialBackOff
	last time.Time // of the last write
	next time.Time // not before
	due  bool      // one waits for that
}

func newRepeat() *repeat { return &repeat{pace: newPace(rewriteMin, rewriteMax)} }

// turn reports whether it is time to write; else wait tells when.
func (r *repeat) turn(now time.Time) bool {
	if r.due = now.Before(r.next); r.due {
		return false
	}
	if now.Sub(r.last) > rewriteOK {
		r.pace.Reset()
	}
	r.last, r.next = now, now.Add(r.pace.NextBackOff())
	return true
}

// failed has the write made again.
func (r *repeat) failed() { r.due = true }

// wait returns what fires when a write that waits is due, for once.
func (r *repeat) wait() <-chan time.Time {
	if !r.due {
		return nil
	}
	r.due = false
	return time.After(time.Until(r.next))
}
