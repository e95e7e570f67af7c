package guard_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/nftables/guard"
)

// watch watches the tables, as somebody who does not write, until the test ends.
func (ns namespace) watch(t *testing.T) <-chan backend.Event {
	t.Helper()
	return watch(t, ns.tables())
}

func watch(t *testing.T, tables *guard.Tables) <-chan backend.Event {
	t.Helper()
	events := make(chan backend.Event, 1<<16)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- tables.Watch(ctx, func(e backend.Event) { events <- e }) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done, "cancelling is no error")
	})
	require.Equal(t, backend.Event{Resync: true}, next(t, events))
	return events
}

func next(t *testing.T, events <-chan backend.Event) backend.Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(patience):
		require.Fail(t, "no event")
		return backend.Event{}
	}
}

func of(o backend.Object) backend.Event { return backend.Event{Key: o.Key(), Object: o} }

func gone(o backend.Object) backend.Event { return backend.Event{Key: o.Key()} }

// Whoever writes is not told of it, but of what others do between.
func TestWatchKeepsOwnWritesBack(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	tables := ns.tables()
	events := watch(t, tables)
	foreign := 0
	others := func() { // do something that is the next to be told
		foreign++
		p := netip.AddrFrom4([4]byte{198, 51, 100, byte(foreign)}).String()
		ns.Run(t, "nft", "add element inet twill-vtep peers-ipv4 { "+p+" }")
		require.Equal(t, of(permit(p)), next(t, events))
	}
	apply(t, tables, backend.Diff(whole(), nil)...)
	others()
	apply(t, tables, backend.Change{Have: permit("192.0.2.2")}, backend.Change{Want: permit("192.0.2.3", "10.244.3.0/26")})
	others()
	apply(t, tables, backend.Change{Have: pod("veth1", "10.244.1.2", "fd00:244:0:1::2"), Want: pod("veth1", "10.244.1.9")})
	others()
	require.NoError(t, tables.Close()) // as after an error
	apply(t, tables, backend.Change{Have: dual, Want: dual})
	others()
	require.NoError(t, tables.Remove(t.Context()))
	ns.reach(t, state(dual)) // by others
	for e := next(t, events); e != of(dual); e = next(t, events) {
		require.False(t, e.Resync, "of an own deletion")
	}
}

// The last that is told of each object is what was written, so that whoever
// wants it knows it for an echo.
func TestWatchEchoes(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	events := ns.watch(t)
	known, want := backend.State{}, whole()
	told := func(resync string) {
		for len(backend.Diff(want, present(known))) > 0 {
			e := next(t, events)
			if e.Resync {
				require.NotEmpty(t, resync, "one write is no reason to look at all")
				known = ns.observe(t)
				continue
			}
			known[e.Key] = e.Object
		}
	}
	ns.reach(t, want)
	told("tables may be half made when they are looked at")

	change := func(changes ...backend.Change) {
		for _, c := range changes {
			delete(want, c.Key())
			if c.Want != nil {
				want[c.Key()] = c.Want
			}
		}
		apply(t, ns.tables(), changes...)
		told("")
	}
	other, g := pod("veth1", "10.244.1.9"), dual
	change(backend.Change{Have: want[other.Key()], Want: other})
	g.VNI = 9
	change(backend.Change{Have: dual, Want: g})
	change(backend.Change{Have: other}, backend.Change{Have: permit("192.0.2.2")})
	change(backend.Change{Want: permit("192.0.2.2", "10.244.2.0/30")}) // needs a new set and a rule
}

func present(s backend.State) backend.State {
	p := backend.State{}
	for k, o := range s {
		if o != nil {
			p[k] = o
		}
	}
	return p
}

func TestWatchTells(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.reach(t, whole())
	ns.Pipe(t, foreign, "nft", "-f", "-")
	events := ns.watch(t)
	altered := hygiene.Guard{Condition: hygiene.Altered}
	for _, c := range []struct {
		command string
		want    backend.Event
	}{
		{"add element inet other peers-ipv4 { 192.0.2.99 }", backend.Event{}}, // none of ours
		{"add element inet twill-vtep peers-ipv4 { 192.0.2.66 }", of(permit("192.0.2.66"))},
		{"delete element inet twill-vtep peers-ipv4 { 192.0.2.66 }", gone(permit("192.0.2.66"))},
		{"delete element inet twill-vtep ipv6-64-in-ipv4 { 192.0.2.2 . fd00:244:0:2:: }", gone(permit("192.0.2.2", "fd00:244:0:2::/64"))},
		{"add element inet twill-vtep ipv6-64-in-ipv4 { 192.0.2.2 . fd00:244:0:2:: }", of(permit("192.0.2.2", "fd00:244:0:2::/64"))},
		{"flush set inet twill-vtep peers-ipv6", gone(permit("2001:db8::2"))},
		{"delete element inet twill-vtep pods-ipv4 { \"veth1\" . 10.244.1.2 }", of(hygiene.Pod{Link: "veth1", Altered: true})},
		{"add element inet twill-vtep pods-ipv4 { \"veth1\" . 10.244.1.2 }", of(pod("veth1", "10.244.1.2", "fd00:244:0:1::2"))},
		{"add rule inet twill-vtep input drop", of(altered)},
		{"flush table bridge twill-pods", of(altered)},
		{"add chain inet twill-vtep extra", backend.Event{Resync: true}},
		{"delete table bridge twill-pods", backend.Event{Resync: true}},
		{"flush ruleset", backend.Event{Resync: true}},
	} {
		ns.Run(t, "nft", c.command)
		if c.want == (backend.Event{}) {
			continue
		}
		require.Equal(t, c.want, next(t, events), c.command)
	}
	require.Empty(t, events)
}

// What is lost of the notifications is told of, once there is room again.
func TestWatchManyChanges(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	events := ns.watch(t)
	want := many(1500)
	ns.reach(t, want)
	have := backend.State{}
	for len(have) < len(want) || have[dual.Key()] == nil {
		e := next(t, events)
		if e.Resync {
			have = ns.observe(t)
			continue
		}
		have[e.Key] = e.Object
	}
	require.Empty(t, backend.Diff(want, have))
}
