package overlay

import (
	"context"
	"time"
)

// A pass which changes or looks at so many objects leaves much behind that the
// next one does not need, and after so long without another all of it is done with.
const (
	burstSize  = 1000
	burstQuiet = 2 * time.Second
)

// burst notes a pass that changed or looked at that many objects, or was the
// first to make all.
func (a *Agent) burst(objects int, first bool) {
	if objects < burstSize && !first {
		return
	}
	select {
	case a.bursts <- struct{}{}:
	default:
	}
}

// calm calls Config.Calm when a burst is over.
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
