package overlay

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

// memKernel is a kernel of maps: it keeps what it is told, echoes each write
// as a notification, but for those which the real one does not tell, and lets a
// test change things behind our back.
type memKernel struct {
	order   sync.Mutex // of changes and their notifications, which is one in the real kernel too
	mu      sync.Mutex
	state   backend.State
	host    backend.Host
	broken  map[backend.Key]error // Apply fails
	writes  int
	tell    func(backend.Event)
	gate    chan struct{} // Observe waits here
	deleted []backend.Key
	applied []backend.Change
	fail    chan error // Watch fails
	looks   looks
	blind   error         // Observe fails
	changes uint32        // of the state, by anybody
	deaf    bool          // Watch tells nothing more, until it is called again
	stuck   chan struct{} // unless nil, Watch does not end before it is closed
	slow    time.Duration // that Interfaces takes
	watched bool          // Watch has told that it listens
}

// looks counts what was read.
type looks struct{ observe, host, interfaces int }

func newMemKernel() *memKernel {
	return &memKernel{
		state:  backend.State{},
		broken: map[backend.Key]error{},
		fail:   make(chan error),
		host: backend.Host{
			Interfaces: []backend.Interface{{Name: "eth0", MTU: 1500, Up: true, Addresses: []backend.InterfaceAddress{
				{Prefix: netip.MustParsePrefix("192.168.0.1/24"), Usable: true},
			}}},
			Routes: []backend.HostRoute{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.0.254"), Link: "eth0"}},
		},
	}
}

func (k *memKernel) Observe(_ context.Context, sysctls []string) (backend.State, error) {
	k.mu.Lock()
	gate := k.gate
	k.looks.observe++
	k.mu.Unlock()
	if gate != nil {
		gate <- struct{}{}
		<-gate
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.blind != nil {
		return nil, k.blind
	}
	have := backend.State{}
	for key, o := range k.state {
		if key.Kind != backend.KindSysctl || slices.Contains(sysctls, key.Name) {
			have[key] = o
		}
	}
	return have, nil
}

func (k *memKernel) Apply(_ context.Context, changes []backend.Change) []error {
	errs := make([]error, len(changes))
	for i, c := range changes {
		errs[i] = k.apply(c)
	}
	return errs
}

func (k *memKernel) apply(c backend.Change) error {
	k.mu.Lock()
	k.applied = append(k.applied, c)
	if err := k.broken[c.Key()]; err != nil {
		k.mu.Unlock()
		return err
	}
	k.writes++
	if c.Want == nil {
		k.deleted = append(k.deleted, c.Key())
	}
	k.mu.Unlock()
	k.change(c.Key(), c.Want, c.Key().Kind < backend.KindNeighbor || c.Key().Kind > backend.KindRoute)
	return nil
}

// set changes one object, as anybody might, and notifies. A link that goes
// takes everything on it along, silently, as the real one does with routes.
func (k *memKernel) set(key backend.Key, o backend.Object) { k.change(key, o, true) }

func (k *memKernel) change(key backend.Key, o backend.Object, told bool) {
	k.order.Lock()
	defer k.order.Unlock()
	k.mu.Lock()
	k.changes++
	if o == nil {
		delete(k.state, key)
		if key.Kind == backend.KindLink {
			maps.DeleteFunc(k.state, func(_ backend.Key, o backend.Object) bool { return onLink(o, key.Name) })
		}
	} else {
		k.state[key] = o
	}
	tell := k.tell
	if k.deaf || !told {
		tell = nil
	}
	k.mu.Unlock()
	if tell != nil {
		tell(backend.Event{Key: key, Object: o})
	}
}

func onLink(o backend.Object, link string) bool {
	switch o := o.(type) {
	case backend.Route:
		return o.Link == link
	case backend.Neighbor:
		return o.Link == link
	case backend.FDB:
		return o.Link == link
	case backend.Address:
		return o.Link == link
	}
	return false
}

func (k *memKernel) get(key backend.Key) backend.Object {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state[key]
}

func (k *memKernel) writeCount() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

func (k *memKernel) Watch(ctx context.Context, tell func(backend.Event)) error {
	k.mu.Lock()
	k.tell, k.deaf = tell, false
	stuck := k.stuck
	k.mu.Unlock()
	tell(backend.Event{Resync: true})
	k.mu.Lock()
	k.watched = true
	k.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-k.fail:
		return err
	}
}

func (k *memKernel) Host(context.Context) (backend.Host, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looks.host++
	return k.host, nil
}

func (k *memKernel) Interfaces(context.Context) ([]backend.Interface, error) {
	k.mu.Lock()
	k.looks.interfaces++
	slow, seen := k.slow, slices.Clone(k.host.Interfaces)
	k.mu.Unlock()
	if slow > 0 {
		<-time.After(slow)
	}
	return seen, nil
}

// listens reports whether what changes is told, from now on.
func (k *memKernel) listens() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.watched
}

// looked returns what was read so far.
func (k *memKernel) looked() looks {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.looks
}

// memFirewall keeps the rules it is told.
type memFirewall struct {
	mu     sync.Mutex
	rules  *masq.Rules
	broken error // Sync fails
	report masq.Report
	syncs  int
	opened int // how often Watch was called
	tell   func()
}

func (f *memFirewall) Sync(_ context.Context, r masq.Rules) (masq.Report, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncs++
	if f.broken != nil {
		return masq.Report{}, f.broken
	}
	report := f.report
	report.Changed = f.rules == nil || !f.rules.Equal(r)
	f.rules = &r
	return report, nil
}

func (f *memFirewall) Watch(ctx context.Context, tell func()) error {
	f.mu.Lock()
	f.tell = tell
	f.mu.Unlock()
	tell()
	f.mu.Lock()
	f.opened++
	f.mu.Unlock()
	<-ctx.Done()
	return nil
}

// flush takes the rules away; told says whether that is told.
func (f *memFirewall) flush(told bool) {
	f.mu.Lock()
	f.rules = nil
	tell := f.tell
	f.mu.Unlock()
	if told {
		tell()
	}
}

func (f *memFirewall) mended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rules != nil
}

// memGuard is a guard of maps, and may be one that the kernel lacks or that
// cannot be read.
type memGuard struct {
	*memKernel
	lacking    error
	unreadable atomic.Pointer[error]
}

func newMemGuard() *memGuard { return &memGuard{memKernel: newMemKernel()} }

func (g *memGuard) Supported(context.Context) error { return g.lacking }

// Apply as the real one: a guard that was broken takes all away first.
func (g *memGuard) Apply(ctx context.Context, changes []backend.Change) []error {
	for _, c := range changes {
		if isBroken(c.Have) {
			g.mu.Lock()
			g.changes++
			clear(g.state)
			g.mu.Unlock()
		}
	}
	return g.memKernel.Apply(ctx, changes)
}

func (g *memGuard) Generation(context.Context) (uint32, error) {
	if err := g.unreadable.Load(); err != nil {
		return 0, *err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changes, nil
}

func (g *memGuard) Each(ctx context.Context, found func(backend.Object)) error {
	if err := g.unreadable.Load(); err != nil {
		return *err
	}
	have, err := g.Observe(ctx, nil)
	for _, o := range have {
		found(o)
	}
	return err
}

// script is a store whose every word the test says.
type script struct {
	configs chan []byte
	updates chan subnet.Update
	claims  chan subnet.Claim
	helds   chan subnet.Held
	lose    chan error                // Hold fails
	stands  atomic.Pointer[time.Time] // when it last made progress; nil: none is told
}

func newScript() *script {
	return &script{
		configs: make(chan []byte), updates: make(chan subnet.Update), claims: make(chan subnet.Claim, 16),
		helds: make(chan subnet.Held), lose: make(chan error),
	}
}

func relay[T any](ctx context.Context, from <-chan T, tell func(T)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case v := <-from:
			tell(v)
		}
	}
}

func (s *script) WatchConfig(ctx context.Context, tell func([]byte)) error {
	return relay(ctx, s.configs, tell)
}

func (s *script) WatchLeases(ctx context.Context, tell func(subnet.Update)) error {
	return relay(ctx, s.updates, tell)
}

func (s *script) Hold(ctx context.Context, c subnet.Claim, tell func(subnet.Held)) error {
	s.claims <- c
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-s.lose:
			cancel(err)
		case <-ctx.Done():
		}
	}()
	_ = relay(ctx, s.helds, tell)
	return context.Cause(ctx)
}

func (s *script) Release(context.Context) error { return errors.ErrUnsupported }

func (s *script) Progress() map[string]time.Time {
	if at := s.stands.Load(); at != nil {
		return map[string]time.Time{"watching the leases": *at}
	}
	return nil
}

// bench is an agent with everything around it.
type bench struct {
	*testing.T
	agent    *Agent
	kernel   *memKernel
	firewall *memFirewall
	guard    *memGuard
	store    *script
	health   chan StoreHealth
}

const netConf = `{"Network": "10.244.0.0/16"}`

// start runs an agent until the test ends. edit may change its config.
func start(t *testing.T, edit func(*Config, *memKernel)) *bench { return startGuarded(t, edit, nil) }

// startGuarded is start with a guard that is not as a new kernel has it.
func startGuarded(t *testing.T, edit func(*Config, *memKernel), guard func(*memGuard)) *bench {
	log := logrus.New()
	log.SetOutput(t.Output())
	cfg := Config{
		Node: "n1", SubnetFile: t.TempDir() + "/subnet.env", FullPass: time.Hour,
		Masquerade: true, Hygiene: true, Log: logrus.NewEntry(log), Metrics: prometheus.NewRegistry(),
	}
	b := &bench{T: t, kernel: newMemKernel(), firewall: &memFirewall{}, guard: newMemGuard(), store: newScript(), health: make(chan StoreHealth)}
	if edit != nil {
		edit(&cfg, b.kernel)
	}
	if guard != nil {
		guard(b.guard)
	}
	b.agent = New(cfg, b.store, b.kernel, b.firewall, b.guard)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.agent.Run(ctx, b.health) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return b
}

// listening waits until all watches are open. Each runs in its own time: on a busy
// machine one may be later than what a test does first.
func (b *bench) listening() {
	b.Helper()
	b.eventually("the watches listen", func() bool {
		b.firewall.mu.Lock()
		opened := b.firewall.opened
		b.firewall.mu.Unlock()
		guarded := b.guard.lacking == nil || errors.Is(b.guard.lacking, hygiene.ErrNoBridge)
		return opened > 0 && b.kernel.listens() && (!guarded || b.guard.listens())
	})
}

// settle lets the agent do all that it does by itself soon, in a bubble.
func (b *bench) settle() {
	<-time.After(time.Second)
	synctest.Wait()
}

// ready brings the agent to where it has a lease and these peers.
func (b *bench) ready(peers ...subnet.Record) {
	b.Helper()
	b.store.configs <- []byte(netConf)
	claim := <-b.store.claims
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})}
	b.store.updates <- subnet.Update{Full: true, Put: peers}
	b.eventually("the agent is ready", func() bool { return b.agent.Status().Ready })
	b.listening()
}

func (b *bench) eventually(what string, ok func() bool) {
	b.Helper()
	require.Eventually(b, ok, time.Minute, 2*time.Millisecond, what)
}

// never fails when something becomes true within a short while.
func (b *bench) never(what string, is func() bool) {
	b.Helper()
	require.Never(b, is, 100*time.Millisecond, 5*time.Millisecond, what)
}

// peer makes the record of peer i, of the subnet 10.244.<i>.0/24.
func peer(i byte, name string) subnet.Record {
	p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, i, 0}), 24)
	l := subnet.Lease{
		Node: name, BackendType: subnet.BackendVXLAN,
		Subnets:     subnet.PerFamily[netip.Prefix]{p},
		PublicIPs:   subnet.PerFamily[netip.Addr]{netip.AddrFrom4([4]byte{192, 168, 0, i})},
		BackendData: subnet.PerFamily[string]{`{"VNI":1,"VtepMAC":"02:00:00:00:00:` + string("0123456789abcdef"[i>>4]) + string("0123456789abcdef"[i&15]) + `"}`},
	}
	return subnet.Record{Key: subnet.EncodeKey(l.Subnets), Lease: l, Created: int64(i), Modified: int64(i)}
}

func routeKey(i byte) backend.Key {
	p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, i, 0}), 24)
	return backend.Key{Kind: backend.KindRoute, Prefix: p, Metric: backend.RouteMetric(p)}
}
