package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"
)

// action is one kind of thing that happens to a cluster.
type action struct {
	name   string
	weight int
	when   func(*world) bool              // whether it can happen now; nil: always
	plan   func(*world, *rand.Rand) fault // makes all choices, and does nothing yet
}

// fault is an action with its choices made.
type fault struct {
	what    string   // with the choices
	uses    []string // what no other fault of the same step may use: a node's name, store
	touches touch    // whose packets may be lost meanwhile
	chosen  func()   // tells the world what the choice means for later ones; nil: nothing
	do      func(context.Context) error
	hold    time.Duration               // how long it lasts
	undo    func(context.Context) error // ends it; nil: nothing to end, or not by us
	after   func(context.Context) error // what has to be done, again and again, until all is well; nil: nothing
}

// touch names flows.
type touch struct {
	ways  []*member    // between these nodes and others
	local []*member    // between pods of one of these nodes
	pairs [][2]*member // between these two
}

func (t touch) has(fl *flow) bool {
	a, b := fl.from.member, fl.to.member
	if a == b {
		return slices.Contains(t.local, a)
	}
	return slices.Contains(t.ways, a) || slices.Contains(t.ways, b) ||
		slices.Contains(t.pairs, [2]*member{a, b}) || slices.Contains(t.pairs, [2]*member{b, a})
}

// waysOf touches all ways from and to some nodes; wholly their local ones, too.
func waysOf(ms ...*member) touch { return touch{ways: ms} }
func wholly(ms ...*member) touch { return touch{ways: ms, local: ms} }

const store = "store" // in fault.uses

// names are the nodes', for fault.uses.
func names(ms ...*member) (all []string) {
	for _, m := range ms {
		all = append(all, m.Name)
	}
	return all
}

// actions are all there are.
func actions(only *regexp.Regexp) []action {
	all := slices.Concat(kernelActions(), daemonActions(), storeActions(), leaseActions(), underlayActions(), nodeActions())
	return slices.DeleteFunc(all, func(a action) bool { return !only.MatchString(a.name) })
}

// choose plans a step: one fault, or one that lasts and another meanwhile.
func (w *world) choose(all []action, r *rand.Rand) []fault {
	faults := []fault{w.pick(all, r)}
	if faults[0].undo == nil || r.IntN(2) == 0 {
		return faults
	}
	for range 5 {
		f := w.pick(all, r)
		if !slices.ContainsFunc(f.uses, func(u string) bool { return slices.Contains(faults[0].uses, u) }) {
			return append(faults, f)
		}
	}
	return faults
}

func (w *world) pick(all []action, r *rand.Rand) fault {
	var can []action
	total := 0
	for _, a := range all {
		if a.when == nil || a.when(w) {
			can = append(can, a)
			total += a.weight
		}
	}
	if total == 0 {
		return fault{what: "nothing can happen", do: func(context.Context) error { return nil }}
	}
	at := r.IntN(total)
	for _, a := range can {
		if at -= a.weight; at < 0 {
			f := a.plan(w, r)
			f.what = strings.TrimSuffix(a.name+": "+f.what, ": ")
			return f
		}
	}
	panic("unreachable: the weights' sum is total")
}

func describe(faults []fault) string {
	text := faults[0].what
	if h := faults[0].hold; h > 0 {
		text += fmt.Sprintf(", for %v", h)
	}
	for _, f := range faults[1:] {
		text += "; meanwhile " + f.what
		if f.hold > 0 {
			text += fmt.Sprintf(", for %v", f.hold)
		}
	}
	return text
}

// perform does what was chosen, the last first undone.
func perform(ctx context.Context, faults []fault) (err error) {
	f := faults[0]
	if err := f.do(ctx); err != nil {
		return fmt.Errorf("%s: %w", f.what, err)
	}
	if len(faults) > 1 {
		err = perform(ctx, faults[1:])
	}
	wait(ctx, f.hold)
	if f.undo != nil {
		err = errors.Join(err, f.undo(ctx))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.what, err)
	}
	return nil
}

// wait lets a fault last.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// between chooses a duration, in tenths of a second.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	const tenth = 100 * time.Millisecond
	return least + time.Duration(r.Int64N(int64((most-least)/tenth)+1))*tenth
}

// script is a fault that runs a script on a node.
func script(m *member, text string, touches touch) fault {
	return fault{what: m.Name + ": " + oneLine(text), uses: names(m), touches: touches,
		do: func(ctx context.Context) error { _, err := m.sh(ctx, text); return err }}
}

func oneLine(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
