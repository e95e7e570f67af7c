package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

func daemonActions() []action {
	return []action{
		{name: "daemon killed", weight: 6, plan: func(w *world, r *rand.Rand) fault {
			return w.daemonsDown(between(r, 0, 3*time.Second), w.one(r))
		}},
		{name: "daemons killed together", weight: 3, plan: func(w *world, r *rand.Rand) fault {
			return w.daemonsDown(between(r, 0, 2*time.Second), w.some(r)...)
		}},
		{name: "daemon restarted", weight: 4, plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			return fault{what: m.Name, uses: names(m), hold: between(r, 0, time.Second),
				do:   func(ctx context.Context) error { return m.daemon.Stop(ctx) },
				undo: func(context.Context) error { return m.daemon.Restart() }}
		}},
		{name: "daemon paused", weight: 5, plan: func(w *world, r *rand.Rand) fault {
			return paused(between(r, 0, 5*time.Second), w.one(r))
		}},
		{name: "daemons paused together", weight: 2, plan: func(w *world, r *rand.Rand) fault {
			return paused(between(r, 0, 3*time.Second), w.some(r)...)
		}},
		{name: "daemon down or paused, and damaged", weight: 6, when: atLeast(2), plan: func(w *world, r *rand.Rand) fault {
			m, to := w.two(r)
			f := paused(between(r, 0, 2*time.Second), m)
			if r.IntN(2) == 0 {
				f = w.daemonsDown(between(r, 0, 2*time.Second), m)
				f.what += " down"
			}
			return meanwhile(f, w.anyDamage(r, m, to))
		}},
		{name: "daemon killed while it repairs", weight: 4, when: atLeast(2), plan: func(w *world, r *rand.Rand) fault {
			m, to := w.two(r)
			f := w.daemonsDown(0, m)
			d := w.anyDamage(r, m, to)
			d.hold = time.Duration(r.IntN(40)) * time.Millisecond
			return meanwhile(d, f)
		}},
	}
}

// atLeast is for actions that need some members in the cluster.
func atLeast(n int) func(*world) bool { return func(w *world) bool { return len(w.in()) >= n } }

// daemonsDown kills daemons and starts them again after a while; what flows
// goes on.
func (w *world) daemonsDown(hold time.Duration, ms ...*member) fault {
	return fault{what: fmt.Sprint(names(ms...)), uses: names(ms...), hold: hold,
		do: func(ctx context.Context) error {
			return w.each(ctx, ms, func(ctx context.Context, m *member) error { return m.daemon.Kill(ctx) })
		},
		undo: func(ctx context.Context) error {
			return w.each(ctx, ms, func(_ context.Context, m *member) error { return m.daemon.Restart() })
		}}
}

// paused stops daemons in the middle of whatever they do.
func paused(hold time.Duration, ms ...*member) fault {
	signal := func(sig syscall.Signal) func(context.Context) error {
		return func(context.Context) error {
			var errs []error
			for _, m := range ms {
				errs = append(errs, m.daemon.Signal(sig))
			}
			return errors.Join(errs...)
		}
	}
	return fault{what: fmt.Sprint(names(ms...)), uses: names(ms...), hold: hold,
		do: signal(syscall.SIGSTOP), undo: signal(syscall.SIGCONT)}
}

// meanwhile is one fault within another of the same node.
func meanwhile(outer, inner fault) fault {
	return fault{what: describe([]fault{outer, inner}), uses: outer.uses,
		touches: touch{ways: append(outer.touches.ways, inner.touches.ways...), local: append(outer.touches.local, inner.touches.local...)},
		do:      func(ctx context.Context) error { return perform(ctx, []fault{outer, inner}) }}
}

func (w *world) anyDamage(r *rand.Rand, m, to *member) fault {
	d := damages[r.IntN(len(damages))]
	f := w.damaged(d, m, to)
	f.what = d.name + ", " + f.what
	return f
}
