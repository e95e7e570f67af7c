package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/overlay/install"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
)

// Store is where the network config and the leases live. Each method but
// Release works until the context ends or something breaks; it is then called
// again, and goes on from what the store holds.
type Store interface {
	// WatchConfig tells the network config, first as it is, then each change.
	WatchConfig(ctx context.Context, tell func(raw []byte)) error
	// WatchLeases tells the leases, first a full list, then what changes.
	WatchLeases(ctx context.Context, tell func(subnet.Update)) error
	// Hold acquires this node's lease, announces the claim, keeps the lease
	// alive and gets it back when it is lost. It tells each lease it holds.
	Hold(ctx context.Context, claim subnet.Claim, tell func(subnet.Held)) error
	// Release gives up the lease that the last Hold told.
	Release(ctx context.Context) error
	// Progress returns when each watch that is under way last went on, by its
	// name. To try in vain to reach the store is to go on.
	Progress() map[string]time.Time
}

// StoreHealth is what a store says of its connection: a nil Err when it is
// good.
type StoreHealth struct{ Err error }

// Kernel is the network stack of the host.
type Kernel interface {
	// Observe returns all that carries our mark, and the sysctls named.
	Observe(ctx context.Context, sysctls []string) (backend.State, error)
	// Apply makes the changes in their order, each whatever became of the
	// others, and returns one error for each.
	Apply(ctx context.Context, changes []backend.Change) []error
	// Watch tells what changes.
	Watch(ctx context.Context, tell func(backend.Event)) error
	// Host returns what the underlay is chosen from.
	Host(ctx context.Context) (backend.Host, error)
	// Interfaces returns those of Host, and reads no routes.
	Interfaces(ctx context.Context) ([]backend.Interface, error)
}

// Firewall holds the rules of the host that are ours.
type Firewall interface {
	// Sync makes our rules equal to these. What of other programs keeps
	// packets from being forwarded is in the report, and no error.
	Sync(ctx context.Context, rules masq.Rules) (masq.Report, error)
	// Watch tells that somebody may have touched our rules, or what bears on
	// them. It may tell from several goroutines.
	Watch(ctx context.Context, tell func()) error
}

// Manager is the service manager that started us.
type Manager interface {
	Ready()             // subnet.env is written: what needs it may start
	Status(line string) // what we wait for
	// Run tells it until the context ends, and as long as live says so that we are.
	Run(ctx context.Context, live func() bool)
}

// Planner turns leases into objects of the kernel. It is immutable: another
// config or underlay means another planner.
type Planner interface {
	MTU() subnet.PerFamily[int]
	Announce(subnet.Claim) subnet.Claim
	Host(own subnet.Lease) []backend.Object
	Peer(own, peer subnet.Lease) ([]backend.Object, error)
	Check(peer subnet.Lease) (claims []string, err error)
}

// The tasks that tell the reconciler, as status and logs call them; holding
// the lease is partLease.
const (
	taskConfig  = "config watch"
	taskLeases  = "lease watch"
	taskKernel  = "kernel watch"
	taskRules   = "rule watch"
	taskGuard   = "hygiene watch"
	taskSweep   = "sweep"
	taskMemory  = "last good state"
	taskRecall  = "recall"
	taskCalm    = "calm"
	taskReport  = "report to the cluster"
	taskNotices = "notices"
	taskEvents  = "events of the cluster"
	taskNode    = "watch of the node's addresses"
)

// Config is what an Agent is made of.
type Config struct {
	Node      string // the node's name, its identity
	MachineID string // "" when unknown
	Version   string

	Underlay underlay.Options
	Route    underlay.RouteFunc
	// NodeAddresses tells what the cluster says of this node's addresses, first
	// as it is, then each change, until the context ends; nil where none does.
	// Without its first word no underlay is chosen.
	NodeAddresses func(ctx context.Context, tell func(underlay.Node)) error
	Host          backend.HostOptions
	Masquerade    bool
	RandomFull    bool // fully random source ports
	Forward       bool // accept what is forwarded for pods
	Hygiene       bool // hold peers and pods to their addresses, see package hygiene
	SubnetFile    string
	FullPass      time.Duration // between two looks at everything
	Release       bool          // give the lease up when stopped

	LastGood    string        // file in which what we know outlives us; "": none
	LeaseTTL    time.Duration // for which that may be used; 0: for ever, where leases have no end
	RecallAfter time.Duration // for which the store is asked first
	StoreName   string        // what is known is known of this store
	NoConfig    string        // what to do where the store has no network config

	// Position returns how far the store's history has come by what it has told,
	// to be written to LastGood; nil where the store has no words for that.
	Position func() string

	PodLinks   PodLinks // nil: bridges and reserved addresses are left alone
	CNIConfDir string   // of the runtimes' network configs

	// Drops returns how many packets the guard dropped, by reason; nil without one.
	Drops func(ctx context.Context) (map[string]uint64, error)

	// Calm is called some seconds after a start or another burst of changes;
	// nil for nothing.
	Calm func()

	// ReportNetwork tells the cluster how the network of this node is, each
	// time that turns, until the context ends; nil where nobody is to be told.
	ReportNetwork func(ctx context.Context, states <-chan subnet.NetworkState) error

	CNIConf       *install.Conflist // put to its place while the node is ready; nil for none
	CNIConfSource string            // file that it is read from, again and again; "" for once

	// Announce tells the operator of the cluster what is told, until the context
	// ends; nil where nobody is to be told.
	Announce func(ctx context.Context, notices <-chan subnet.Notice) error

	HealthAddr netip.AddrPort // of /healthz, /readyz, /metrics; port 0: off
	Socket     string         // of the status; "": off

	Log     *logrus.Entry
	Metrics *prometheus.Registry
	Manager Manager // nil for none
}

// Agent is the daemon of one node.
type Agent struct {
	cfg      Config
	store    Store
	kernel   Kernel
	firewall Firewall
	guard    Guard // nil where there is none
	ground   ground
	usable   atomic.Pointer[[]byte] // the raw network config that is in use
	sweepNow chan struct{}          // capacity 1
	bursts   chan struct{}          // of changes; capacity 1
	watches  watches
	panics   chan error // capacity 1

	remembering sync.Mutex // LastGood is written, or removed

	inbox   *inbox
	network chan subnet.NetworkState // the newest that nobody took yet; capacity 1
	told    chan subnet.Notice       // what nobody took yet
	claims  chan subnet.Claim        // the newest claim that nobody took yet; capacity 1
	desired *desired
	state   *state // of the reconciler; see reconcile.go
	board   *board // what status, readiness and metrics show
}

// New returns an agent. It starts nothing. guard may be nil.
func New(cfg Config, store Store, kernel Kernel, firewall Firewall, guard Guard) *Agent {
	a := &Agent{
		cfg: cfg, store: store, kernel: kernel, firewall: firewall, guard: guard,
		claims: make(chan subnet.Claim, 1), network: make(chan subnet.NetworkState, 1), told: make(chan subnet.Notice, noticesWaiting), sweepNow: make(chan struct{}, 1), bursts: make(chan struct{}, 1), panics: make(chan error, 1),
		desired: newDesired(),
		state:   newState(),
		board:   newBoard(cfg),
	}
	a.inbox = newInbox(cfg.Node, a.desired)
	return a
}

// Run works until the context ends, and leaves the data path as it is. health
// brings what the store says of its connection. It fails when it cannot serve
// status and health checks, and when a task panicked: what that was about to
// change is in doubt, and a new process, which writes nothing where all is
// right, is surer than one task begun anew.
func (a *Agent) Run(ctx context.Context, health <-chan StoreHealth) error {
	g, ctx := errgroup.WithContext(ctx)
	// The servers come first: an address in use is the one thing that no
	// retry mends.
	if err := a.serve(ctx, g); err != nil {
		return err
	}
	a.checkGuard(ctx)
	tasks := map[string]func(context.Context) error{
		taskConfig: func(ctx context.Context) error { return a.store.WatchConfig(ctx, a.onConfig) },
		taskLeases: func(ctx context.Context) error { return a.store.WatchLeases(ctx, a.onLeases) },
		partLease:  a.hold,
		taskKernel: a.watches.kernel.around(func(ctx context.Context) error { return a.kernel.Watch(ctx, a.onEvent) }),
		taskRules:  a.watches.rules.around(func(ctx context.Context) error { return a.firewall.Watch(ctx, a.onRules) }),
	}
	if a.guard != nil {
		tasks[taskGuard] = a.watches.guard.around(func(ctx context.Context) error { return a.guard.Watch(ctx, a.onGuard) })
	}
	if a.cfg.LastGood != "" {
		tasks[taskMemory], tasks[taskRecall] = a.remember, a.recall
	}
	if a.cfg.Calm != nil {
		tasks[taskCalm] = a.calm
	}
	if a.cfg.PodLinks != nil {
		tasks[taskSweep] = a.sweep
	}
	if a.cfg.Announce != nil {
		tasks[taskNotices] = a.notices
		tasks[taskEvents] = func(ctx context.Context) error { return a.cfg.Announce(ctx, a.told) }
	}
	if a.cfg.NodeAddresses != nil {
		tasks[taskNode] = func(ctx context.Context) error { return a.cfg.NodeAddresses(ctx, a.inbox.node) }
	}
	if a.cfg.ReportNetwork != nil {
		tasks[taskReport] = func(ctx context.Context) error { return a.cfg.ReportNetwork(ctx, a.network) }
	}
	for name, task := range tasks {
		a.run(g, name, func() error { return a.supervise(ctx, name, task) })
	}
	if m := a.cfg.Manager; m != nil {
		a.run(g, "service manager", func() error {
			m.Run(ctx, func() bool { return a.dead(time.Now()) == "" })
			return nil
		})
	}
	a.run(g, "reconciler", func() error { a.reconcile(ctx); return nil })
	a.run(g, "store's health", func() error { a.watchHealth(ctx, health); return nil })
	if err := a.wait(g); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if a.cfg.Release && a.state.held != nil {
		return a.release(context.WithoutCancel(ctx))
	}
	return nil
}

// release gives the lease up; peers then take their ways to us away.
func (a *Agent) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	a.forget()
	if err := a.store.Release(ctx); err != nil {
		return fmt.Errorf("releasing the lease (--release-on-exit): %w", err)
	}
	a.cfg.Log.WithField("subnet", prefixes(a.state.held.Lease.Subnets)).Info("lease released")
	return nil
}

func (a *Agent) watchHealth(ctx context.Context, health <-chan StoreHealth) {
	for {
		select {
		case <-ctx.Done():
			return
		case h := <-health:
			if a.board.storeHealth(h.Err) {
				a.inbox.poke() // the service manager shall know, too
				if h.Err != nil {
					a.cfg.Log.WithError(h.Err).Warn("store degraded")
				} else {
					a.cfg.Log.Info("store answers again")
				}
			}
		}
	}
}

func (a *Agent) onConfig(raw []byte) {
	a.board.problem(taskConfig, nil)
	a.inbox.config(raw)
}

func (a *Agent) onLeases(u subnet.Update) {
	a.board.problem(taskLeases, nil)
	if u.WentBack && !a.inbox.isInSync() {
		a.recollect(u.Put)
	}
	a.inbox.leases(u)
}

// Each watch tells one thing at its start, so that an event means it works.
func (a *Agent) onEvent(e backend.Event) {
	if e.Resync {
		a.board.problem(taskKernel, nil)
		a.watches.kernel.works()
	}
	a.inbox.event(e, scope{kernel: true})
}

func (a *Agent) onRules() {
	a.board.problem(taskRules, nil)
	a.watches.rules.works()
	a.inbox.rules()
}

func (a *Agent) onHeld(h subnet.Held) {
	a.board.problem(partLease, nil)
	a.inbox.held(h)
}

// newBackoff gives waits that double from first to most, each up to a half
// longer or shorter by chance, so that many nodes do not come back at once.
func newBackoff(first, most time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = first, most, 2
	b.Reset()
	return b
}

// pause waits; false means that the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
