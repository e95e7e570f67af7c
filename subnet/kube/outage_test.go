package kube_test

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/kube"
	"github.com/twill-net/twill/subnet/subnettest"
)

// peer is the lease that a node announces.
func peer(t *testing.T, node, cidr string) subnet.Lease {
	t.Helper()
	return subnettest.Claim(t, node).Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix(cidr)})
}

// What happened while the way was cut is told as changes, not as a list.
func cutWatch(t *testing.T, b backend) {
	way := b.server.Proxy(t)
	b.url = way.Endpoint
	b.Join(t, "n1", "10.5.1.0/24")
	b.Announce(t, peer(t, "n1", "10.5.1.0/24"))
	v := subnettest.Watch(t, b.open(t, "n9"))
	v.Await(t, subnettest.Looking(b))
	// The Reflector does not resume a stream that told nothing within a second.
	b.Announce(t, peer(t, "n1", "10.5.1.0/24"))
	b.Join(t, "n3", "10.5.3.0/24")
	b.Announce(t, peer(t, "n3", "10.5.3.0/24"))
	v.Await(t, subnettest.Looking(b))
	for range 3 {
		for _, move := range [][2]string{{"n1", "n2"}, {"n2", "n1"}} {
			way.Cut()
			b.Leave(t, move[0])
			b.Join(t, move[1], "10.5.1.0/24")
			b.Announce(t, peer(t, move[1], "10.5.1.0/24"))
			way.Heal()
			v.Await(t, subnettest.Looking(b))
		}
	}
	full, _ := v.Fulls()
	require.Zero(t, full)
}

// The API server is not there yet, comes, is killed and comes back: no method
// returns, the lease is the same.
func TestOutage(t *testing.T) {
	s := start(t)
	var health subnettest.Reports
	b := backend{server: s, url: s.URL, config: filepath.Join(t.TempDir(), "net-conf.json"), change: func(c *kube.Config) { c.Health = health.Take }}
	b.Join(t, "n1", "10.5.1.0/24")
	s.Kill()

	store := b.open(t, "n1")
	h := subnettest.Hold(t, store, subnettest.Claim(t, "n1"))
	v := subnettest.Watch(t, store)
	states := make(chan subnet.NetworkState, 1)
	states <- subnet.NetworkState{Up: true, Message: "up"}
	subnettest.During(t, func(ctx context.Context) { _ = store.ReportNetwork(ctx, states) })
	for i := range 3 {
		subnettest.Eventually(t, "the outage is told", func() bool {
			_, err := health.Last() // at first perhaps how a connection ended
			return err != nil && strings.Contains(err.Error(), "connect: connection refused")
		})
		s.Restart()
		back := time.Now()
		if i == 0 {
			h.Next(t)
			subnettest.Eventually(t, "the condition is written", func() bool { return unavailable(s.Node(t, "n1")).Message == "up" })
		}
		subnettest.Eventually(t, "the end of it is told", func() bool { _, err := health.Last(); return err == nil })
		b.Join(t, "n2", "10.5.2.0/24")
		b.Announce(t, peer(t, "n2", "10.5.2.0/24"))
		subnettest.Eventually(t, "the peer is there", func() bool { _, ok := v.Records()["n2"]; return ok })
		t.Logf("the first new peer came %s after the API server", time.Since(back))
		b.Leave(t, "n2")
		subnettest.Eventually(t, "the peer is gone", func() bool { _, ok := v.Records()["n2"]; return !ok })
		s.Kill()
	}
	full, _ := v.Fulls()
	// One that has written before it serves Nodes knows nothing older (410 Gone);
	// that streams are resumed otherwise is cutWatch's.
	require.LessOrEqual(t, full, 2, "no more than one list after each restart")
	require.Contains(t, v.Records(), "n1")
	require.Empty(t, h.Held, "nothing has happened to the lease")
	require.Empty(t, h.Done)
}

// etcd is restored from a backup under the API server.
func TestRestored(t *testing.T) {
	s := start(t)
	var log subnettest.Log
	b := backend{server: s, url: s.URL, config: filepath.Join(t.TempDir(), "net-conf.json"), change: func(c *kube.Config) { c.Logger = log.Entry() }}
	b.Join(t, "n1", "10.5.1.0/24")
	b.Announce(t, peer(t, "n1", "10.5.1.0/24"))
	s.Kill()
	s.Etcd.Stop()
	backup := s.Etcd.Backup()
	s.Etcd.Restart()
	s.Restart()
	for _, n := range []string{"n2", "n3"} {
		b.Join(t, n, "10.5."+n[1:]+".0/24")
		b.Announce(t, peer(t, n, "10.5."+n[1:]+".0/24"))
		for range 30 { // a backup is long ago
			b.server.PatchNode(t, n, `{"metadata":{"labels":{"x":"y"}}}`)
			b.server.PatchNode(t, n, `{"metadata":{"labels":{"x":null}}}`)
		}
	}
	v := subnettest.Watch(t, b.open(t, "n9"))
	h := subnettest.Hold(t, b.open(t, "n3"), subnettest.Claim(t, "n3"))
	h.Next(t)
	subnettest.Eventually(t, "all are there", func() bool { return len(v.Records()) == 3 })
	b.annotate(t, "n2", map[string]any{prefix + "public-ip": "192.0.2.2"}) // a stream that told something is resumed
	subnettest.Eventually(t, "a change is told", func() bool { return v.Records()["n2"].Lease.PublicIPs[subnet.IPv4].String() == "192.0.2.2" })

	s.Kill()
	s.Etcd.Stop()
	s.Etcd.Restore(backup)
	s.Etcd.Restart()
	s.Restart()
	subnettest.Eventually(t, "the restored list is told as such", func() bool { _, back := v.Fulls(); return back == 1 })
	require.Contains(t, log.String(), "went back in time")
	require.Len(t, v.Records(), 1)
	require.ErrorIs(t, h.Err(t), subnet.ErrNoLease, "our Node is not there any more")
	b.Join(t, "n2", "10.5.2.0/24")
	b.Announce(t, peer(t, "n2", "10.5.2.0/24"))
	subnettest.Eventually(t, "what comes after is told", func() bool { return len(v.Records()) == 2 })
	_, back := v.Fulls()
	require.Equal(t, 1, back)
}

// silence ends streams soon, and leaves a busy machine its time: the Reflector
// lists again when one was shorter than a second.
const silence = 5 * time.Second

// A server that hangs keeps its connections: a stream that is silent is asked
// for, and nobody answers.
func TestServerHangs(t *testing.T) {
	s := start(t)
	var health subnettest.Reports
	b := backend{server: s, url: s.URL, config: filepath.Join(t.TempDir(), "net-conf.json"), change: func(c *kube.Config) { c.Health = health.Take }}
	b.Join(t, "n1", "10.5.1.0/24")
	store := b.open(t, "n1")
	store.SetSilence(silence)
	h := subnettest.Hold(t, store, subnettest.Claim(t, "n1"))
	h.Next(t)
	v := subnettest.Watch(t, store)
	v.Await(t, subnettest.Looking(b))
	s.Pause()
	paused := time.Now()
	subnettest.Eventually(t, "it is told", func() bool { _, err := health.Last(); return err != nil })
	t.Logf("told after %s", time.Since(paused))
	s.Resume()
	b.Join(t, "n2", "10.5.2.0/24")
	b.Announce(t, peer(t, "n2", "10.5.2.0/24"))
	v.Await(t, subnettest.Looking(b))
	subnettest.Eventually(t, "all is well again", func() bool { _, err := health.Last(); return err == nil })
	full, _ := v.Fulls()
	require.Zero(t, full)
	require.Empty(t, h.Held)
}

// Streams are asked for again and again; what was told stays told.
func progress(t *testing.T, b backend) {
	b.SetConfig(t, []byte("{}"))
	b.Join(t, "n1", "10.5.1.0/24")
	store := b.open(t, "n1")
	store.SetSilence(silence)
	v := subnettest.Watch(t, store)
	subnettest.Hold(t, store, subnettest.Claim(t, "n1")).Next(t)
	stop := subnettest.During(t, func(ctx context.Context) { _ = store.WatchConfig(ctx, func([]byte) {}) })
	v.Await(t, subnettest.Looking(b))
	var first map[string]time.Time
	subnettest.Eventually(t, "all have begun", func() bool { first = store.Progress(); return len(first) == 3 })
	subnettest.Eventually(t, "all went on", func() bool {
		for what, at := range store.Progress() {
			if !at.After(first[what]) {
				return false
			}
		}
		return true
	})
	full, _ := v.Fulls()
	require.Zero(t, full)
	stop()
	require.Len(t, store.Progress(), 2, "what has ended is not waited for")
}

// A server that cannot stream a list sends it in pages.
func TestWithoutStreamedLists(t *testing.T) {
	s := start(t, "--feature-gates=WatchList=false")
	b := backend{server: s, url: s.URL, config: filepath.Join(t.TempDir(), "net-conf.json")}
	const nodes = 600 // a page has 500
	each(nodes, func(i int) { s.CreateNode(t, largeNode(i)) })
	v := subnettest.Watch(t, b.open(t, "n9"))
	subnettest.Eventually(t, "the list is there", func() bool { return len(v.Updates()) > 0 })
	require.Len(t, v.Records(), nodes)
	b.annotate(t, "n7", map[string]any{prefix + "public-ip": "192.0.2.7"})
	subnettest.Eventually(t, "a change is told", func() bool { return v.Records()["n7"].Lease.PublicIPs[subnet.IPv4].String() == "192.0.2.7" })
	b.Leave(t, "n8")
	subnettest.Eventually(t, "an end is told", func() bool { _, ok := v.Records()["n8"]; return !ok })
	full, _ := v.Fulls()
	require.Zero(t, full)
}
