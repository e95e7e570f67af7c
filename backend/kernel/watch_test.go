package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/subnet"
)

// recorder keeps what Watch told.
type recorder struct {
	t      *testing.T
	mu     sync.Mutex
	events []backend.Event
	latest map[backend.Key]backend.Event
}

func (r *recorder) add(e backend.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	if r.latest == nil {
		r.latest = map[backend.Key]backend.Event{}
	}
	r.latest[e.Key] = e
}

// forget drops what was told so far.
func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events, r.latest = nil, nil
}

// count returns how many events fit.
func (r *recorder) count(fits func(backend.Event) bool) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if fits(e) {
			n++
		}
	}
	return n
}

// last returns the latest event of a key.
func (r *recorder) last(key backend.Key) (last backend.Event, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok = r.latest[key]
	return last, ok
}

func (r *recorder) waitFor(what string, fits func(backend.Event) bool) {
	r.t.Helper()
	ok := func() bool { return r.count(fits) > 0 }
	if deadline := time.Now().Add(patience); !waitUntil(deadline, ok) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.t.Fatalf("no event: %s; there were %+v", what, r.events)
	}
}

// settle waits until the latest event of each key shows the object that want
// has, or that it is gone.
func (r *recorder) settle(want backend.State, gone ...backend.Key) {
	r.t.Helper()
	for k, o := range want {
		r.waitForLast(k, o)
	}
	for _, k := range gone {
		r.waitForLast(k, nil)
	}
}

func (r *recorder) waitForLast(k backend.Key, o backend.Object) {
	r.t.Helper()
	ok := func() bool {
		e, ok := r.last(k)
		return ok && e.Object == o
	}
	if !waitUntil(time.Now().Add(patience), ok) {
		e, _ := r.last(k)
		r.t.Fatalf("the last event of %s shows %v, not %v", k, e.Object, o)
	}
}

func waitUntil(deadline time.Time, ok func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			return false
		}
		<-tick.C
	}
	return true
}

func resync(e backend.Event) bool { return e.Resync }
func host(e backend.Event) bool   { return e.Host }
func routes(e backend.Event) bool { return e.Routes }

// watch starts k.Watch and returns when it listens; it ends with the test.
func watch(t *testing.T, k *kernel.Kernel) *recorder {
	t.Helper()
	r := &recorder{t: t}
	r.follow(k, r.add)
	r.waitFor("the first", resync)
	r.forget()
	return r
}

func (r *recorder) follow(k *kernel.Kernel, notify func(backend.Event)) {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Watch(ctx, notify) }()
	r.t.Cleanup(func() {
		cancel()
		require.NoError(r.t, <-done, "cancelling is no error")
	})
}

// The echo of what we write equals what we wrote: for each kind in both
// families, put, replaced and deleted.
func TestWatchEcho(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	r := watch(t, ns.kernel(kernel.Config{}))
	for _, want := range []backend.State{node(2), node(3), altered(3), node(3), node(1)} {
		have := ns.observe()
		r.forget()
		todo := backend.Diff(want, have)
		ns.apply(todo...)
		changed := backend.State{}
		var gone []backend.Key
		for _, c := range todo {
			if c.Want == nil {
				gone = append(gone, c.Key())
			} else {
				changed[c.Key()] = c.Want
			}
		}
		require.NotEmpty(t, todo)
		r.settle(changed, gone...)
		require.Zero(t, r.count(func(e backend.Event) bool { return e.Key != backend.Key{} && (e.Host || e.Routes) }))
	}
}

// altered returns node(n) with every object changed that has something else
// than its key.
func altered(n int) backend.State {
	state := node(n)
	for k, o := range state {
		switch o := o.(type) {
		case backend.Link:
			o.MTU, o.Local, o.Parent, o.VXLAN.Learning = 1300, o.Local.Next(), "far", true
			state[k] = o
		case backend.Neighbor:
			o.MAC[1] = 7
			state[k] = o
		case backend.FDB:
			o.Dst = o.Dst.Next()
			state[k] = o
		case backend.Route:
			o.Via = o.Via.Next()
			state[k] = o
		}
	}
	return state
}

// What others do to our things is told with the key of the thing.
func TestWatchOthers(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.reach(node(2))
	r := watch(t, ns.kernel(kernel.Config{}))
	restored := func() {
		t.Helper()
		ns.apply(backend.Diff(node(2), ns.observe())...)
		same(t, node(2), ns.observe())
	}
	for _, c := range []struct {
		damage string
		key    backend.Key
		resync bool
	}{
		{"ip route del 10.0.1.0/24", peer(subnet.IPv4, 1)[2].Key(), false},
		{"ip -6 route del fd00:1:1::/64", peer(subnet.IPv6, 1)[2].Key(), false},
		{"ip neigh del 10.0.1.0 dev twill.1", peer(subnet.IPv4, 1)[0].Key(), false},
		{"ip -6 neigh del fd00:1:1:: dev twill-v6.1", peer(subnet.IPv6, 1)[0].Key(), false},
		{"ip neigh change 10.0.1.0 dev twill.1 nud stale", peer(subnet.IPv4, 1)[0].Key(), false},
		{"bridge fdb del 02:00:00:00:03:e9 dev twill.1", peer(subnet.IPv4, 1)[1].Key(), false},
		{"bridge fdb del 02:00:00:00:03:e9 dev twill-v6.1", peer(subnet.IPv6, 1)[1].Key(), false},
		{"ip link set twill.1 address 02:ff:00:00:00:01", peer(subnet.IPv4, 1)[0].Key(), false},
		{"ip address del 10.244.0.0/32 dev twill.1", own(subnet.IPv4)[1].Key(), true},
		{"ip address del fd00:244::/128 dev twill-v6.1", own(subnet.IPv6)[1].Key(), false},
		{"ip route replace 10.0.1.0/24 via 192.0.2.9 proto static", peer(subnet.IPv4, 1)[2].Key(), false},
		{"ip -6 route replace fd00:1:1::/64 via 2001:db8::9 proto static metric 1024", peer(subnet.IPv6, 1)[2].Key(), false},
		{"ip link del twill-v6.1", link(subnet.IPv6).Key(), true},
		{"ip link set twill.1 name other", link(subnet.IPv4).Key(), true},
		{"ip link del eth0 && ip link add eth0 type veth peer name far && ip link set eth0 up && ip address add 192.0.2.1/24 dev eth0", link(subnet.IPv4).Key(), true},
	} {
		r.forget()
		ns.run(c.damage)
		r.waitForLast(c.key, nil)
		if c.resync {
			r.waitFor(c.damage+": resync", resync)
		}
		ns.run("ip route del 10.0.1.0/24 proto static 2>/dev/null; ip -6 route del fd00:1:1::/64 proto static 2>/dev/null; ip link del other 2>/dev/null; true")
		restored()
	}

	// What stays is shown as it is now.
	for _, c := range []struct {
		damage string
		want   backend.Object
	}{
		{"ip neigh change 10.0.2.0 lladdr 02:00:00:00:00:50 dev twill.1", backend.Neighbor{Link: "twill.1", IP: addr("10.0.2.0"), MAC: mac(0x50)}},
		{"bridge fdb replace 02:00:00:00:03:ea dst 192.0.2.7 dev twill.1", backend.FDB{Link: "twill.1", MAC: mac(1002), Dst: addr("192.0.2.7")}},
		{"bridge fdb replace 02:00:00:00:03:ea dst 192.0.2.7 port 99 dev twill.1", backend.FDB{Link: "twill.1", MAC: mac(1002)}},
		{"ip -6 route replace blackhole fd00:1:2::/64 proto 116 metric 1024", backend.Route{Dst: prefix("fd00:1:2::/64"), Metric: 1024, Blackhole: true}},
		{"ip address add 10.9.9.9/24 dev twill.1", backend.Address{Link: "twill.1", Prefix: prefix("10.9.9.9/24")}},
	} {
		r.forget()
		ns.run(c.damage)
		r.waitForLast(c.want.Key(), c.want)
		restored()
	}
	down := link(subnet.IPv4)
	down.Up = false
	r.forget()
	ns.run("ip link set twill.1 down")
	r.waitForLast(down.Key(), down)
	r.waitFor("IPv4 routes go with the link, and no notification says so", resync)
	restored()

	moved := link(subnet.IPv4)
	moved.Parent = "eth7"
	ns.run("ip link set eth0 name eth7")
	r.waitForLast(moved.Key(), moved)
}

// What does not concern us is not told at all.
func TestWatchIgnores(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	// IPv6 tells of its addresses when it gets round to it, even with nodad.
	ns.run("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
	ns.reach(backend.NewState(own(subnet.IPv4)...))
	r := watch(t, ns.kernel(kernel.Config{}))
	ns.run("ip neigh add 192.0.2.50 lladdr 02:00:00:00:00:50 nud permanent dev eth0")
	ns.run("ip neigh add proxy 10.9.9.8 dev twill.1")
	ns.run("ip route add 10.78.0.0/24 via 192.0.2.9 table 100")
	ns.run("ip link set far txqueuelen 77")
	ns.run("ip link set far address 02:00:00:00:00:66")
	mark := peer(subnet.IPv4, 2)[0]
	require.NoError(t, ns.put(nil, mark))
	r.settle(backend.NewState(mark))
	require.Zero(t, r.count(func(e backend.Event) bool { return e.Key != mark.Key() }))

	// An address that the kernel could have made itself is nobody's.
	ns.run("echo 0 > /proc/sys/net/ipv6/conf/twill.1/disable_ipv6")
	ns.run("ip address add fe80::77/64 dev twill.1 nodad && ip address add fd00::77/64 dev twill.1 nodad")
	fd := backend.Address{Link: "twill.1", Prefix: prefix("fd00::77/64")}
	r.settle(backend.NewState(fd))
	require.Zero(t, r.count(func(e backend.Event) bool { return e.Key.Prefix == prefix("fe80::77/64") }))
}

// What happens on the host is told without a key.
func TestWatchHost(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	direct := backend.Route{Dst: prefix("10.5.0.0/24"), Link: "eth0", Via: addr("192.0.2.9")}
	state := node(1)
	state[direct.Key()] = direct
	ns.reach(state)
	r := watch(t, ns.kernel(kernel.Config{}))
	for _, command := range []string{
		"ip route add 203.0.113.0/24 via 192.0.2.9",
		"ip route replace 203.0.113.0/24 via 192.0.2.8",
		"ip -6 route add default via 2001:db8::9",
		"ip -6 route del default",
	} {
		r.forget()
		ns.run(command)
		r.waitFor(command, routes)
		require.Zero(t, r.count(resync), command)
		require.Zero(t, r.count(func(e backend.Event) bool { return e.Host && e.Routes }), command)
	}
	for _, command := range []string{
		"ip address add 203.0.113.1/24 dev far",
		"ip address del 203.0.113.1/24 dev far",
		"ip link add br0 type bridge",
		"ip link set far master br0",
		"ip link set far alias pod",
		"ip link set eth0 mtu 1400",
		"ip link del br0",
	} {
		r.forget()
		ns.run(command)
		r.waitFor(command, host)
		require.Zero(t, r.count(resync), command)
	}
	// A direct route goes silently with its interface.
	ns.run("ip link set eth0 down")
	r.waitFor("our route by eth0 is gone", func(e backend.Event) bool { return e.Host && e.Resync })
	require.NotContains(t, ns.observe(), direct.Key())
	r.forget()
	ns.run("ip link set eth0 up")
	r.waitFor("up again", host)
	require.Zero(t, r.count(resync))
	require.NoError(t, ns.put(nil, direct))
	ns.run("ip address flush dev eth0")
	r.waitFor("our route by eth0 is gone", func(e backend.Event) bool { return e.Host && e.Resync })
	require.NotContains(t, ns.observe(), direct.Key())
	ns.run("ip address add 192.0.2.1/24 dev eth0")
	require.NoError(t, ns.put(nil, direct))
	r.forget()
	ns.run("ip link del eth0")
	r.waitFor("our route by eth0 is gone", func(e backend.Event) bool { return e.Host && e.Resync && e.Key == backend.Key{} })
}

func TestWatchSysctl(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.reach(node(1))
	r := watch(t, ns.kernel(kernel.Config{}))
	for name, value := range map[string]string{
		"net/ipv4/ip_forward":                "1",
		"net/ipv6/conf/all/forwarding":       "1",
		"net/ipv4/conf/twill.1/rp_filter":    "2",
		"net/ipv4/conf/all/rp_filter":        "2",
		"net/ipv6/conf/far/forwarding":       "1",
		"net/ipv4/conf/default/forwarding":   "1",
		"net/ipv4/conf/twill.1/forwarding":   "1",
		"net/ipv6/conf/default/forwarding":   "1",
		"net/ipv6/conf/twill.1/forwarding":   "1",
		"net/ipv4/conf/twill-v6.1/rp_filter": "1",
	} {
		s := backend.Sysctl{Name: name, Value: value}
		r.forget()
		ns.run(fmt.Sprintf("echo 0 > /proc/sys/%s", name))
		require.NoError(t, ns.put(nil, s))
		r.waitForLast(s.Key(), s)
		r.forget()
		ns.run(fmt.Sprintf("echo 0 > /proc/sys/%s", name))
		r.waitForLast(s.Key(), backend.Sysctl{Name: name, Value: "0"})
	}
}

// Notifications that do not fit cost a Resync, and nothing else.
func TestWatchOverrun(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	k := ns.kernel(kernel.Config{ReceiveBuffer: 1}) // the kernel makes it its least
	r := &recorder{t: t}
	gate := make(chan struct{})
	r.follow(k, func(e backend.Event) {
		r.add(e)
		<-gate
	})
	r.waitFor("the first", resync)
	ns.reach(node(50))
	r.forget()
	close(gate)
	r.waitFor("after the overrun", resync)
	told := func() (n int) {
		for k, o := range node(50) {
			if e, ok := r.last(k); ok && e.Object == o {
				n++
			}
		}
		return n
	}
	require.Less(t, told(), len(node(50)), "nothing was lost: this test proves nothing")
	r.forget()
	require.NoError(t, ns.delete(peer(subnet.IPv4, 1)[2]))
	r.waitForLast(peer(subnet.IPv4, 1)[2].Key(), nil)
}

// A socket that dies is opened anew.
func TestWatchReopens(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	var mu sync.Mutex
	var sockets []func()
	k := ns.kernel(kernel.Config{})
	k.OnListen(func(shut func()) {
		mu.Lock()
		defer mu.Unlock()
		sockets = append(sockets, shut)
	})
	r := watch(t, k)
	for i := range 3 {
		ns.reach(node(i))
		mu.Lock()
		require.Len(t, sockets, i+1)
		sockets[i]()
		mu.Unlock()
		r.waitFor("the socket is back", func(e backend.Event) bool { return e == backend.Event{Resync: true} })
		r.forget()
		ns.reach(node(i + 1))
		r.waitForLast(peer(subnet.IPv6, i+1)[2].Key(), peer(subnet.IPv6, i+1)[2])
		r.forget()
	}
}

// Sockets that die at once end Watch with an error.
func TestWatchGivesUp(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	opened := 0
	ns.OnListen(func(shut func()) {
		opened++
		shut()
	})
	err := ns.Watch(t.Context(), func(backend.Event) {})
	require.ErrorContains(t, err, "watching the kernel: ")
	require.Equal(t, 6, opened)
}

func TestSettled(t *testing.T) {
	t.Parallel()
	interrupted := fmt.Errorf("dump: %w", kernel.ErrInterrupted)
	calls := 0
	got, err := kernel.Settled(t.Context(), func() ([]int, error) {
		if calls++; calls < kernel.DumpAttempts {
			return []int{1}, interrupted
		}
		return []int{1, 2}, nil
	})
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, got)

	calls = 0
	got, err = kernel.Settled(t.Context(), func() ([]int, error) { calls++; return []int{1}, interrupted })
	require.ErrorIs(t, err, kernel.ErrInterrupted)
	require.ErrorContains(t, err, "changed during each of 10 dumps")
	require.Nil(t, got, "half a list is no list")
	require.Equal(t, kernel.DumpAttempts, calls)

	got, err = kernel.Settled(t.Context(), func() ([]int, error) { return []int{1}, unix.EPERM })
	require.ErrorIs(t, err, unix.EPERM)
	require.Nil(t, got)
	_, err = kernel.Settled(cancelled(t), func() ([]int, error) { panic("not asked") })
	require.ErrorIs(t, err, context.Canceled)
}

// While others add and delete, Observe shows all that stays, or fails.
func TestObserveInAStorm(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	want := node(300)
	ns.reach(want)
	// Enough links that their dump takes several messages.
	ns.run("for i in $(seq 60); do echo link add va$i type veth peer name vb$i; done | ip -batch -")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		var err error
		for ctx.Err() == nil && err == nil {
			_, err = ns.try(strings.Join([]string{
				"ip route add 10.200.0.0/24 dev eth0", "ip -6 route add fd99::/64 dev far",
				"ip address add 10.201.0.1/24 dev far", "ip link add br0 type bridge",
				"ip neigh add 10.9.9.9 lladdr 02:00:00:00:00:50 dev twill.1", "ip link del br0",
				"ip address del 10.201.0.1/24 dev far", "ip route del 10.200.0.0/24", "ip -6 route del fd99::/64",
				"ip neigh del 10.9.9.9 dev twill.1",
			}, " && "))
		}
		done <- err
	}()
	interrupted := 0
	for range 40 {
		have, err := ns.Observe(t.Context(), nil)
		if err != nil {
			require.ErrorIs(t, err, kernel.ErrInterrupted)
			interrupted++
			continue
		}
		for k, o := range want {
			require.Equal(t, o, have[k])
		}
	}
	t.Logf("%d of 40 observations were interrupted too often", interrupted)
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		require.NoError(t, err)
	}
}
