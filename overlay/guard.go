package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/subnet"
)

// Guard is the part of the host's packet filter that holds VTEP hygiene and
// the pods' source addresses (package hygiene).
type Guard interface {
	// Supported says what the kernel lacks; hygiene.ErrNoBridge when the other
	// methods can do the rest.
	Supported(ctx context.Context) error
	// Generation returns a number that is another one after each change of what
	// is there, and of more, by whomever.
	Generation(ctx context.Context) (uint32, error)
	// Each calls found with all that is there, or with nothing and fails.
	Each(ctx context.Context, found func(backend.Object)) error
	// Apply and Watch are as Kernel's.
	Apply(ctx context.Context, changes []backend.Change) []error
	Watch(ctx context.Context, tell func(backend.Event)) error
}

// guarded reports whether objects of a kind are the Guard's, rather than the
// network stack's.
func guarded(k backend.Kind) bool {
	return k == backend.KindPermit || k == backend.KindGuard || k == backend.KindPod
}

// kindOf is the kind of an object's key, without making the whole key of each
// of many.
func kindOf(o backend.Object) backend.Kind {
	if _, ok := o.(hygiene.Permit); ok {
		return backend.KindPermit
	}
	return o.Key().Kind
}

// checkGuard does without the Guard where the kernel has none, and says so. A
// kernel does not learn it while it runs, so that it is asked once.
func (a *Agent) checkGuard(ctx context.Context) {
	if a.guard == nil {
		return
	}
	err := a.guard.Supported(ctx)
	switch {
	case err == nil:
	case errors.Is(err, hygiene.ErrNoBridge):
		if a.cfg.Hygiene {
			a.board.problem(partPods, err)
			a.cfg.Log.WithError(err).Warn("half of VTEP hygiene")
		}
	default:
		a.guard = nil
		if a.cfg.Hygiene {
			err = fmt.Errorf("without it anyone who reaches the VTEP port can put packets into pods (--vtep-hygiene=false accepts that): %w", err)
			a.board.problem(partGuard, err)
			a.cfg.Log.WithError(err).Warn("no VTEP hygiene")
		}
	}
	if a.guard != nil && !a.cfg.Hygiene {
		a.sweepGuard(ctx)
	}
}

// sweepGuard takes away what an earlier run left, when hygiene is switched off:
// at once, also while the store is away, since that is when it helps.
func (a *Agent) sweepGuard(ctx context.Context) {
	c := backend.NewComparison(nil)
	if err := a.guard.Each(ctx, c.Found); err != nil {
		return // the passes will try, and tell
	}
	if changes := c.Changes(); len(changes) > 0 {
		backend.SortChanges(changes)
		_ = errors.Join(a.guard.Apply(ctx, changes)...) // likewise
		a.cfg.Log.Info("VTEP hygiene is switched off: what was left of it is swept")
	}
}

// guards reports whether hygiene is wanted and possible. What an earlier run
// left of it is swept also where it is not wanted.
func (a *Agent) guards() bool { return a.guard != nil && a.cfg.Hygiene }

func (a *Agent) onGuard(e backend.Event) {
	if e.Resync {
		a.board.problem(taskGuard, nil)
		a.watches.guard.works()
	}
	a.inbox.event(e, scope{guard: true})
}

// write makes the changes, in their order, each where it belongs.
func (a *Agent) write(ctx context.Context, changes []backend.Change) []error {
	errs := make([]error, 0, len(changes))
	for len(changes) > 0 {
		mine := guarded(kindOf(changes[0].Object()))
		n := slices.IndexFunc(changes, func(c backend.Change) bool { return guarded(kindOf(c.Object())) != mine })
		if n < 0 {
			n = len(changes)
		}
		apply := a.kernel.Apply
		if mine {
			apply = a.guard.Apply
		}
		errs = append(errs, apply(ctx, changes[:n])...)
		changes = changes[n:]
	}
	return errs
}

// hostObjects returns what this node wants for itself. The Guard is wanted once
// everybody who may pass it is known.
func (a *Agent) hostObjects(own subnet.Lease) []backend.Object {
	s := a.state
	objects := append(backend.HostObjects(s.active, own, *s.underlay, a.cfg.Host), s.planner.Host(own)...)
	if !a.guards() {
		return objects
	}
	if s.inSync {
		routed := slices.ContainsFunc(s.pods, func(p pods.Pod) bool { return p.Bridge == "" })
		objects = append(objects, hygiene.Host(s.active, own, routed)...)
	}
	attachments := map[string]int{}
	for _, p := range s.pods {
		attachments[p.Container]++
	}
	for _, p := range s.pods {
		if attachments[p.Container] > 1 {
			continue // it answers by whichever route comes first, with either address
		}
		if p.Addresses != (subnet.PerFamily[netip.Addr]{}) { // else it asked not to be held to any
			objects = append(objects, hygiene.Pod{Link: p.Link, Addresses: p.Addresses})
		}
	}
	return objects
}

// peerObjects returns what we want for a peer.
func (a *Agent) peerObjects(own, peer subnet.Lease) ([]backend.Object, error) {
	objects, err := a.state.planner.Peer(own, peer)
	if a.guards() {
		objects = slices.Concat(objects, hygiene.Peer(a.state.active, own, peer))
	}
	return objects, err
}
