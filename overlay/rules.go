package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

// rulesKey is the place of the rules among what can be contended.
var rulesKey = backend.Key{Kind: backend.KindRules}

// syncRules brings the firewall's rules up to date, and reports whether they
// are, as far as it is their turn. They follow from what makes all be planned
// again.
func (a *Agent) syncRules(ctx context.Context, now time.Time, replanned bool) bool {
	s := a.state
	if s.rules != nil && !s.dirtyRules && !replanned {
		return true
	}
	want := a.masquerade()
	rules := masq.Plan(want)
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
		moved := a.board.firewall(report, want)
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
		if s.alone && !polled(report) {
			a.suspectRules(now)
		}
	case report.Changed:
		a.cfg.Log.WithField("firewall", report.Mode).Info("rules written")
	}
	return true
}

// polled reports whether rules are where changes are not told of.
func polled(r masq.Report) bool { return r.Mode == "iptables-legacy" }

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
