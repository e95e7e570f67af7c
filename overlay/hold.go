package overlay

import (
	"context"
	"errors"

	"github.com/twill-net/twill/subnet"
)

// hold keeps the lease for the newest claim.
func (a *Agent) hold(ctx context.Context) error {
	var claim subnet.Claim
	select {
	case <-ctx.Done():
		return nil
	case claim = <-a.claims:
	}
	for {
		inner, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- catch(partLease, func() error { return a.store.Hold(inner, claim, a.onHeld) }) }()
		select {
		case next := <-a.claims: // also when ctx ends, done comes
			cancel()
			if err := <-done; err != nil {
				if p := (*panicError)(nil); errors.As(err, &p) {
					return err
				}
				a.cfg.Log.WithError(err).Debug("the lease was let go for another claim")
			}
			claim = next
		case err := <-done:
			cancel()
			a.offer(claim) // for the next try, unless there is a newer one
			if errors.Is(err, subnet.ErrDuplicate) || errors.Is(err, subnet.ErrExhausted) || errors.Is(err, subnet.ErrNoLease) {
				a.inbox.lost(err) // unlike an etcd that refuses: nobody else has the lease then
				a.forget()        // afterwards: it is not known any more, and so not written again
			}
			return err
		}
	}
}

// offer hands a claim to hold; a newer one that waits already stays.
func (a *Agent) offer(c subnet.Claim) {
	select {
	case a.claims <- c:
	default:
	}
}

// publish hands a new claim to hold, in the place of one that waits.
func (a *Agent) publish(c subnet.Claim) { newest(a.claims, c) }
