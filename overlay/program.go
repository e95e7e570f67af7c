package overlay

import (
	"context"
	"errors"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
)

// step is a change with where it comes from.
type step struct {
	backend.Change
	repair bool // nobody changed their mind: the kernel drifted
}

// scope is what a full pass looks at.
type scope struct{ kernel, guard bool }

var everything = scope{kernel: true, guard: true}

func (s scope) or(t scope) scope { return scope{s.kernel || t.kernel, s.guard || t.guard} }

func (s scope) empty() bool { return s == scope{} }

// holds reports whether objects of a kind are in the scope.
func (s scope) holds(k backend.Kind) bool {
	if guarded(k) {
		return s.guard
	}
	return s.kernel
}

// program brings the changes into the kernel, and reports whether the kernel
// could be read, whether our links are there, and whether the guard could be
// read. What failed is kept in pending.
func (a *Agent) program(ctx context.Context, now time.Time, planned []backend.Change, drift map[backend.Key]backend.Object) (read, links, guard bool) {
	s := a.state
	guard = true
	s.withdraw(now, planned)
	if slices.ContainsFunc(planned, touchesGuard) {
		s.guardRight = 0 // also if this pass does not come to write it
	}
	var steps []step
	if p := s.pending[hygiene.Guard{}.Key()]; p != nil && isBroken(p.have) && !now.Before(p.at) {
		s.full.guard = true // its tables go as a whole: what was in them must come along
	}
	if !s.full.empty() {
		changes, looked, err := a.compare(ctx)
		if err != nil {
			if a.board.problem(partKernel, err) && ctx.Err() == nil {
				a.cfg.Log.WithError(err).Warn("the kernel's state could not be read, will retry")
			}
			s.full = everything // what is planned now is found then
			return false, true, true
		}
		guard = looked == s.full
		steps = a.fullSteps(planned, changes, looked)
	}
	steps = append(steps, a.dirtySteps(now, planned, drift)...)
	backend.Sort(steps, func(st step) backend.Change { return st.Change })
	if s.alone {
		a.suspect(now, steps, drift)
	}
	steps = a.inTurn(now, steps)
	if slices.ContainsFunc(steps, func(st step) bool { return touchesGuard(st.Change) }) {
		s.guardRight = 0
	}
	links = a.apply(ctx, now, steps)
	if ctx.Err() != nil {
		return true, true, true
	}
	settled := s.settled || s.inSync && s.full == everything
	objects := len(steps)
	if !s.full.empty() {
		objects = max(objects, a.desired.objects())
	}
	a.burst(objects, settled != s.settled)
	s.settled = settled
	guard = guard && !s.guardBroken
	s.guardBroken = false
	s.full = scope{kernel: !links, guard: !guard} // when a link is there, all that hangs on it is missing
	return true, links, guard
}

// apply makes the steps, up to the links first: what hangs on a link that cannot be made
// is not even tried, and counts neither as failed nor as repaired. It reports
// whether every link was there.
func (a *Agent) apply(ctx context.Context, now time.Time, steps []step) (done bool) {
	n := 0
	for n < len(steps) && steps[n].Want != nil && kindOf(steps[n].Want) <= backend.KindLink {
		n++
	}
	r := round{now: now, missing: map[string]bool{}, renewed: map[string]bool{}, readdressed: map[string]bool{}}
	r.guard = slices.ContainsFunc(steps[:n], func(st step) bool { return st.repair && kindOf(st.Object()) == backend.KindGuard })
	a.applyRound(ctx, &r, steps[:n])
	rest := steps[n:]
	if len(r.missing) > 0 {
		rest = slices.DeleteFunc(rest, func(st step) bool { return r.missing[backend.LinkOf(st.Object())] })
	}
	a.applyRound(ctx, &r, rest)
	a.logRepairs(r.repairs)
	return len(r.missing) == 0
}

// round is what became of the steps of one pass.
type round struct {
	now         time.Time
	missing     map[string]bool // links that are not there
	renewed     map[string]bool // links that were put,
	readdressed map[string]bool // and that got an address back
	guard       bool            // the guard is made anew
	repairs     []repair
}

// along reports whether an object went with another one that this round
// repairs, too: if that is undone again and again, it is that one which is
// contended.
func (r *round) along(o backend.Object) bool {
	on := backend.LinkOf(o)
	switch kindOf(o) {
	case backend.KindPermit, backend.KindPod:
		return r.guard
	case backend.KindNeighbor, backend.KindRoute: // the kernel drops them with the last address
		return r.renewed[on] || r.readdressed[on]
	}
	return r.renewed[on]
}

func (a *Agent) applyRound(ctx context.Context, r *round, steps []step) {
	changes := make([]backend.Change, len(steps))
	for i, st := range steps {
		changes[i] = st.Change
	}
	errs := a.write(ctx, changes)
	if ctx.Err() != nil {
		return
	}
	debug := a.cfg.Log.Logger.IsLevelEnabled(logrus.DebugLevel)
	for i, st := range steps {
		err := errs[i]
		if debug && err == nil && !st.repair {
			a.cfg.Log.WithField("change", st.Change).Debug("applied")
		}
		link, isLink := st.Want.(backend.Link)
		if err == nil && !st.repair && !isLink && len(a.state.pending) == 0 {
			continue // of 100 000 at a start, all
		}
		on := backend.LinkOf(st.Object())
		if errors.Is(err, syscall.ENODEV) && on != "" {
			r.missing[on] = true
			continue
		}
		if k := st.Key().Kind; k == backend.KindGuard && st.Want != nil && err != nil {
			a.state.guardBroken = true // its tables go as a whole, permits included
		}
		a.applied(r, st, err)
		switch _, isAddress := st.Want.(backend.Address); {
		case isLink && err != nil:
			r.missing[link.Name] = true
		case isLink:
			r.renewed[link.Name] = true
		case isAddress && err == nil:
			r.readdressed[on] = true
		}
	}
}

// compare looks at all that is to be looked at, and returns what differs and
// what could be read. A guard that cannot be read is left as it is, and the
// rest goes on.
func (a *Agent) compare(ctx context.Context) (changes []backend.Change, looked scope, err error) {
	s := a.state
	looked = s.full
	if looked.kernel {
		sysctls := a.desired.sysctls()
		changes, err = a.desired.compare(a.desired.kernel, s.prunes, func(found func(backend.Object)) error {
			return each(found)(a.kernel.Observe(ctx, sysctls))
		})
		if err != nil {
			return nil, scope{}, err
		}
	}
	if !looked.guard || a.guard == nil {
		return changes, looked, nil
	}
	generation, unchanged := a.guardUnchanged(ctx)
	if unchanged {
		a.board.problem(partGuard, nil) // the look before may have failed
		return changes, looked, nil
	}
	more, err := a.desired.compare(a.desired.guard, s.prunes, func(found func(backend.Object)) error {
		return a.guard.Each(ctx, found)
	})
	if err == nil && len(more) == 0 && s.prunes(backend.KindPermit) {
		s.guardRight = generation
	}
	if a.board.problem(partGuard, err) && err != nil && ctx.Err() == nil {
		a.cfg.Log.WithError(err).Warn("VTEP hygiene could not be read, will retry")
	}
	if err != nil {
		looked.guard = false
		return changes, looked, nil
	}
	return append(changes, more...), looked, nil
}

// prunes reports whether an object of a kind that nobody wants may go.
func (s *state) prunes(k backend.Kind) bool {
	switch k {
	case backend.KindNeighbor, backend.KindFDB, backend.KindRoute, backend.KindPermit:
		return s.inSync && !s.unsure
	}
	return s.inSync
}

// guardUnchanged reports whether the last look found all of the guard as it
// shall be, and nothing has changed since, there or in what is wanted; and by
// which number the kernel will know that again. A look at 40 000 elements is most
// of what an idle daemon would do.
func (a *Agent) guardUnchanged(ctx context.Context) (generation uint32, unchanged bool) {
	s := a.state
	generation, err := a.guard.Generation(ctx)
	if err != nil {
		return 0, false // the look says what is wrong
	}
	for k := range s.pending {
		if guarded(k.Kind) {
			return generation, false
		}
	}
	return generation, generation == s.guardRight && generation != 0
}

func touchesGuard(c backend.Change) bool { return guarded(kindOf(c.Object())) }

// each passes on what was observed.
func each(found func(backend.Object)) func(backend.State, error) error {
	return func(have backend.State, err error) error {
		for _, o := range have {
			found(o)
		}
		return err
	}
}

// fullSteps takes what differs. What was not planned in this pass has drifted.
func (a *Agent) fullSteps(planned, changes []backend.Change, looked scope) []step {
	s := a.state
	steps := make([]step, len(changes))
	for i, c := range changes {
		steps[i].Change = c
	}
	// A link that we replace takes along what hung on it: that is no drift,
	// though no plan changed it.
	if s.settled && len(changes) > 0 && !slices.ContainsFunc(planned, replacesLink) {
		fresh := make(map[backend.Key]bool, len(planned))
		for _, c := range planned {
			fresh[c.Key()] = true
		}
		for i := range steps {
			k := steps[i].Key()
			p := s.pending[k]
			steps[i].repair = !fresh[k] && (p == nil || p.repair)
		}
	}
	if len(s.pending) == 0 {
		return steps
	}
	// What is pending and no longer differs has come right.
	differs := make(map[backend.Key]bool, len(changes))
	for _, c := range changes {
		differs[c.Key()] = true
	}
	for k := range s.pending {
		if !differs[k] && looked.holds(k.Kind) {
			delete(s.pending, k)
			a.board.objectWorks(k)
		}
	}
	return steps
}

func replacesLink(c backend.Change) bool {
	have, had := c.Have.(backend.Link)
	want, has := c.Want.(backend.Link)
	return had && has && want.Replaces(have)
}

// dirtySteps gathers, of what is not looked at as a whole, what was planned,
// what drifted and what is due again.
func (a *Agent) dirtySteps(now time.Time, planned []backend.Change, drift map[backend.Key]backend.Object) []step {
	s := a.state
	if s.full == everything {
		return nil
	}
	steps := map[backend.Key]step{}
	add := func(c backend.Change, repair bool) {
		if c.Want == nil && c.Have == nil {
			return
		}
		k := c.Key()
		if !s.full.holds(k.Kind) && (c.Want != nil || s.inSync && k.Kind != backend.KindSysctl) {
			steps[k] = step{Change: c, repair: repair}
		}
	}
	for k, p := range s.pending {
		if !now.Before(p.at) {
			add(backend.Change{Have: p.have, Want: a.desired.get(k)}, p.repair)
		}
	}
	for k, have := range drift {
		switch want := a.desired.get(k); {
		case want == nil && !s.prunes(k.Kind):
		case want != have:
			add(backend.Change{Have: have, Want: want}, s.settled && !s.echoes(now, k, have))
		case s.pending[k] != nil: // a sysctl that somebody else mended
			delete(s.pending, k)
			delete(steps, k)
			a.board.objectWorks(k)
		}
	}
	for _, c := range planned {
		// The plan knows what was wanted, not what is there. With a Have the
		// kernel replaces whatever has the place, also what is not ours.
		if c.Want != nil && len(s.pending)+len(drift) > 0 {
			if p := s.pending[c.Key()]; p != nil {
				c.Have = p.have
			}
			if have, ok := drift[c.Key()]; ok {
				c.Have = have
			}
		}
		add(c, false)
	}
	return slices.Collect(maps.Values(steps))
}

// echoMost is how long the echo of what we did to an FDB entry may be on its way,
// on a busy machine. That of other objects is not told to us, by the writer's
// port; the kernel sends those of FDB entries in its own name (vxlan_fdb_notify).
const echoMost = 10 * time.Second

// withdrawal is an FDB entry that a plan took away, or put another in its place.
type withdrawal struct {
	had  backend.Object
	gone bool
	at   time.Time
}

// withdraw notes those of a plan.
func (s *state) withdraw(now time.Time, planned []backend.Change) {
	maps.DeleteFunc(s.withdrawn, func(_ backend.Key, w withdrawal) bool { return now.Sub(w.at) > echoMost })
	for _, c := range planned {
		if c.Have != nil && kindOf(c.Have) == backend.KindFDB {
			s.withdrawn[c.Key()] = withdrawal{c.Have, c.Want == nil, now}
		}
	}
}

// echoes reports whether what is told of an entry may be what we did ourselves,
// before the peer came back, or went. All is done to it that has to be, but that
// is no repair.
func (s *state) echoes(now time.Time, k backend.Key, have backend.Object) bool {
	w, withdrawn := s.withdrawn[k]
	return withdrawn && (have == nil && w.gone || have == w.had) && now.Sub(w.at) <= echoMost
}

// inTurn keeps for later what something else undoes again and again.
func (a *Agent) inTurn(now time.Time, steps []step) []step {
	s := a.state
	if len(s.pace) == 0 {
		return steps
	}
	broken := slices.ContainsFunc(steps, func(st step) bool { return isBroken(st.Have) })
	wait := broken && s.pace.turn(hygiene.Guard{}.Key(), now).After(now)
	return slices.DeleteFunc(steps, func(st step) bool {
		if !st.repair {
			return false
		}
		k := st.Key()
		if broken && guarded(k.Kind) && k.Kind != backend.KindGuard {
			return wait // what its tables hold is not known, and goes with them: all of it or nothing
		}
		at := s.pace.turn(k, now)
		if at.After(now) {
			s.later(st, at)
		}
		return at.After(now)
	})
}

// isBroken reports whether an object is a Guard whose tables are to be made anew.
func isBroken(o backend.Object) bool {
	g, ok := o.(hygiene.Guard)
	return ok && g.Condition == hygiene.Broken
}

// later keeps a step for a pass at that time.
func (s *state) later(st step, at time.Time) *pending {
	p := s.pending[st.Key()]
	if p == nil {
		p = &pending{attempt: newBackoff(200*time.Millisecond, 30*time.Second)}
		s.pending[st.Key()] = p
	}
	p.have, p.repair, p.at, p.failed = st.Have, st.repair, at, false
	return p
}
