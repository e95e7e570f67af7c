package etcd_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

// quiet is after what silence the stores of these tests ask.
const quiet = 50 * time.Millisecond

// relayed returns the backend with all its stores behind a relay.
func (b backend) relayed(t *testing.T) (backend, *etcdtest.Relay) {
	r := b.server.Relay(t)
	change := b.change
	b.change = func(c *etcd.Config) {
		c.Endpoints = []string{r.Endpoint}
		if change != nil {
			change(c)
		}
	}
	return b, r
}

func watchConfig(t *testing.T, s *etcd.Store, on func([]byte)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.WatchConfig(ctx, on) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
}

// goesOn waits until a watch has made progress several times.
func goesOn(t *testing.T, s *etcd.Store, watch string) {
	t.Helper()
	for range 3 {
		was := s.Progress()[watch]
		subnettest.Eventually(t, watch+" goes on", func() bool { return s.Progress()[watch].After(was) })
	}
}

// A watch that hangs while etcd answers is opened again, each of them.
func TestWatchThatHangs(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	b.change = func(c *etcd.Config) { c.DialTimeout = 5 * time.Second }
	b, relay := b.relayed(t)
	b.SetConfig(t, []byte("1"))
	s := b.open(t)
	s.Hasten(quiet)
	var config atomic.Pointer[string]
	watchConfig(t, s, func(raw []byte) { text := string(raw); config.Store(&text) })
	h := subnettest.Hold(t, s, subnettest.Claim(t, "n1"))
	held := h.Next(t)
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	for _, text := range []string{"2", "3"} {
		subnettest.Eventually(t, "all watches stand", func() bool { return len(s.Progress()) == 3 })
		for watch := range s.Progress() {
			goesOn(t, s, watch)
		}
		relay.Mute()
		b.SetConfig(t, []byte(text))
		b.Put(t, "10.5.200.0-24", peerA, false)
		v.Await(t, b)
		subnettest.Eventually(t, "the config is told", func() bool { told := config.Load(); return told != nil && *told == text })
		b.Delete(t, held.Key)
		require.Equal(t, held.Key, h.Next(t).Key, "a lost lease is taken again")
		b.Delete(t, "10.5.200.0-24")
		v.Await(t, b)
	}
	full, _ := v.Fulls()
	require.Zero(t, full, "what was missed is told as changes")
}

// A watch with nothing to tell is left alone, and known to stand.
func TestQuietWatchStands(t *testing.T) {
	t.Parallel()
	b, relay := newBackend(t, etcdtest.Options{}).relayed(t)
	b.SetConfig(t, []byte("1"))
	s := b.open(t)
	s.Hasten(quiet)
	require.Empty(t, s.Progress())
	watchConfig(t, s, func([]byte) {})
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	for _, watch := range []string{etcd.WatchingConfig, etcd.WatchingLeases} {
		goesOn(t, s, watch)
	}
	require.Equal(t, 2, relay.Watches())
	require.NoError(t, v.Stop())
	require.NotContains(t, s.Progress(), etcd.WatchingLeases, "a watch that has ended")
}

// An etcd that hangs or is gone keeps no watch from trying: that is progress.
func TestProgressInAnOutage(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	b.change = func(c *etcd.Config) { c.DialTimeout = 2 * time.Second }
	s := b.open(t)
	s.Hasten(quiet)
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	b.server.Pause()
	goesOn(t, s, etcd.WatchingLeases)
	b.server.Resume()
	b.Put(t, "10.5.1.0-24", peerA, false)
	v.Await(t, b)
	b.server.Kill()
	was := s.Progress()[etcd.WatchingLeases]
	subnettest.Eventually(t, "it is tried again", func() bool { return s.Progress()[etcd.WatchingLeases].After(was) })
	b.server.Restart()
	b.Put(t, "10.5.2.0-24", peerB, false)
	v.Await(t, b)
}

// Whoever is told and does not return holds the watch up, which shows.
func TestNoProgressWhereItHangs(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	b.SetConfig(t, []byte("1"))
	s := b.open(t)
	s.Hasten(quiet)
	watchConfig(t, s, func([]byte) {})
	ctx, cancel := context.WithCancel(t.Context())
	full, ended := make(chan bool, 1), make(chan error, 1)
	go func() {
		ended <- s.WatchLeases(ctx, func(u subnet.Update) {
			full <- u.Full
			if !u.Full {
				<-ctx.Done()
			}
		})
	}()
	require.True(t, <-full)
	b.Put(t, "10.5.1.0-24", peerA, false)
	require.False(t, <-full)
	stuck := s.Progress()[etcd.WatchingLeases]
	for range 3 {
		goesOn(t, s, etcd.WatchingConfig)
	}
	require.Equal(t, stuck, s.Progress()[etcd.WatchingLeases])
	cancel()
	require.NoError(t, <-ended)
}
