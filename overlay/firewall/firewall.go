// Package firewall holds Twill's rules in the host's firewall: in nftables or in
// iptables, whichever is asked for, and accepts what is forwarded where others
// would drop it.
//
// # Who holds the rules
//
// Asked for by --firewall, else by EnableNFTables in the network config, else
// nftables where the kernel has it, else iptables in the variant of the host's
// own iptables. It is chosen anew by each Sync, as the config changes while we
// run. What is asked for and cannot be had is an error, and leaves all rules as
// they are; but what the network config asks of a host without iptables, a
// container that is, nftables does instead.
//
// # Make before break
//
// The wanted rules are in before leftovers of another mode go, whether this
// process left them or an earlier one. For a moment both are there, which is
// harmless: the first that translates a connection settles it. Connections
// that are there keep their translation in any case (conntrack).
//
// # The accept goes where the drop is
//
// A packet passes every base chain on the hook, of nftables and of both variants
// of iptables, and what one of them drops is gone: an accept elsewhere does not
// help. So the accepts are put, besides where the rules proper are, into
//
//   - FORWARD of each variant and family of iptables where it drops (Docker,
//     ufw), as chain TWILL-FORWARD with a jump;
//   - each base chain of hook forward of other nftables tables that drops
//     (firewalld, a hand-written nftables.conf), as rules at its head.
//
// They are there while that chain drops: what does not drop needs none,
// and a chain of others is left as they made it. Except in FORWARD of
// iptables-nft: there they are as long as others use it, since whoever does may
// set its policy to DROP at any time (Docker, ufw, each script that begins with
// `-P ACCEPT; -F`), and an accept that follows the drop comes after packets are
// lost. It costs nothing, as it is looked at over netlink; iptables-legacy would
// need a process each time. A chain that cannot be given
// them is told with what to do about it; it holds back no other, nor readiness,
// since it is another's policy that no restart of ours mends.
//
// # Noticing
//
// nf_tables tells what changes, and of that only what concerns us is heard.
// iptables-legacy tells nothing: while it has tables on this host, they are
// looked at every Resync, and where its binaries are, so are two files of /proc
// that tell of the first table. Otherwise nothing polls, and a Sync that finds
// all as it should be runs no process where iptables-legacy is not in use.
//
// It logs nothing and knows neither stores nor the agent.
package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/nftables"
	"github.com/twill-net/twill/subnet"
)

// Config is what the administrator of the host says.
type Config struct {
	Asked  masq.Renderer // by --firewall; AnyRenderer for auto
	Resync time.Duration // between two looks at iptables-legacy
	Linger time.Duration // of accepts in FORWARD of iptables-nft when nobody uses it any more; 0 is a minute
}

// sweepAgain is the time between two looks for what is ours in iptables-legacy
// while nothing of it is wanted there: each look runs processes, and only
// somebody who restores old rules can bring it back.
const sweepAgain = time.Minute

// Firewall is the host's. Sync and Remove must not run at the same time; Watch
// may run beside them.
type Firewall struct {
	cfg     Config
	table   *nftables.Table
	foreign *nftables.Foreign

	supported bool // nftables can hold our rules
	host      *iptables.Host
	hostErr   error
	missing   bool      // binaries that the last Sync needed
	installed string    // what detect found, see iptables.Installed
	detected  time.Time // when it looked
	chains    map[iptables.Variant]*iptables.Chains
	early     subnet.PerFamily[early]
	seen      seen
	settled   settled

	swept     time.Time     // iptables-legacy had nothing of ours then
	legacy    atomic.Bool   // iptables-legacy has tables here
	mayLegacy atomic.Bool   // its binaries are here, so that it may come to have some
	failed    atomic.Int32  // Syncs, one after the other, that could not place all accepts
	turned    chan struct{} // capacity 1: one of these is another than before
}

// New returns the firewall. It starts and asks nothing.
func New(cfg Config, table *nftables.Table, foreign *nftables.Foreign) *Firewall {
	cfg.Linger = cmp.Or(cfg.Linger, time.Minute)
	return &Firewall{cfg: cfg, table: table, foreign: foreign, turned: make(chan struct{}, 1)}
}

// Sync makes the host's firewall hold these rules. An error means that they are
// not all in; what of other programs keeps packets from being forwarded is in
// the report.
func (f *Firewall) Sync(ctx context.Context, rules masq.Rules) (masq.Report, error) {
	generation, err := f.table.Generation(ctx)
	if err != nil {
		generation = 0 // which it never is (nf_tables_init_net)
	}
	if f.stand(generation, rules) {
		return f.settled.report, nil
	}
	f.settled = settled{}
	lasts := f.seen.lasts(generation, time.Now())
	report, err := f.sync(ctx, rules)
	if err == nil && lasts {
		f.settle(generation, rules, report)
	}
	return report, err
}

func (f *Firewall) sync(ctx context.Context, rules masq.Rules) (masq.Report, error) {
	if f.host == nil || f.outdated() {
		f.detect(ctx)
	}
	m, err := f.choose(ctx, rules.Renderer)
	if _, any := f.host.Own(); err != nil && !any {
		f.detect(ctx) // somebody may have installed what is missing
		m, err = f.choose(ctx, rules.Renderer)
	}
	if err != nil {
		return masq.Report{}, err
	}
	report := masq.Report{Mode: m.String()}
	if m.iptables {
		f.swept = time.Time{}
		report.Changed, err = f.chains[m.variant].Sync(ctx, rules)
	} else {
		report.Changed, err = f.table.Sync(ctx, rules)
	}
	report.Proper = report.Changed
	f.missing = m.instead || err != nil && m.iptables && !f.hasAll(m.variant)
	f.noteLegacy()
	if err != nil {
		err = fmt.Errorf("holding the rules in %s: %w", m, err)
		if !m.iptables || ctx.Err() != nil {
			return report, err
		}
		// One family or table is wrong, perhaps, and most packets may pass.
	}
	report, errOthers := f.others(ctx, m, rules, report, err == nil)
	return report, errors.Join(err, errOthers)
}

// others brings about what is to be outside of where the rules proper are: the
// accepts where something drops and, once the rules proper are held, nothing
// else of ours.
func (f *Firewall) others(ctx context.Context, m mode, rules masq.Rules, report masq.Report, held bool) (masq.Report, error) {
	present, failed := f.table.Present(ctx), false
	for _, v := range iptables.Variants {
		if v == iptables.NFT && !present {
			continue
		}
		if m == (mode{iptables: true, variant: v}) {
			if held {
				report.Forward = append(report.Forward, forwards(v, rules.Forward)...)
			}
			continue
		}
		p := f.place(ctx, v, rules.Forward, held)
		report.Changed = report.Changed || p.changed
		report.Forward = append(report.Forward, forwards(v, p.placed)...)
		failed = failed || p.again || p.err != nil
		if p.err != nil {
			f.missing = f.missing || !f.hasAll(v)
			report.Blocked = append(report.Blocked, masq.Blocked{Chain: "FORWARD of " + mode{iptables: true, variant: v}.String(), Reason: p.err.Error()})
		}
	}
	if present {
		foreign, err := f.foreign.Sync(ctx, rules.Forward, f.has(iptables.NFT))
		if err != nil {
			failed = true
			report.Blocked = append(report.Blocked, masq.Blocked{Chain: "forward of other nftables tables", Reason: err.Error()})
		}
		report.Changed = report.Changed || foreign.Changed
		report.Forward = append(report.Forward, foreign.Forward...)
		report.Blocked = append(report.Blocked, foreign.Blocked...)
	}
	if present && m.iptables && held {
		changed, err := f.table.Sync(ctx, masq.Rules{})
		report.Changed = report.Changed || changed
		if err != nil {
			return report, fmt.Errorf("sweeping what nftables mode has left: %w", err)
		}
	}
	slices.Sort(report.Forward)
	slices.SortFunc(report.Blocked, func(a, b masq.Blocked) int { return strings.Compare(a.Chain, b.Chain) })
	f.noteLegacy()
	f.noteFailed(failed)
	return report, ctx.Err()
}

// forwards names the chains that accepts were put into.
func forwards(v iptables.Variant, accepts []masq.Rule) []string {
	var list []string
	for _, f := range subnet.Families {
		if slices.ContainsFunc(accepts, func(r masq.Rule) bool { return r.Family == f }) {
			list = append(list, fmt.Sprintf("%s filter FORWARD (%s)", subnet.PerFamily[string]{"ip", "ip6"}[f], mode{iptables: true, variant: v}))
		}
	}
	return list
}

// Remove takes all that is ours out of the host's firewall, whatever mode it is
// of. That nothing is there is no error.
func (f *Firewall) Remove(ctx context.Context) error {
	if f.host == nil {
		f.detect(ctx)
	}
	var errs []error
	if f.table.Present(ctx) {
		errs = append(errs, f.table.Remove(ctx), f.foreign.Remove(ctx), f.chains[iptables.NFT].Remove(ctx))
	}
	return errors.Join(append(errs, f.chains[iptables.Legacy].Remove(ctx))...)
}
