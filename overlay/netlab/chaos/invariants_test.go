package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// patience is the bound within which all must be well again after a step. An
// object that is damaged for the sixth time within a minute is repaired every
// ten seconds only, and what the kernel does not tell of, within thirty. The
// machine of CI may have other work.
var patience = map[bool]time.Duration{false: 45 * time.Second, true: 2 * time.Minute}[inCI()]

func inCI() bool { return os.Getenv("CI") == "true" }

// doubt is how long a daemon keeps what it knew of before the store lost data,
// and keeps it again when it is started meanwhile.
const doubt = 60 * time.Second

// timers is what of the kernel's state moves by itself, or with forwarding.
var timers = regexp.MustCompile(`(?m) [a-z_]+_timer +[0-9.]+| expires \d+sec|^(anycast|multicast) .*\n`)

// settle waits until the invariants hold; that two nodes have one subnet is
// not waited out.
func (w *world) settle(ctx context.Context, faults []fault) error {
	bound := patience
	if time.Since(w.replaced) < 2*doubt {
		bound += doubt
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	var fatal error
	err := poll(ctx, 50*time.Millisecond, func() error {
		for _, f := range faults {
			if f.after == nil {
				continue
			}
			if err := f.after(ctx); err != nil {
				return err
			}
		}
		err := w.check(ctx)
		if errors.Is(err, errShared) {
			fatal = err
			return nil
		}
		return err
	})
	return errors.Join(fatal, err)
}

// check checks all invariants once.
func (w *world) check(ctx context.Context) error {
	in := w.in()
	all := make([]overlay.Status, len(in))
	ask := func() error {
		return w.each(ctx, in, func(ctx context.Context, m *member) (err error) {
			if !m.daemon.Running() {
				return errors.New("its daemon has ended")
			}
			all[slices.Index(in, m)], err = m.status(ctx)
			return err
		})
	}
	err := ask()
	if disjoint(all) != nil {
		// They are not all asked at one moment: the second may have taken what
		// the first had given up by then. Both say it again if they share it.
		err = ask()
	}
	if err := disjoint(all); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	for i, m := range in {
		if err := well(all[i]); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	records, err := w.records(ctx)
	if err != nil {
		return err
	}
	if err := w.each(ctx, in, func(ctx context.Context, m *member) error { return w.checkNode(ctx, m, records) }); err != nil {
		return err
	}
	return w.talk(ctx)
}

// errShared wraps what must never be, not even for a moment.
var errShared = errors.New("two nodes share a subnet")

// disjoint checks that no two daemons believe in one subnet.
func disjoint(all []overlay.Status) error {
	holder := map[string]string{}
	for _, s := range all {
		if s.Lease == nil || !s.Ready {
			continue
		}
		for _, p := range s.Lease.Subnets {
			if holder[p] != "" {
				return fmt.Errorf("%w: %s and %s are ready with %s", errShared, holder[p], s.Node, p)
			}
			holder[p] = s.Node
		}
	}
	return nil
}

// well checks what a daemon says of itself.
func well(s overlay.Status) error {
	switch {
	case !s.Ready, !s.Live, s.Store.Degraded != nil, !s.Store.InSync,
		len(s.Failing) > 0, len(s.Problems) > 0, len(s.Stranded) > 0:
		return fmt.Errorf("not well:\n%s", s.Text())
	}
	return nil
}

// records returns the leases that count, after a look at whether any two are
// of one subnet.
func (w *world) records(ctx context.Context) ([]netlabtest.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	all, err := netlabtest.Records(ctx, w.etcd)
	if err != nil {
		return nil, err
	}
	byNode := map[string]int{}
	for i, r := range all {
		byNode[r.NodeName]++
		for _, o := range all[:i] {
			for f := range r.Subnets {
				if r.Subnets[f].Overlaps(o.Subnets[f]) {
					return nil, fmt.Errorf("in the store: %s of %s overlaps %s of %s", r.Key, r.NodeName, o.Key, o.NodeName)
				}
			}
		}
	}
	for _, m := range w.in() {
		if byNode[m.Name] != 1 {
			return nil, fmt.Errorf("%s has %d leases in the store", m.Name, byNode[m.Name])
		}
		m.record = all[slices.IndexFunc(all, func(r netlabtest.Record) bool { return r.NodeName == m.Name })]
	}
	return all, nil
}

// checkNode compares a node's kernel with what must be in it.
func (w *world) checkNode(ctx context.Context, m *member, records []netlabtest.Record) error {
	peers := slices.DeleteFunc(slices.Clone(records), func(r netlabtest.Record) bool { return r.NodeName == m.Name })
	have, err := netlabtest.Ways(ctx, m.Node)
	if err != nil {
		return err
	}
	if err := netlabtest.EqualLines(netlabtest.WantedWays(peers), have); err != nil {
		return fmt.Errorf("its ways to peers: %w", err)
	}
	if err := m.checkLinks(ctx); err != nil {
		return err
	}
	if err := w.checkRules(ctx, m, peers); err != nil {
		return err
	}
	foreign, err := m.marks(ctx)
	if err != nil {
		return err
	}
	if err := netlabtest.EqualLines(strings.Split(m.foreign, "\n"), strings.Split(foreign, "\n")); err != nil {
		return fmt.Errorf("foreign state has changed: %w", err)
	}
	return nil
}

// talk checks that every pod reaches every other, in both families and with
// packets of full size.
func (w *world) talk(ctx context.Context) error {
	var g errgroup.Group
	g.SetLimit(16)
	var mu sync.Mutex
	var errs []error
	for _, fl := range w.traffic.all() {
		g.Go(func() error {
			if err := fl.probe(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	_ = g.Wait() // has no errors
	return errors.Join(errs...)
}

var errNone = errors.New("none")

// losses judges the packets sent in a span of time: those of flows that were not
// touched must all be answered, but for as many as the kernel had no room to
// answer where they came to, since before, or for neighbours at all. It returns
// for how long packets were lost of those that were touched.
func (w *world) losses(ctx context.Context, since, until time.Time, faults []fault, before netlabtest.Counters) (outage time.Duration, err error) {
	flows := w.traffic.all()
	touched := func(fl *flow) bool {
		return slices.ContainsFunc(faults, func(f fault) bool { return f.touches.has(fl) })
	}
	waiting, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = poll(waiting, 20*time.Millisecond, func() error { // what is not answered by then is lost
		if slices.ContainsFunc(flows, func(fl *flow) bool { return !touched(fl) && fl.pending(until) }) {
			return errors.New("answers may be on their way")
		}
		return nil
	})
	var errs []error
	type place struct {
		*pod
		subnet.Family
	}
	excused := map[place]int{}
	for _, fl := range flows {
		l, at := fl.loss(since, until), place{fl.to, fl.family}
		switch {
		case l.lost == 0:
		case touched(fl):
			outage = max(outage, l.last.Sub(l.first))
		case netlabtest.Count(ctx, w.Lan).Overflowed(before): // other labs may have filled it
			w.t.Logf("%s: %d of %d packets lost, while the machine had no room for neighbours", fl, l.lost, l.sent)
		case l.unsent == nil && excused[at]+l.lost <= netlabtest.Count(ctx, &fl.to.Host).Refused(before, &fl.to.Host, fl.family):
			excused[at] += l.lost
			w.t.Logf("%s: %d of %d packets had no answer, for which the kernel had no room", fl, l.lost, l.sent)
		default:
			errs = append(errs, fmt.Errorf("%s lost %d of %d packets, from %v to %v after the step began, the first at %s; not sent: %w", fl, l.lost, l.sent,
				l.first.Sub(since).Round(time.Millisecond), l.last.Sub(since).Round(time.Millisecond), l.first.UTC().Format("15:04:05.000"), cmp.Or(l.unsent, errNone)))
		}
		fl.forget(until)
	}
	if len(errs) > 0 {
		return outage, fmt.Errorf("packets of flows that were not touched: %w", errors.Join(errs...))
	}
	return outage, nil
}
