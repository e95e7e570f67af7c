package overlay

import (
	"context"
	"time"
)

// A pass of so many changes leaves much behind that no later one needs, and
// after so long without another all of it is done with.
const (
	burstSize  = 1000
	burstQuiet = 10 * time.Second
)

// burst notes a pass that made that many changes, or was the first to make all.
func (a *Agent) burst(changes int, first bool) {
	if changes < burstSize && !first {
		return
	}
	select {
	case a.bursts <- struct{}{}:
	default:
	}
}

// calm calls Config.Calm when a start or another burst is over.
func (a *Agent) calm(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.bursts:
		}
		for more := true; more; {
			if !pause(ctx, burstQuiet) {
				return nil
			}
			select {
			case <-a.bursts:
			default:
				more = false
			}
		}
		a.cfg.Calm()
	}
}
