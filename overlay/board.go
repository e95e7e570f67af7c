package overlay

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

// recentRepairs is how many repairs the status shows one by one.
const recentRepairs = 20

// board is what the daemon shows of itself. Its methods may be called from any
// goroutine.
type board struct {
	metrics *metrics
	changed chan struct{} // capacity 1: facts may be others

	mu       sync.Mutex
	status   Status // what is set rather than computed; see fill
	problems map[string]Problem
	peerErrs map[string]string
	failing  map[backend.Key]Failing
	shadowed map[backend.Key]Failing // routes that another one makes useless
	foreign  int                     // CNI configs of others before ours
	reasons  []string
	lastRead time.Time // the kernel's state was last read or written without trouble
	answers  time.Time // since when the store does, unless it is degraded

	denied        string // which right to the store is missing; "" for none
	recordCreated int64  // when our record was made, as the store counts; 0: not told
}

func newBoard(cfg Config) *board {
	b := &board{
		metrics:  newMetrics(cfg.Metrics),
		changed:  make(chan struct{}, 1),
		problems: map[string]Problem{},
		peerErrs: map[string]string{},
		failing:  map[backend.Key]Failing{},
		reasons:  []string{"starting"},
		lastRead: time.Now(),
		answers:  time.Now(),
	}
	b.status = Status{Node: cfg.Node, Version: cfg.Version, Started: time.Now()}
	return b
}

// The parts that can be unwell, as the status calls them.
const (
	partConfig   = "network config"
	partFit      = "network config on this underlay"
	partUnderlay = "underlay"
	partAddress  = "address of the Node"
	partLease    = "lease"
	partKernel   = "kernel"
	partRules    = "rules"
	partForward  = "forwarding"
	partGuard    = "hygiene"
	partPods     = "hygiene of pods"
	partBridge   = "pods' bridge"
	partSweep    = "sweep of reserved addresses"
	partCNI      = "CNI config"
	partInstall  = "installing the CNI config"
	partRemember = "last good state"
)

// problem sets or, with a nil error, clears what is wrong with a part, and
// reports whether that is news.
func (b *board) problem(what string, err error) (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, was := b.problems[what]
	if err == nil {
		if was {
			delete(b.problems, what)
			b.touch()
		}
		return was
	}
	defer b.touch()
	if !was {
		p = Problem{What: what, Since: time.Now()}
	}
	news = p.Error != err.Error()
	p.Error = err.Error()
	b.problems[what] = p
	return news
}

// because returns what is wrong with a part as a clause, "" for nothing.
func (b *board) because(what string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p, ok := b.problems[what]; ok {
		return ": " + p.Error
	}
	return ""
}

// answeredFor reports whether the store has not failed to answer for so long,
// since the start at the most.
func (b *board) answeredFor(d time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status.Store.Degraded == nil && time.Since(b.answers) >= d
}

// denial says which right to the store is missing, as a clause; "" for none.
func (b *board) denial() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.denied == "" {
		return ""
	}
	return ": " + b.denied
}

// storeHealth notes how it stands with the store, and reports whether that
// turned.
func (b *board) storeHealth(err error) (turned bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := &b.status.Store
	was := b.denied
	b.denied = ""
	if errors.Is(err, subnet.ErrDenied) {
		b.denied = err.Error()
	}
	turned = (err == nil) != (st.Degraded == nil) || b.denied != was
	switch {
	case err == nil:
		if turned {
			b.answers = time.Now()
		}
		st.Degraded, st.Error = nil, ""
	case st.Degraded == nil:
		now := time.Now()
		st.Degraded = &now
		fallthrough
	default:
		st.Error = err.Error()
	}
	return turned
}

// storeAway says since when and why the store does not answer, as a clause; ""
// while it does.
func (b *board) storeAway() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.status.Store
	if st.Degraded == nil {
		return ""
	}
	return fmt.Sprintf("; the store does not answer since %s: %s", st.Degraded.Format(time.TimeOnly), st.Error)
}

func (b *board) config(c subnet.Config) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := ConfigStatus{Backend: c.Backend.Type, VNI: c.Backend.VXLAN.VNI, Port: c.Backend.VXLAN.Port, Networks: []string{}}
	for _, n := range c.Networks {
		if n.Enabled() {
			st.Networks = append(st.Networks, n.Network.String())
		}
	}
	b.status.Config = &st
}

// configTaken notes whether the newest config could be used.
func (b *board) configTaken(err error) {
	b.problem(partConfig, err)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.status.Config == nil {
		return
	}
	c := *b.status.Config
	c.Refused = ""
	if err != nil {
		c.Refused = err.Error()
	}
	b.status.Config = &c
}

// underlayChosen notes the underlay, by what it was chosen and what there is to
// say of that, and reports whether the latter is news.
func (b *board) underlayChosen(u backend.Underlay, by string, notes []string) (news bool) {
	b.problem(partUnderlay, nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	var before []string
	if b.status.Underlay != nil {
		before = b.status.Underlay.Notes
	}
	b.status.Underlay = &UnderStatus{Interface: u.Interface, MTU: u.MTU, PublicIPs: addrs(u.PublicIPs), ChosenBy: by, Notes: notes}
	b.touch()
	return !slices.Equal(before, notes)
}

// otherCNI notes the CNI configs of others, before and behind ours.
func (b *board) otherCNI(before, behind []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.status.OtherCNI, behind) {
		b.touch()
	}
	b.foreign, b.status.OtherCNI = len(before), behind
}

func (b *board) held(h subnet.Held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := LeaseStatus{Subnets: prefixes(h.Lease.Subnets)}
	if !h.Expires.IsZero() {
		l.Expires = &h.Expires
		b.metrics.leaseExpiry.Set(float64(h.Expires.Unix()))
	}
	b.status.Lease = &l
	if b.recordCreated != h.Created {
		b.recordCreated = h.Created
		b.touch()
	}
}

// firewall notes where the rules for c are, and reports whether they are
// elsewhere than before.
func (b *board) firewall(r masq.Report, c masq.Config) (moved bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := FireStatus{Mode: r.Mode, Forward: r.Forward}
	for _, f := range subnet.Families {
		if len(c.Networks[f]) > 0 && !c.Masquerade[f] {
			st.MasqueradeOff = append(st.MasqueradeOff, f.String())
		}
	}
	for _, x := range r.Blocked {
		st.Blocked = append(st.Blocked, Blocked(x))
	}
	before := b.status.Firewall
	b.status.Firewall = &st
	return before == nil || before.Mode != st.Mode || !slices.Equal(before.Forward, st.Forward)
}

func (b *board) mtu(mtu int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status.MTU = mtu
}

func (b *board) peerPlanned(id string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		delete(b.peerErrs, id)
	} else {
		b.peerErrs[id] = err.Error()
	}
}

func (b *board) peerGone(id string) { b.peerPlanned(id, nil) }

// objectFailed notes why an object cannot be made as it must be, and reports
// whether that is news.
func (b *board) objectFailed(k backend.Key, err error) (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.failing[k]
	if !ok {
		f = Failing{Object: k.String(), Since: time.Now()}
	}
	if news = f.Error != err.Error(); news {
		b.touch()
	}
	f.Error = err.Error()
	b.failing[k] = f
	return news
}

// whyFails returns why an object cannot be made as it must be, as a clause.
func (b *board) whyFails(k backend.Key) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f, ok := b.failing[k]; ok {
		return ": " + f.Error
	}
	return ""
}

func (b *board) objectWorks(k backend.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.failing, k)
	b.touch()
}

// stranded notes the pods that are not in our subnet, and reports whether
// they are others than before.
func (b *board) stranded(pods []string) (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if news = !slices.Equal(b.status.Stranded, pods); news {
		b.touch()
	}
	b.status.Stranded = pods
	return news
}

// recalled notes as of when the peers are that we go by until the store
// answers.
func (b *board) recalled(saved time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status.Store.Recalled = &saved
}

// shadows notes which of our routes have no effect, and why, and returns those
// of which that is news.
func (b *board) shadows(why map[backend.Key]string) (news map[backend.Key]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(why) == 0 {
		b.shadowed = nil
		return nil
	}
	now := make(map[backend.Key]Failing, len(why))
	news = map[backend.Key]string{}
	for k, text := range why {
		f, was := b.shadowed[k]
		if !was || f.Error != text {
			f = Failing{Object: k.String(), Error: text, Since: time.Now()}
			news[k] = text
		}
		now[k] = f
	}
	b.shadowed = now
	return news
}

func (b *board) contention(objects map[backend.Key]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(objects)+len(b.status.Contended) > 0 {
		b.touch()
	}
	b.status.Contended = nil
	for k, times := range objects {
		b.status.Contended = append(b.status.Contended, Contended{Object: k.String(), Times: times})
	}
	slices.SortFunc(b.status.Contended, func(x, y Contended) int { return strings.Compare(x.Object, y.Object) })
}

func (b *board) repaired(now time.Time, r repair) {
	k := r.Key()
	b.countRepair(k.Kind, Repair{Time: now, Object: k.String(), Before: text(r.Have), After: text(r.Want), Times: r.times})
}

func (b *board) countRepair(of backend.Kind, r Repair) {
	kind := of.String()
	b.metrics.repairs.WithLabelValues(kind).Inc()
	b.mu.Lock()
	defer b.mu.Unlock()
	st := &b.status.Repairs
	st.Total++
	if st.ByKind == nil {
		st.ByKind = map[string]int{}
	}
	st.ByKind[kind]++
	st.Recent = append(st.Recent, r)
	if n := len(st.Recent); n > recentRepairs {
		st.Recent = slices.Clone(st.Recent[n-recentRepairs:])
	}
}

func (b *board) readBack(now time.Time) {
	b.problem(partKernel, nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastRead = now
}

func (b *board) lastReadBack() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lastRead
}

// readiness sets why the node is not ready, nothing for ready, and reports
// whether it turned.
func (b *board) readiness(reasons []string) (turned bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	turned = (len(b.reasons) == 0) != (len(reasons) == 0)
	if !slices.Equal(b.reasons, reasons) {
		b.touch()
	}
	b.reasons = reasons
	b.metrics.ready.Set(bit(len(reasons) == 0))
	return turned
}

func bit(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// counts returns what of the metrics is known here.
func (b *board) counts() counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := counts{storeUp: b.status.Store.Degraded == nil, failing: len(b.failing) + len(b.shadowed), contended: len(b.status.Contended)}
	n.cni = map[string]int{"before": b.foreign, "behind": len(b.status.OtherCNI)}
	for k := range b.failing {
		if k.Kind == backend.KindSysctl {
			n.sysctls++
		}
	}
	if b.status.Firewall != nil {
		n.blocked = len(b.status.Firewall.Blocked)
	}
	return n
}

// ready says whether the node is ready, and if not, why.
func (b *board) ready() (reasons []string, degraded *time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.reasons), b.status.Store.Degraded
}

// fill returns the status with everything that is computed.
func (b *board) fill(peers []subnet.Lease, refused []subnet.Refusal, inSync, live bool) Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	s.NotReady = slices.Clone(b.reasons)
	s.Ready, s.Live = len(b.reasons) == 0, live
	s.Store.InSync = inSync
	if inSync {
		s.Store.Recalled = nil
	}
	s.Problems = sortedProblems(b.problems)
	s.Repairs.ByKind = map[string]int{}
	for k, n := range b.status.Repairs.ByKind {
		s.Repairs.ByKind[k] = n
	}
	s.Peers = make([]PeerStatus, 0, len(peers))
	for _, l := range peers {
		s.Peers = append(s.Peers, PeerStatus{Node: l.ID(), Subnets: prefixes(l.Subnets), PublicIPs: addrs(l.PublicIPs), Error: b.peerErrs[l.ID()]})
	}
	for _, r := range refused {
		s.Refused = append(s.Refused, Refused(r))
	}
	for _, failing := range []map[backend.Key]Failing{b.failing, b.shadowed} {
		for _, f := range failing {
			s.Failing = append(s.Failing, f)
		}
	}
	slices.SortFunc(s.Failing, func(x, y Failing) int { return strings.Compare(x.Object, y.Object) })
	return s
}
