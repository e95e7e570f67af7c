package overlay

import (
	"context"
	"net/netip"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

// state is what the reconciler knows; only its goroutine touches it.
type state struct {
	config   *subnet.Config               // the newest that can be used
	node     *underlay.Node               // what the cluster says; nil while that is not known
	belief   underlay.Belief              // and what of that counts,
	nodeAt   time.Time                    // until then; zero for until it says something else
	doubted  bool                         // that is to come
	onHost   subnet.PerFamily[netip.Addr] // of its InternalIPs those that were on this host
	underlay *backend.Underlay
	planner  Planner
	// The store has not told them yet, they are as an earlier run knew them.
	configRecalled, heldRecalled bool

	active subnet.Config // what the planner was made for
	held   *subnet.Held
	lost   error        // why held is not ours any more
	claim  subnet.Claim // as published, without Previous

	pending   map[backend.Key]*pending   // changes that failed or wait their turn
	withdrawn map[backend.Key]withdrawal // lately
	pace      pacer
	rules     *masq.Rules       // in the kernel as of the last Sync
	refused   map[string]string // records that were told to be refused, and why

	full        scope // what the next pass looks at as a whole
	host        bool  // the next pass looks at the interfaces again,
	routes      bool  // and at the host's own routes, and chooses the underlay again
	dirtyRules  bool
	guardBroken bool                           // could not be made anew in this pass
	guardRight  uint32                         // its generation when it was last seen to be as it shall be; 0: it may not be
	rulesTried  masq.Rules                     // that could not be written,
	rulesTry    *backoff.ExponentialBackOff    // and how long to wait
	rulesAt     time.Time                      // until then; zero when they were written
	pods        []pods.Pod                     // on this node
	bridged     subnet.PerFamily[netip.Prefix] // for which the pods' bridges were brought up to date,
	bridgeAt    time.Time                      // and when that is to be tried again; zero for not
	interfaces  []backend.Interface            // that matter to the underlay, as last seen
	env         bool                           // subnet.env says what is so
	cniConf     bool                           // the runtime's network config is in its place
	cniSeen     bool                           // and that directory was looked at
	network     subnet.NetworkState            // as the cluster was told
	foreign     []backend.HostRoute            // the host's own, in the overlay network
	inSync      bool                           // the first full list is planned for: what nobody wants may go,
	unsure      bool                           // but for ways to peers
	settled     bool                           // all peers of the first full list were programmed once
	retry       *backoff.ExponentialBackOff    // of passes that could not do all
	alone       bool                           // this pass looks at everything, and nobody asked for it
	suspicion   suspicion
}

// pending is a change to make later.
type pending struct {
	have    backend.Object // as far as known
	repair  bool
	failed  bool // rather than paced
	attempt *backoff.ExponentialBackOff
	at      time.Time
}

func newState() *state {
	return &state{
		pending:   map[backend.Key]*pending{},
		withdrawn: map[backend.Key]withdrawal{},
		pace:      pacer{},
		retry:     newBackoff(100*time.Millisecond, 10*time.Second),
		rulesTry:  newBackoff(100*time.Millisecond, 10*time.Second),
	}
}

// reconcile runs passes: when something is dirty, when a retry is due, and a
// full one from time to time for what nothing announces.
func (a *Agent) reconcile(ctx context.Context) {
	full := time.NewTicker(a.cfg.FullPass)
	defer full.Stop()
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	for {
		a.state.alone = false
		select {
		case <-ctx.Done():
			return
		case <-full.C:
			a.state.alone = a.state.full.empty() && !a.state.dirtyRules
			a.state.full, a.state.routes, a.state.dirtyRules, a.state.env, a.state.cniConf, a.state.cniSeen = everything, true, true, false, false, false
		case <-a.inbox.wake:
		case <-due.C:
		}
		next := a.pass(ctx)
		due.Reset(time.Until(next))
	}
}

// pass closes the gap between what is wanted and what is there, as far as it
// is known to be dirty, and returns when it must run again at the latest.
func (a *Agent) pass(ctx context.Context) time.Time {
	now := time.Now()
	s := a.state
	recheck := a.inbox.expire(now)
	a.judge(now)
	n := a.inbox.take(now)
	s.alone = s.alone && n.resync.empty() && !n.rules && n.nodes == nil
	s.full = s.full.or(n.resync)
	s.host, s.routes = s.host || n.host, s.routes || n.routes
	s.dirtyRules = s.dirtyRules || n.rules
	hosts := n.inSync != s.inSync // the guard may come
	// Not later: a list that arrives from now on is not planned for in this pass.
	s.inSync, s.unsure = n.inSync, n.unsure

	if !n.again.IsZero() {
		recheck = earliest(n.again, recheck)
	}
	if n.host || n.routes { // what could not be made then may be possible now
		for _, p := range s.pending {
			if !p.repair || p.failed {
				p.at = now
			}
		}
	}

	if n.node != nil {
		s.node = n.node
	}
	if !s.nodeAt.IsZero() && !now.Before(s.nodeAt) {
		s.routes, s.nodeAt = true, time.Time{}
	}
	a.lookAtCNIConfs()
	replan := a.takeConfig(n.config, n.configRecalled)
	interfaces, other, others := a.takeHost(ctx)
	replan, hosts = replan || other, hosts || others
	if !s.nodeAt.IsZero() {
		recheck = earliest(s.nodeAt, recheck)
	}
	otherLease := false
	if n.held != nil && (s.held == nil || *s.held != *n.held) {
		otherLease = s.held == nil || s.held.Lease != n.held.Lease
		a.takeHeld(*n.held)
	}
	replan = replan && a.newPlanner() || otherLease
	if n.held != nil || n.lost != nil {
		s.lost = n.lost
		s.heldRecalled = n.heldRecalled && n.lost == nil
		s.env = false
	}
	if n.lost != nil {
		a.withdrawEnv()
	}
	if !s.bridgeAt.IsZero() && !now.Before(s.bridgeAt) {
		s.host, s.bridgeAt = true, time.Time{}
	}
	if s.host || s.routes { // could not be read
		recheck = earliest(now.Add(time.Second), recheck)
	}
	if s.planner == nil || s.held == nil {
		// Nothing is known to be wanted yet: what an earlier run left stays.
		if s.held != nil {
			a.board.held(*s.held)
		}
		a.showReadiness(a.missing())
		return earliest(now.Add(a.cfg.FullPass), recheck)
	}
	planned, peers := a.plan(n.nodes, replan, hosts)
	rules := a.syncRules(ctx, now, replan) // their own, and soon done: what was flushed is not to wait for all the peers
	read, links, guard := a.program(ctx, now, planned, n.drift)
	if ctx.Err() != nil { // nothing of it says how we are
		return now
	}
	a.logPeers(peers)
	if replan || n.refusals {
		a.logRefused()
	}
	a.showShadows()
	if interfaces != nil {
		a.syncBridges(ctx, now, backend.Host{Interfaces: interfaces})
	}
	s.env = s.env && !replan
	a.conclude(now, read, links, rules)
	return earliest(a.nextDue(now, read && links && guard && rules), recheck)
}

// newPlanner makes the planner for the config and underlay there are now, and
// announces what follows. It reports whether there is a new one. A config that
// does not fit the underlay leaves the one before at work.
func (a *Agent) newPlanner() bool {
	s := a.state
	if s.config == nil || s.underlay == nil {
		return false
	}
	cfg := *s.config
	p, err := newPlanner(cfg, *s.underlay, a.cfg.Node)
	if a.board.problem(partFit, err) && err != nil {
		a.cfg.Log.WithError(err).Warn("network config does not fit the underlay")
	}
	if err != nil && s.planner != nil {
		cfg = s.active
		p, err = newPlanner(cfg, *s.underlay, a.cfg.Node)
	}
	if err != nil {
		return false
	}
	s.planner, s.active = p, cfg
	if a.ground.setOverlay(cfg) {
		select {
		case a.sweepNow <- struct{}{}:
		default:
		}
	}
	claim := p.Announce(subnet.Claim{Node: a.cfg.Node, MachineID: a.cfg.MachineID, Config: cfg.ForLease()})
	if claim != s.claim && !s.configRecalled { // else the store may know of another config
		s.claim = claim
		claim.Previous = a.previous()
		a.publish(claim)
	}
	return true
}

// previous returns the subnets that this node had: those of its lease, else
// those that subnet.env still tells of.
func (a *Agent) previous() subnet.PerFamily[netip.Prefix] {
	if h := a.state.held; h != nil {
		return h.Lease.Subnets
	}
	var subnets subnet.PerFamily[netip.Prefix]
	env, err := envfile.Read(a.cfg.SubnetFile)
	if err != nil {
		return subnets // there is none, or none to be trusted
	}
	for f, p := range env.Subnets {
		if p.IsValid() {
			subnets[f] = p.Masked()
		}
	}
	return subnets
}

func (a *Agent) takeHeld(h subnet.Held) {
	s := a.state
	log := a.cfg.Log.WithFields(logrus.Fields{"subnet": prefixes(h.Lease.Subnets)})
	switch {
	case s.held == nil:
		log.Info("lease held")
	case s.held.Lease.Subnets != h.Lease.Subnets:
		log.WithField("before", prefixes(s.held.Lease.Subnets)).Warn("lease is another one: pods of the old subnet are cut off")
	}
	if s.held == nil || s.held.Lease.Subnets != h.Lease.Subnets {
		s.host = true // the pods' bridge has to follow
		a.inbox.poke()
	}
	s.held = &h
}

// plan plans again for the nodes that are dirty, or for all, and for this node
// if it has to, and returns what that changes, and for which peers.
func (a *Agent) plan(dirty map[string]bool, all, host bool) ([]backend.Change, peerNews) {
	s := a.state
	own := s.held.Lease
	plans := make(map[string][]backend.Object, len(dirty)+1)
	if all {
		s.full = everything // only a look at the kernel tells what an earlier plan left
		dirty = a.inbox.setOwn(own, s.planner.Check)
		for _, id := range a.desired.nodes() {
			dirty[id] = true
		}
	}
	if all || host {
		plans[hostPlan] = a.hostObjects(own)
	}
	for id := range dirty {
		peer, ok := a.inbox.peer(id)
		if !ok {
			plans[id] = nil
			a.board.peerGone(id)
			continue
		}
		objects, err := a.peerObjects(own, peer)
		plans[id] = objects
		a.board.peerPlanned(id, err)
	}
	news := a.desired.news(dirty, plans)
	return a.desired.replace(plans), news
}

// logPeers tells which peers came, changed or went; many at once in one line.
func (a *Agent) logPeers(n peerNews) {
	if len(n.some) == n.added+n.changed+n.gone {
		for _, p := range n.some {
			a.cfg.Log.WithField("peer", p.id).Info(p.what)
		}
		return
	}
	a.cfg.Log.WithFields(logrus.Fields{"added": n.added, "changed": n.changed, "gone": n.gone}).Info("peers changed")
}

// logRefused tells of each record that does not count once, and again when the
// reason is another.
func (a *Agent) logRefused() {
	const few = 8
	refused := a.inbox.refused()
	told := make(map[string]string, len(refused))
	news := 0
	for _, r := range refused {
		told[r.Key] = r.Reason
		if a.state.refused[r.Key] == r.Reason {
			continue
		}
		if news++; news <= few {
			a.cfg.Log.WithFields(logrus.Fields{"key": r.Key, "peer": r.Node, "reason": r.Reason}).Warn("record refused")
		}
	}
	if news > 0 || len(told) != len(a.state.refused) {
		a.board.touch()
	}
	if news > few {
		a.cfg.Log.WithField("records", news-few).Warn("more records refused, see the status")
	}
	a.state.refused = told
}

// nextDue returns when the next pass has something to do.
func (a *Agent) nextDue(now time.Time, ok bool) time.Time {
	s := a.state
	next := now.Add(a.cfg.FullPass)
	if ok {
		s.retry.Reset()
	} else {
		next = now.Add(s.retry.NextBackOff())
	}
	for _, p := range s.pending {
		next = earliest(next, p.at)
	}
	next = earliest(earliest(next, s.suspicion.until), s.bridgeAt)
	switch {
	case !s.rulesAt.IsZero():
		next = earliest(next, s.rulesAt)
	case s.dirtyRules:
		next = earliest(next, s.pace.turn(rulesKey, now))
	}
	return next
}

// earliest returns the earlier of two times, of which b may be zero for never.
func earliest(a, b time.Time) time.Time {
	if !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
