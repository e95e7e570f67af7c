package firewall

import (
	"slices"
	"time"

	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/backend/masq"
)

// settled is what a Sync found as it is to be, and for as long as it will be.
// To read it all again is a third of what a daemon does that has nothing to do.
type settled struct {
	generation uint32 // of nf_tables; 0: nothing is settled
	rules      masq.Rules
	report     masq.Report
}

// commitMost is how long a transaction may take effect after the generation that
// it raises: the policies of chains change last (nf_tables_commit), with 20 000
// rules and somebody listening 0.1 s later. What was read meanwhile would be taken
// for what is there.
const commitMost = time.Second

// seen is the generation that the last Sync saw, and when the first one saw it.
type seen struct {
	generation uint32
	at         time.Time
}

// lasts reports whether a generation has been seen for commitMost.
func (s *seen) lasts(generation uint32, now time.Time) bool {
	if generation != s.generation {
		*s = seen{generation, now}
	}
	return now.Sub(s.at) >= commitMost
}

// stand reports whether a Sync would find what the last one has found.
func (f *Firewall) stand(generation uint32, rules masq.Rules) bool {
	s := f.settled
	return generation != 0 && generation == s.generation && s.rules.Equal(rules) && !f.outdated() && !iptables.LegacyUsed()
}

// settle notes what a Sync that did not fail has found; generation is the
// ruleset's before it began, and was seen for commitMost by then. Not where it
// wrote something, where anything is in other hands or in tables that announce
// nothing, and not while accepts in FORWARD of iptables-nft have a time to live.
func (f *Firewall) settle(generation uint32, rules masq.Rules, report masq.Report) {
	linger := func(e early) bool { return time.Since(e.used) < f.cfg.Linger || time.Now().Before(e.not) }
	if report.Changed || len(report.Blocked) > 0 || f.failed.Load() > 0 || f.legacy.Load() || slices.ContainsFunc(f.early[:], linger) {
		return
	}
	f.settled = settled{generation, rules, report}
}
