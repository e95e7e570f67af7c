package kube

import (
	"context"
	"time"
)

// What a Store does at a time, for health and progress.
const (
	taskConfig    = "watching the network config"
	taskLeases    = "watching the Nodes"
	taskOwn       = "watching our own Node"
	taskHold      = "announcing our lease"
	taskCondition = "keeping the Node's condition NetworkUnavailable"
)

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
