// Package tasks keeps account of what a store does at a time, each task under a
// name: what is wrong with it, and when it last went on; and it paces what they
// try again. It must not import a store, netlink or a logger.
package tasks

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Health merges what the tasks know into one state, and tells of its changes.
type Health struct {
	Tell func(error) // nil: nobody wants to know

	mu   sync.Mutex
	bad  map[string]error
	told string
}

// Set notes what is wrong with a task, nil for nothing, or that it has ended.
// One task speaks for all: they talk to one server.
func (h *Health) Set(task string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.bad, task)
	if err != nil {
		if h.bad == nil {
			h.bad = map[string]error{}
		}
		h.bad[task] = fmt.Errorf("%s: %w", task, err)
	}
	var worst error
	text := ""
	if bad := slices.Sorted(maps.Keys(h.bad)); len(bad) > 0 {
		worst = h.bad[bad[0]]
		text = worst.Error()
	}
	if text == h.told {
		return
	}
	h.told = text
	if h.Tell != nil {
		h.Tell(worst)
	}
}

// Progress is when each watch that is under way last went on.
type Progress struct {
	mu sync.Mutex
	at map[string]time.Time
}

// At returns the times, by the tasks' names.
func (p *Progress) At() map[string]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.at)
}

// Beat notes that a task went on now.
func (p *Progress) Beat(task string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == nil {
		p.at = map[string]time.Time{}
	}
	p.at[task] = time.Now()
}

// Forget notes that a task has ended.
func (p *Progress) Forget(task string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.at, task)
}

// NewPace returns delays that double from first to most, each with ±50 %, so
// that nodes which lost one server together do not come back together.
func NewPace(first, most time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = first, most, 2
	b.Reset()
	return b
}

// Pause waits. The error is that of the context if it ends first.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
