package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// What a Store does at a time, for health and progress.
const (
	taskConfig    = "watching the network config"
	taskLeases    = "watching the Nodes"
	taskOwn       = "watching our own Node"
	taskHold      = "announcing our lease"
	taskCondition = "keeping the Node's condition NetworkUnavailable"
)

// health merges what the tasks know into one state, and tells of its changes.
type health struct {
	tell func(error)
	mu   sync.Mutex
	bad  map[string]error
	told string
}

// set notes what is wrong with a task, nil for nothing. One task speaks for
// all: it is one API server.
func (h *health) set(task string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.bad[task] = fmt.Errorf("%s: %w", task, err)
	} else {
		delete(h.bad, task)
	}
	var worst error
	text := ""
	if tasks := slices.Sorted(maps.Keys(h.bad)); len(tasks) > 0 {
		worst = h.bad[tasks[0]]
		text = worst.Error()
	}
	if text == h.told {
		return
	}
	h.told = text
	if h.tell != nil {
		h.tell(worst)
	}
}

// newPace returns delays that double from first to most, each with ±50 %, so
// that nodes which lost one API server together do not come back together.
func newPace(first, most time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = first, most, 2
	b.Reset()
	return b
}

// pause waits; false means that the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
