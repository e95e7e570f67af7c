package etcd_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

const (
	peerA = `{"PublicIP":"192.168.64.3","BackendType":"vxlan","NodeName":"a"}`
	peerB = `{"PublicIP":"192.168.64.4","BackendType":"vxlan","NodeName":"b"}`
)

// through returns the backend with all its stores behind a way that can be
// cut, while the backend's own client goes straight to the server.
func (b backend) through(t *testing.T) (backend, *etcdtest.Proxy) {
	p := b.server.Proxy(t)
	b.change = func(c *etcd.Config) { c.Endpoints = []string{p.Endpoint} }
	return b, p
}

// What happened while the way was cut is told as changes, not as a list.
func TestWatchResumes(t *testing.T) {
	t.Parallel()
	b, way := newBackend(t, etcdtest.Options{}).through(t)
	b.Put(t, "10.5.1.0-24", peerA, false)
	v := subnettest.Watch(t, b.open(t))
	v.Await(t, b)
	for range 3 {
		way.Cut()
		b.Delete(t, "10.5.1.0-24")
		b.Put(t, "10.5.2.0-24", peerB, false)
		way.Heal()
		v.Await(t, b)
		way.Cut() // the place to go on from is a deletion now
		b.Put(t, "10.5.1.0-24", peerA, false)
		b.Delete(t, "10.5.2.0-24")
		way.Heal()
		v.Await(t, b)
	}
	full, _ := v.Fulls()
	require.Zero(t, full)
}

func TestWatchAfterCompaction(t *testing.T) {
	t.Parallel()
	b, way := newBackend(t, etcdtest.Options{}).through(t)
	b.Put(t, "10.5.1.0-24", peerA, false)
	b.Put(t, "10.5.2.0-24", peerB, false)
	v := subnettest.Watch(t, b.open(t))
	v.Await(t, b)
	b.server.Compact() // all of it known: no matter
	b.Delete(t, "10.5.2.0-24")
	v.Await(t, b)
	full, _ := v.Fulls()
	require.Zero(t, full)

	way.Cut()
	b.Delete(t, "10.5.1.0-24")
	b.Put(t, "10.5.3.0-24", peerB, false)
	b.Put(t, "10.5.3.0-24", peerA, false)
	b.server.Compact()
	way.Heal()
	v.Await(t, b)
	full, wentBack := v.Fulls()
	require.Equal(t, 1, full, "what was missed can only be listed")
	require.Zero(t, wentBack)
	b.Delete(t, "10.5.3.0-24")
	v.Await(t, b)
}

// etcd is killed and comes back, twice, and everything goes on: no method has
// returned, the lease is the same.
func TestOutage(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	var health subnettest.Reports
	b.change = func(c *etcd.Config) { c.Health = health.Take }
	s := b.open(t)
	h := subnettest.Hold(t, s, subnettest.Claim(t, "n1"))
	first := h.Next(t)
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	n, _ := health.Last()
	require.Zero(t, n, "all is well")
	for range 2 {
		b.server.Kill()
		subnettest.Eventually(t, "the outage is told", func() bool {
			_, err := health.Last()
			return err != nil
		})
		_, err := health.Last()
		require.ErrorContains(t, err, "ing")
		b.server.Restart()
		back := time.Now()
		b.Put(t, "10.5.2.0-24", peerB, false)
		v.Await(t, b)
		t.Logf("the first new peer came %s after etcd", time.Since(back))
		subnettest.Eventually(t, "the end of it is told", func() bool {
			_, err := health.Last()
			return err == nil
		})
		b.Delete(t, "10.5.2.0-24")
		v.Await(t, b)
	}
	full, _ := v.Fulls()
	require.Zero(t, full)
	require.Equal(t, first.Key, v.Records()[first.Key].Key)
	require.Empty(t, h.Held, "nothing has happened to the lease")
	require.Empty(t, h.Done)
}

// However long etcd was away, the first new peer comes soon after it is back:
// no pause has grown meanwhile. TWILL_LONG=1 makes a minute of it, and holds it
// to two seconds, which a busy machine may need for etcd's start alone.
func TestLongOutage(t *testing.T) {
	t.Parallel()
	long := os.Getenv("TWILL_LONG") != ""
	away := 5 * time.Second
	if long {
		away = time.Minute
	}
	b := newBackend(t, etcdtest.Options{})
	v := subnettest.Watch(t, b.open(t))
	v.Await(t, b)
	b.server.Kill()
	<-time.After(away)
	b.server.Restart()
	b.client = b.server.Client(t) // the one before makes long pauses by now
	back := time.Now()
	b.Put(t, "10.5.2.0-24", peerB, false)
	v.Await(t, b)
	took := time.Since(back)
	t.Logf("the first new peer came %s after etcd", took)
	if long {
		require.Less(t, took, 2*time.Second)
	}
}

// A server that hangs keeps its connections: pings find it out.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	var health subnettest.Reports
	b.change = func(c *etcd.Config) { c.Health = health.Take }
	s := b.open(t)
	h := subnettest.Hold(t, s, subnettest.Claim(t, "n1"))
	h.Next(t)
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	b.server.Pause()
	paused := time.Now()
	subnettest.Eventually(t, "it is told", func() bool {
		_, err := health.Last()
		return err != nil
	})
	t.Logf("told after %s", time.Since(paused))
	b.server.Resume()
	b.Put(t, "10.5.2.0-24", peerB, false)
	v.Await(t, b)
	subnettest.Eventually(t, "all is well again", func() bool {
		_, err := health.Last()
		return err == nil
	})
	require.Empty(t, h.Held)
}

func TestServerIsNotThereYet(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	b.SetConfig(t, []byte("{}"))
	b.server.Stop()
	var health subnettest.Reports
	b.change = func(c *etcd.Config) { c.Health = health.Take }
	s := b.open(t)
	h := subnettest.Hold(t, s, subnettest.Claim(t, "n1"))
	v := subnettest.Watch(t, s)
	config := make(chan []byte, 10)
	go func() { _ = s.WatchConfig(t.Context(), func(raw []byte) { config <- raw }) }()
	subnettest.Eventually(t, "it is told", func() bool {
		_, err := health.Last()
		return err != nil
	})
	_, err := health.Last()
	require.ErrorContains(t, err, "connection refused")
	require.Empty(t, v.Updates())
	b.server.Restart()
	require.Equal(t, "{}", string(<-config))
	held := h.Next(t)
	v.Await(t, b)
	require.Contains(t, v.Records(), held.Key)
}
