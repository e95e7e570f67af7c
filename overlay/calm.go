package overlay

import (
	"context"
	"runtime/debug"
	"time"
)

// A pass of so many changes leaves much behind that no later one needs, and
// after so long without another all of it is done with.
const (
	burstSize  = 1000
	burstQuiet = 10 * time.Second
)

// burst notes that a pass made that many changes.
func (a *Agent) burst(changes int) {
	if changes < burstSize {
		return
	}
	select {
	case a.bursts <- struct{}{}:
	default:
	}
}

// calm gives the memory that a start or another burst took back to the system,
// once it is over. The runtime does so by itself, but takes minutes, and what
// the next collections may use it keeps.
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
		debug.FreeOSMemory()
	}
}
