package guard_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/nftables/guard"
)

// apply makes changes, all of which must be possible.
func apply(t testing.TB, tables *guard.Tables, changes ...backend.Change) {
	t.Helper()
	for i, err := range tables.Apply(t.Context(), changes) {
		require.NoError(t, err, changes[i])
	}
}

// What is known of the tables is forgotten when it turns out to be wrong.
func TestOutdated(t *testing.T) {
	t.Parallel()
	another := permit("192.0.2.9", "10.244.9.0/24")
	for name, c := range map[string]struct {
		tamper string
		guard  bool // is there afterwards
	}{
		"nothing":          {"list ruleset", true},
		"all is gone":      {"flush ruleset", false},
		"one table":        {"delete table inet twill-vtep", false},
		"the other":        {"delete table bridge twill-pods", false},
		"a set":            {"flush table inet twill-vtep; delete set inet twill-vtep ipv4-24-in-ipv4", false},
		"a set of pods":    {"flush table inet twill-vtep; delete set inet twill-vtep pods-ipv4", false},
		"a set came":       {"add set inet twill-vtep ipv4-25-in-ipv4 { type ipv4_addr . ipv4_addr; }", false},
		"others come, go":  {"add table inet other; add chain inet other c; delete table inet other", true},
		"an element comes": {"add element inet twill-vtep peers-ipv4 { 192.0.2.9 }", true},
	} {
		for what, change := range map[string]backend.Change{
			"add":    {Want: another},
			"delete": {Have: permit("192.0.2.9", "10.244.9.0/25")}, // of no set that was known
			"pod":    {Have: hygiene.Pod{Link: "veth1", Altered: true}, Want: pod("veth1", "10.244.1.8")},
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				t.Parallel()
				ns := newNamespace(t)
				tables := ns.tables()
				apply(t, tables, backend.Diff(whole(), nil)...)
				ns.Run(t, "nft", c.tamper)
				apply(t, tables, change)
				have := ns.observe(t)
				if change.Want != nil {
					require.Equal(t, change.Want, have[change.Key()])
				} else {
					require.NotContains(t, have, change.Key())
				}
				g, _ := have[dual.Key()].(hygiene.Guard)
				require.Equal(t, c.guard, g == dual, g)
				ns.reach(t, whole())
			})
		}
	}
}

// A guard goes with the permits that it was put after, and with no fewer: else
// it would drop everybody.
func TestNoGuardWithoutItsPermits(t *testing.T) {
	t.Parallel()
	first, second := permit("192.0.2.2"), permit("192.0.2.3")
	const flush = "flush ruleset"
	for name, steps := range map[string][]any{
		"flushed before it":            {backend.Change{Want: first}, flush},
		"flushed between permits":      {backend.Change{Want: first}, flush, backend.Change{Want: second}},
		"of others' making":            {backend.Change{Want: first}, flush, "add table inet twill-vtep"},
		"observed, flushed before it":  {backend.Change{Want: first}, true, flush},
		"observed, flushed between":    {backend.Change{Want: first}, true, flush, backend.Change{Want: second}},
		"deleted before it":            {backend.Change{Want: first}, "delete table inet twill-vtep"},
		"flushed after another flush":  {backend.Change{Want: first}, flush, true, backend.Change{Want: second}, flush},
		"flushed after it was removed": {backend.Change{Want: dual}, backend.Change{Have: dual}, backend.Change{Want: first}, flush},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			tables := ns.tables()
			for _, s := range steps {
				switch s := s.(type) {
				case backend.Change:
					apply(t, tables, s)
				case string:
					ns.Run(t, "nft", s)
				case bool:
					_, err := tables.Observe(t.Context())
					require.NoError(t, err)
				}
			}
			errs := tables.Apply(t.Context(), []backend.Change{{Want: dual}})
			require.ErrorContains(t, errs[0], "observe it again")
			require.NotContains(t, ns.Run(t, "nft", "list", "ruleset"), "chain")

			have, err := tables.Observe(t.Context())
			require.NoError(t, err)
			want := state(dual, first, second)
			apply(t, tables, backend.Diff(want, have)...)
			require.Equal(t, want, ns.observe(t))
		})
	}
}

// While others write to nf_tables, and now and then delete our table, what is
// applied stays or comes back, and there is never a guard without its permits.
func TestHammered(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.Pipe(t, foreign, "nft", "-f", "-")
	want := many(1500) // several transactions
	var deleted, looked atomic.Int32
	missing := make(chan backend.Key, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	repeat := func(f func(i int)) {
		others.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				f(i)
			}
		})
	}
	repeat(func(int) {
		ns.Run(t, "nft", "add element inet other peers-ipv4 { 203.0.113.1 }; delete element inet other peers-ipv4 { 203.0.113.1 }; "+
			"add rule inet other input counter; flush chain inet other input")
	})
	repeat(func(i int) {
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(i%7) * 20 * time.Millisecond):
			ns.Run(t, "nft", "add table inet twill-vtep; delete table inet twill-vtep")
			deleted.Add(1)
		}
	})
	repeat(func(int) {
		have, err := ns.tables().Observe(ctx)
		if err != nil {
			return // it changed all the time
		}
		looked.Add(1)
		if have[dual.Key()] != want[dual.Key()] {
			return
		}
		for k := range want {
			if have[k] == nil {
				select {
				case missing <- k:
				default:
				}
			}
		}
	})
	tables := ns.tables()
	for i := 0; i < 30 || deleted.Load() < 10 || looked.Load() < 10; i++ {
		have, err := tables.Observe(t.Context())
		if err != nil {
			continue
		}
		_ = tables.Apply(t.Context(), backend.Diff(want, have)) // may meet a deletion
		_ = tables.Apply(t.Context(), []backend.Change{one(i, false)})
		_ = tables.Apply(t.Context(), []backend.Change{one(i, true)})
		require.Empty(t, missing, "there was a guard without all permits")
	}
	cancel()
	others.Wait()
	ns.reach(t, want)
}
