package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

// step is a change with where it comes from.
type step struct {
	backend.Change
	repair bool // nobody changed their mind: the kernel drifted
	along  bool // with its link, which something else may keep undoing
}

// object returns what is to be there, or else what is to go.
func (st step) object() backend.Object {
	if st.Want != nil {
		return st.Want
	}
	return st.Have
}

// program brings the changes into the kernel, and reports whether the kernel
// could be read, whether our links are there, and whether the guard could be
// read. What failed is kept in pending.
func (a *Agent) program(ctx context.Context, now time.Time, planned []backend.Change, drift map[backend.Key]backend.Object) (read, links, guard bool) {
	s := a.state
	guard = true
	var steps []step
	if s.full {
		have, ok, err := a.observe(ctx)
		if err != nil {
			if a.board.problem(partKernel, err) && ctx.Err() == nil {
				a.cfg.Log.WithError(err).Warn("the kernel's state could not be read, will retry")
			}
			return false, true, true
		}
		guard = ok
		steps = a.fullSteps(planned, have, guard)
	} else {
		steps = a.dirtySteps(now, planned, drift)
	}
	links = a.apply(ctx, now, a.inTurn(now, steps))
	if ctx.Err() != nil {
		return true, true, true
	}
	if s.full {
		s.settled = s.settled || s.inSync
	}
	guard = guard && !s.guardBroken
	s.guardBroken = false
	s.full = !links || !guard // when a link is there, all that hangs on it is missing
	return true, links, guard
}

// apply makes the steps, up to the links first: what hangs on a link that cannot be made
// is not even tried, and counts neither as failed nor as repaired. It reports
// whether every link was there.
func (a *Agent) apply(ctx context.Context, now time.Time, steps []step) (done bool) {
	n := 0
	for n < len(steps) && steps[n].Want != nil && steps[n].Key().Kind <= backend.KindLink {
		n++
	}
	var repairs []repair
	renewed, missing := map[string]bool{}, map[string]bool{}
	run := func(steps []step) {
		changes := make([]backend.Change, len(steps))
		for i, st := range steps {
			changes[i] = st.Change
		}
		errs := a.write(ctx, changes)
		if ctx.Err() != nil {
			return
		}
		for i, st := range steps {
			link := backend.LinkOf(st.object())
			if errors.Is(errs[i], syscall.ENODEV) && link != "" {
				missing[link] = true
				continue
			}
			st.along = renewed[link]
			if g, ok := st.Have.(hygiene.Guard); ok && g.Condition == hygiene.Broken && errs[i] != nil {
				a.state.guardBroken = true // its tables go as a whole, permits included
			}
			if r, ok := a.applied(now, st, errs[i]); ok {
				repairs = append(repairs, r)
			}
			if st.Key().Kind == backend.KindLink {
				renewed[st.Key().Name], missing[st.Key().Name] = errs[i] == nil, errs[i] != nil
			}
		}
	}
	run(steps[:n])
	run(slices.DeleteFunc(steps[n:], func(st step) bool { return missing[backend.LinkOf(st.object())] }))
	a.logRepairs(repairs)
	for _, m := range missing {
		if m {
			return false
		}
	}
	return true
}

// fullSteps compares everything, but for the guard where it could not be read.
// What was not planned in this pass has drifted.
func (a *Agent) fullSteps(planned []backend.Change, have backend.State, guard bool) []step {
	s := a.state
	fresh := make(map[backend.Key]bool, len(planned))
	for _, c := range planned {
		fresh[c.Key()] = true
	}
	// A link that we replace takes along what hung on it: that is no drift,
	// though no plan changed it.
	replaced := slices.ContainsFunc(planned, replacesLink)
	changes := a.desired.diff(have, s.inSync)
	if !guard {
		changes = slices.DeleteFunc(changes, func(c backend.Change) bool { return guarded(c.Key().Kind) })
	}
	steps := make([]step, len(changes))
	for i, c := range changes {
		p := s.pending[c.Key()]
		failedBefore := p != nil && !p.repair
		steps[i] = step{Change: c, repair: s.settled && !replaced && !fresh[c.Key()] && !failedBefore}
	}
	// What is pending and no longer differs has come right.
	differs := make(map[backend.Key]bool, len(changes))
	for _, c := range changes {
		differs[c.Key()] = true
	}
	for k := range s.pending {
		if !differs[k] && (guard || !guarded(k.Kind)) {
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

// dirtySteps gathers what was planned, what drifted and what is due again.
func (a *Agent) dirtySteps(now time.Time, planned []backend.Change, drift map[backend.Key]backend.Object) []step {
	s := a.state
	steps := map[backend.Key]step{}
	add := func(c backend.Change, repair bool) {
		if c.Want != nil || (c.Have != nil && s.inSync && c.Key().Kind != backend.KindSysctl) {
			steps[c.Key()] = step{Change: c, repair: repair}
		}
	}
	for k, p := range s.pending {
		if !now.Before(p.at) {
			add(backend.Change{Have: p.have, Want: a.desired.get(k)}, p.repair)
		}
	}
	for k, have := range drift {
		if want := a.desired.get(k); want != have {
			add(backend.Change{Have: have, Want: want}, s.settled)
		}
	}
	for _, c := range planned {
		// The plan knows what was wanted, not what is there. With a Have the
		// kernel replaces whatever has the place, also what is not ours.
		if c.Want != nil {
			if p := s.pending[c.Key()]; p != nil {
				c.Have = p.have
			}
			if have, ok := drift[c.Key()]; ok {
				c.Have = have
			}
		}
		add(c, false)
	}
	out := make([]step, 0, len(steps))
	for _, st := range steps {
		out = append(out, st)
	}
	return out
}

// inTurn orders the steps and keeps for later what something else undoes again
// and again.
func (a *Agent) inTurn(now time.Time, steps []step) []step {
	s := a.state
	byKey := make(map[backend.Key]step, len(steps))
	changes := make([]backend.Change, 0, len(steps))
	for _, st := range steps {
		k := st.Key()
		if st.repair {
			if at := s.pace.turn(k, now); at.After(now) {
				s.later(st, at)
				continue
			}
		}
		byKey[k] = st
		changes = append(changes, st.Change)
	}
	backend.SortChanges(changes)
	out := make([]step, len(changes))
	for i, c := range changes {
		out[i] = byKey[c.Key()]
	}
	return out
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

// repair is a change that undid a drift.
type repair struct {
	backend.Change
	times int // how often lately
}

// applied notes what became of a step, and returns the repair that it was, if
// it was one.
func (a *Agent) applied(now time.Time, st step, err error) (r repair, repaired bool) {
	s := a.state
	k := st.Key()
	if err != nil {
		p := s.later(st, now)
		p.failed = true
		p.at = now.Add(p.attempt.NextBackOff())
		if a.board.objectFailed(k, err) {
			a.cfg.Log.WithField("object", k.String()).WithError(err).Warn("change failed, will retry")
		}
		return repair{}, false
	}
	delete(s.pending, k)
	a.board.objectWorks(k)
	if !st.repair {
		a.cfg.Log.WithField("change", st.Change).Debug("applied")
		return repair{}, false
	}
	r = repair{st.Change, 1}
	if !st.along {
		r.times = s.pace.repaired(k, now)
	}
	a.board.repaired(now, r)
	return r, true
}

// logRepairs writes the audit lines of one pass: one each for a few repairs,
// and one in all for many, as when a device with all its entries went.
func (a *Agent) logRepairs(repairs []repair) {
	const few = 8
	byKind := logrus.Fields{}
	for n, r := range repairs {
		kind := r.Key().Kind.String()
		count, _ := byKind[kind].(int)
		byKind[kind] = count + 1
		level := logrus.InfoLevel
		if len(repairs) > few || r.times > contended {
			level = logrus.DebugLevel
		}
		if r.times == contended && n < few {
			a.cfg.Log.WithFields(logrus.Fields{"object": r.Key().String(), "times": r.times}).Warn("something keeps undoing our work: repairs slow down")
		}
		a.cfg.Log.WithFields(logrus.Fields{"object": r.Key().String(), "before": text(r.Have), "after": text(r.Want), "times": r.times}).Log(level, "repaired")
	}
	if len(repairs) > few {
		a.cfg.Log.WithFields(byKind).Info("repaired many objects")
	}
}

func text(o backend.Object) string {
	if o == nil {
		return "absent"
	}
	return o.String()
}

// rulesKey is the place of the rules among what can be contended.
var rulesKey = backend.Key{Kind: backend.KindRules}

// syncRules brings the firewall's rules up to date, and reports whether they
// are, as far as it is their turn.
func (a *Agent) syncRules(ctx context.Context, now time.Time) bool {
	s := a.state
	rules := masq.Plan(a.masquerade())
	planned := s.rules == nil || !s.rules.Equal(rules)
	if !planned && !s.dirtyRules {
		return true
	}
	if !planned && s.pace.turn(rulesKey, now).After(now) {
		return true // dirtyRules stays; see nextDue
	}
	if now.Before(s.rulesAt) && s.rulesTried.Equal(rules) {
		return false
	}
	report, err := a.firewall.Sync(ctx, rules)
	if ctx.Err() != nil {
		return true
	}
	if err == nil {
		// Where others drop is not for us to say: that it changed is no repair.
		moved := a.board.firewall(report)
		planned = planned || moved && !report.Proper
		blocked := blocked(report)
		if a.board.problem(partForward, blocked) && blocked != nil {
			a.cfg.Log.WithError(blocked).Warn("another program's firewall drops what is forwarded")
		}
	}
	if a.board.problem(partRules, err) && err != nil {
		a.cfg.Log.WithError(err).Warn("rules could not be written, will retry")
	}
	if err != nil {
		s.dirtyRules, s.rulesTried, s.rulesAt = true, rules, now.Add(s.rulesTry.NextBackOff())
		return false
	}
	s.rulesAt = time.Time{}
	s.rulesTry.Reset()
	s.dirtyRules = false
	s.rules = &rules
	switch {
	case report.Changed && !planned:
		a.rulesRepaired(now)
	case report.Changed:
		a.cfg.Log.WithField("firewall", report.Mode).Info("rules written")
	}
	return true
}

// blocked returns what keeps packets from being forwarded as an error. It does
// not undo readiness: it is another program's policy.
func blocked(r masq.Report) error {
	var errs []error
	for _, b := range r.Blocked {
		errs = append(errs, fmt.Errorf("chain %s: %s", b.Chain, b.Reason))
	}
	return errors.Join(errs...)
}

func (a *Agent) rulesRepaired(now time.Time) {
	times := a.state.pace.repaired(rulesKey, now)
	a.board.countRepair(rulesKey.Kind, Repair{Time: now, Object: rulesKey.String(), Before: "altered", After: "as wanted", Times: times})
	log := a.cfg.Log.WithFields(logrus.Fields{"object": rulesKey.String(), "times": times})
	switch {
	case times == contended:
		log.Warn("something keeps undoing our work: repairs slow down")
	case times < contended:
		log.Info("repaired")
	}
}

// renderers are what EnableNFTables asks for.
var renderers = map[subnet.Choice]masq.Renderer{subnet.Unset: masq.AnyRenderer, subnet.Yes: masq.NFTables, subnet.No: masq.IPTables}

func (a *Agent) masquerade() masq.Config {
	s := a.state
	c := masq.Config{
		Subnets: s.held.Lease.Subnets, RandomFully: a.cfg.RandomFull, Exclude: s.active.NonMasquerade.All(),
		Forward: a.cfg.Forward, Renderer: renderers[s.active.EnableNFTables],
	}
	for _, f := range subnet.Families {
		c.Masquerade[f] = a.cfg.Masquerade && s.active.Masquerade[f]
		if n := s.active.Networks[f]; n.Enabled() {
			c.Networks[f] = []netip.Prefix{n.Network}
		}
	}
	return c
}

// conclude writes subnet.env if all of it is true, and tells how we are.
func (a *Agent) conclude(now time.Time, read, links, rules bool) {
	s := a.state
	if read {
		a.board.readBack(now)
	}
	hostFailed := !read || !links
	for k := range s.pending {
		if (k.Kind == backend.KindLink || k.Kind == backend.KindAddress) && a.desired.get(k) != nil {
			hostFailed = true
		}
	}
	a.board.contention(s.pace.contended(now))
	reasons := a.missing()
	if hostFailed {
		reasons = append(reasons, "the device is not as it must be, see failing")
	}
	if len(reasons) == 0 {
		if err := a.writeEnv(); err != nil {
			reasons = append(reasons, err.Error())
			a.cfg.Log.WithError(err).Warn("subnet file could not be written, will retry")
		} else if a.cfg.Manager != nil {
			a.cfg.Manager.Ready()
		}
	}
	a.board.held(*s.held) // not before subnet.env says the same
	if s.rules == nil || !rules {
		reasons = append(reasons, "the rules are not in"+a.board.because(partRules))
	}
	if s.configRecalled {
		reasons = append(reasons, "the network config is what an earlier run knew: the store has not told one")
	}
	if s.heldRecalled {
		reasons = append(reasons, "the lease is what an earlier run knew: the store has not confirmed it")
	}
	if !s.settled {
		reasons = append(reasons, "the first full list of peers is not programmed")
	}
	if !a.showReadiness(reasons) {
		return
	}
	if len(reasons) == 0 {
		a.cfg.Log.Info("ready")
	} else {
		a.cfg.Log.WithField("reasons", reasons).Warn("no longer ready")
	}
}

// showReadiness shows why the node is not ready, nothing for ready, and reports
// whether that turned.
func (a *Agent) showReadiness(reasons []string) (turned bool) {
	if m := a.cfg.Manager; m != nil {
		line := "waiting: " + strings.Join(reasons, "; ")
		if len(reasons) == 0 {
			line = fmt.Sprintf("ready: subnet %s, ways to %d peers", strings.Join(prefixes(a.state.held.Lease.Subnets), " and "), a.desired.peers())
		}
		m.Status(line + a.board.storeAway())
	}
	return a.board.readiness(reasons)
}

// missing names what there must be before anything can be programmed.
func (a *Agent) missing() []string {
	s := a.state
	var reasons []string
	for _, m := range []struct {
		missing bool
		what    string
	}{
		{s.config == nil, "no usable network config yet" + a.board.because(partConfig)},
		{s.underlay == nil, "no external interface yet" + a.board.because(partUnderlay)},
		{s.config != nil && s.underlay != nil && s.planner == nil, "the network config does not fit the underlay" + a.board.because(partFit)},
		{s.held == nil, "no lease yet" + a.board.because(partLease)},
		{s.held != nil && s.lost != nil, fmt.Sprintf("the lease is lost: %v", s.lost)},
	} {
		if m.missing {
			reasons = append(reasons, m.what)
		}
	}
	return reasons
}

// withdrawEnv takes subnet.env away, as the subnet in it is another node's now:
// no pod may get an address of it. Pods that are there go on.
func (a *Agent) withdrawEnv() {
	if err := os.Remove(a.cfg.SubnetFile); err == nil {
		a.cfg.Log.Warn("subnet file withdrawn: no pods can be added until there is a lease again")
	} else if !errors.Is(err, fs.ErrNotExist) {
		a.cfg.Log.WithError(err).Warn("subnet file could not be withdrawn")
	}
}

func (a *Agent) writeEnv() error {
	s := a.state
	env := envfile.Env{IPMasq: a.cfg.Masquerade}
	mtu := s.planner.MTU()
	for _, f := range subnet.Families {
		n, p := s.active.Networks[f], s.held.Lease.Subnets[f]
		if !n.Enabled() || !p.IsValid() {
			continue
		}
		env.Networks[f] = []netip.Prefix{n.Network}
		env.Subnets[f] = envfile.Gateway(p)
		if env.MTU == 0 || mtu[f] < env.MTU {
			env.MTU = mtu[f]
		}
	}
	_, err := envfile.Write(a.cfg.SubnetFile, env)
	a.board.mtu(env.MTU)
	return err
}
