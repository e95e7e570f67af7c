package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

func nodeActions() []action {
	return []action{
		{name: "node rebooted", weight: 5, plan: func(w *world, r *rand.Rand) fault { return w.rebooted(w.one(r)) }},
		{name: "nodes rebooted together", weight: 2, plan: func(w *world, r *rand.Rand) fault { return w.rebooted(w.some(r)...) }},
		{name: "node leaves", weight: 4, when: atLeast(3), plan: func(w *world, r *rand.Rand) fault { return w.leaving(w.one(r)) }},
		{name: "nodes join", weight: 8, when: func(w *world) bool { return len(w.out()) > 0 }, plan: func(w *world, _ *rand.Rand) fault {
			return w.joining(w.out()...)
		}},
		{name: "join and leave storm", weight: 3, when: atLeast(3), plan: func(w *world, r *rand.Rand) fault {
			ms := w.in()[1:]
			if r.IntN(2) == 0 {
				ms = ms[1:]
			}
			out, back := w.leaving(ms...), w.joining(ms...)
			return fault{what: fmt.Sprint(names(ms...)), uses: out.uses, touches: out.touches, chosen: out.chosen,
				do: func(ctx context.Context) error {
					for range 2 {
						if err := out.do(ctx); err != nil {
							return err
						}
						if err := back.do(ctx); err != nil {
							return err
						}
					}
					return nil
				}}
		}},
		{name: "pods come and go", weight: 4, plan: func(w *world, r *rand.Rand) fault {
			m, count := w.one(r), 1+r.IntN(6)
			return fault{what: fmt.Sprintf("%s: %d", m.Name, count), uses: names(m), do: func(ctx context.Context) error {
				for range count {
					if err := m.passing(ctx); err != nil {
						return err
					}
				}
				return nil
			}}
		}},
	}
}

// rebooted cuts nodes' power; they come back with their disks, and pods are
// made anew. The store may be away.
func (w *world) rebooted(ms ...*member) fault {
	return fault{what: fmt.Sprint(names(ms...)), uses: names(ms...), touches: wholly(ms...), do: func(ctx context.Context) error {
		return w.each(ctx, ms, func(ctx context.Context, m *member) error {
			if err := w.dropPods(ctx, m, true); err != nil {
				return err
			}
			if err := m.Reboot(ctx); err != nil {
				return err
			}
			return w.join(ctx, m)
		})
	}}
}

// leaving takes nodes out of the cluster for good, as an operator does.
func (w *world) leaving(ms ...*member) fault {
	return fault{what: fmt.Sprint(names(ms...)), uses: append(names(ms...), store), touches: wholly(ms...),
		chosen: func() {
			for _, m := range ms {
				w.moved[m] = true
			}
		},
		do: func(ctx context.Context) error {
			return w.each(ctx, ms, func(ctx context.Context, m *member) error {
				m.up = false
				if err := w.dropPods(ctx, m, false); err != nil {
					return err
				}
				if err := m.daemon.Stop(ctx); err != nil {
					return err
				}
				if err := w.released(ctx, m); err != nil {
					return err
				}
				_, err := m.sh(ctx, "twilld --cleanup; ip link del cni0 2>/dev/null || :")
				return err
			})
		}}
}

// released deletes the lease of a node that has gone.
func (w *world) released(ctx context.Context, m *member) error {
	records, err := netlabtest.Records(ctx, w.etcd)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.NodeName == m.Name {
			return w.delete(ctx, r.Key)
		}
	}
	return fmt.Errorf("%s had no lease", m.Name)
}

func (w *world) joining(ms ...*member) fault {
	return fault{what: fmt.Sprint(names(ms...)), uses: append(names(ms...), store), touches: wholly(ms...),
		do: func(ctx context.Context) error { return w.each(ctx, ms, w.join) }}
}

// passing adds a pod and deletes it.
func (m *member) passing(ctx context.Context) error {
	m.made++
	p, err := m.AddPod(ctx, fmt.Sprintf("c%d", m.made))
	if err != nil {
		return err
	}
	return m.DelPod(ctx, p)
}
