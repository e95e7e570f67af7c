package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whatever happens to a cluster, in whatever order, all is well again soon
// after, and nobody loses a packet whom it does not concern.
func TestChaos(t *testing.T) {
	t.Parallel()
	seconds, steps := number(t, "CHAOS_SECONDS", 45), number(t, "CHAOS_STEPS", 1<<30)
	chance := int(time.Now().Unix() % 1_000_000)
	if inCI() {
		chance = 1 // what is to land is held to one mix; others are for make chaos to find
	}
	seed := number(t, "SEED", chance)
	nodes := number(t, "NODES", 3+seed%3)
	require.True(t, nodes >= 3 && nodes <= 5, "NODES=%d, must be 3 to 5", nodes)
	only, err := regexp.Compile(os.Getenv("CHAOS_ACTIONS"))
	require.NoError(t, err)
	t.Logf("SEED=%d NODES=%d, for %d s", seed, nodes, seconds)

	w := newWorld(t, nodes)
	began := time.Now()
	require.NoError(t, w.settle(t.Context(), nil))
	w.counted = netlabtest.Count(t.Context(), w.hosts()...)
	before, err := w.usage(t.Context())
	require.NoError(t, err)
	t.Logf("settled after %v", time.Since(began).Round(time.Millisecond))

	all := actions(only)
	count := map[string]int{}
	since := time.Now()
	var step int
	for step = 1; step <= steps && time.Since(began) < time.Duration(seconds)*time.Second; step++ {
		faults := w.choose(all, rand.New(rand.NewPCG(uint64(seed), uint64(step))))
		at := time.Since(began)
		name, _, _ := strings.Cut(faults[0].what, ":")
		count[name]++
		outage, until, err := w.step(t.Context(), faults, since)
		t.Logf("step %3d at %5.1f s: %s; %v in all, packets lost for %v", step, at.Seconds(), describe(faults),
			(time.Since(began) - at).Round(time.Millisecond), outage.Round(time.Millisecond))
		if err != nil {
			w.explain(t)
			t.Fatalf("step %d of seed %d: %s\n%v\n\nto replay: make chaos SEED=%d NODES=%d CHAOS_STEPS=%d CHAOS_ACTIONS='%s'",
				step, seed, describe(faults), err, seed, nodes, step, only)
		}
		since = until
	}
	for _, name := range slices.Sorted(maps.Keys(count)) {
		t.Logf("%4d %s", count[name], name)
	}
	t.Logf("SEED=%d NODES=%d: %d steps in %v", seed, nodes, step-1, time.Since(began).Round(time.Second))
	if err := w.end(t.Context(), before); err != nil {
		w.explain(t)
		t.Fatalf("after the last of %d steps of seed %d: %v\n\nto replay: make chaos SEED=%d NODES=%d CHAOS_STEPS=%d CHAOS_ACTIONS='%s'",
			step-1, seed, err, seed, nodes, step-1, only)
	}
}

// step performs faults and checks all. The packets to be judged are those sent
// since the end of the last step.
func (w *world) step(ctx context.Context, faults []fault, since time.Time) (outage time.Duration, until time.Time, err error) {
	for _, f := range faults {
		if f.chosen != nil {
			f.chosen()
		}
	}
	if err := perform(ctx, faults); err != nil {
		return 0, time.Now(), err
	}
	if err := w.settle(ctx, faults); err != nil {
		return 0, time.Now(), err
	}
	until = time.Now()
	before, ended := w.counted, netlabtest.Count(ctx, w.hosts()...)
	w.counted = ended
	outage, err = w.losses(ctx, since, until, faults, before)
	if err != nil {
		err = fmt.Errorf("%w\nSince the step began the kernel has counted:\n%s", err, ended.Since(before))
	}
	return outage, until, err
}

// end brings all nodes back and checks that the daemons use what they used
// before.
func (w *world) end(ctx context.Context, before []usage) error {
	peers := make([]int, 3*numbers)
	for i := range peers {
		peers[i] = first + i
	}
	if err := w.clear(ctx, peers...); err != nil {
		return err
	}
	faults := []fault{w.joining(w.out()...)}
	if err := perform(ctx, faults); err != nil {
		return err
	}
	if err := w.settle(ctx, faults); err != nil {
		return err
	}
	return w.awaitUsage(ctx, before)
}

// explain shows what the nodes say of themselves.
func (w *world) explain(t *testing.T) {
	for _, m := range w.in() {
		s, err := m.status(context.Background())
		if err != nil {
			t.Logf("%s: %v", m.Name, err)
			continue
		}
		t.Logf("%s", s.Text())
	}
}

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, fmt.Sprintf("%s=%q", name, text))
	return n
}
