package overlay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twill-net/twill/backend"
)

// watches are the tasks that hear what others do to what is ours.
type watches struct{ kernel, guard, rules watch }

// watch is one of them. Whether it makes progress shows in a look at
// everything: what that finds altered should have been told.
type watch struct {
	mu      sync.Mutex
	reopen  context.CancelCauseFunc // ends the run under way; nil between two
	worked  bool                    // it has told something, ever
	away    time.Time               // since when it does not work, though it did; zero while it does
	closing time.Time               // since when it is to end, and has not; zero for not
}

// deafError is why a watch is opened anew.
type deafError struct{ object string }

func (e *deafError) Error() string {
	return fmt.Sprintf("%s was altered and nobody told: it is opened anew", e.object)
}

// around makes a task of what watches, which deaf ends.
func (w *watch) around(task func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		w.mu.Lock()
		w.reopen = cancel
		w.mu.Unlock()

		err := task(ctx)

		w.mu.Lock()
		defer w.mu.Unlock()
		w.reopen, w.closing = nil, time.Time{}
		if w.worked && w.away.IsZero() {
			w.away = time.Now()
		}
		var deaf *deafError
		if errors.As(context.Cause(ctx), &deaf) {
			return deaf
		}
		return err
	}
}

// works notes that the watch told something.
func (w *watch) works() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.worked, w.away = true, time.Time{}
}

// deaf has the watch opened anew, as it did not tell of an object.
func (w *watch) deaf(object string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reopen != nil && w.closing.IsZero() {
		w.closing = now
		w.reopen(&deafError{object})
	}
}

// dead says why the watch makes no progress any more, "" when it does. One that
// never worked, as this kernel has no such thing, is not dead: no restart
// mends that.
func (w *watch) dead(now time.Time, patience time.Duration) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.closing.IsZero() && now.Sub(w.closing) > patience:
		return fmt.Sprintf("is deaf, and does not end for %s", now.Sub(w.closing).Round(time.Second))
	case !w.away.IsZero() && now.Sub(w.away) > patience:
		return fmt.Sprintf("has not worked for %s", now.Sub(w.away).Round(time.Second))
	}
	return ""
}

// suspicion is what a look found altered, and no watch had told of. What had
// happened a moment before is told a moment later: so is what we write. So
// there is a while to be told.
type suspicion struct {
	until time.Time // zero: there is none
	rules bool      // the rules are suspected, too,
	heard uint64    // and the watch had told of them so often
}

// maxSuspects bounds how many objects are waited for: one is enough.
const maxSuspects = 16

// suspect notes what a look that nothing asked for repaired, though no watch
// had told of it.
func (a *Agent) suspect(now time.Time, steps []step, drift map[backend.Key]backend.Object) {
	var keys []backend.Key
	for _, st := range steps {
		k := st.Key()
		_, told := drift[k]
		if !st.repair || told || k.Kind == backend.KindSysctl || a.state.pending[k] != nil { // of some sysctls nobody tells
			continue
		}
		if keys = append(keys, k); len(keys) == maxSuspects {
			break
		}
	}
	if a.inbox.suspect(keys) {
		a.state.suspicion.until = now.Add(a.cfg.FullPass / 6)
	}
}

// suspectRules is suspect for the rules as a whole.
func (a *Agent) suspectRules(now time.Time) {
	s := &a.state.suspicion
	s.until, s.rules, s.heard = now.Add(a.cfg.FullPass/6), true, a.inbox.rulesHeard()
}

// judge has the watches opened anew that have still not told of what was
// suspected.
func (a *Agent) judge(now time.Time) {
	s := &a.state.suspicion
	if s.until.IsZero() || now.Before(s.until) {
		return
	}
	for _, k := range a.inbox.takeSuspects() {
		w := &a.watches.kernel
		if guarded(k.Kind) {
			w = &a.watches.guard
		}
		w.deaf(k.String(), now)
	}
	if s.rules && s.heard == a.inbox.rulesHeard() {
		a.watches.rules.deaf(rulesKey.String(), now)
	}
	*s = suspicion{}
}
