package kube_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/kube/kubetest"
	"github.com/twill-net/twill/subnet/subnettest"
)

// However long the API server was away, killed or hanging, the first new peer
// comes soon after it is back to all nodes, each of which makes its own pauses, and
// what had to wait is written. TWILL_LONG=1 makes a minute of it, and holds it to two
// seconds.
func TestLongOutage(t *testing.T) {
	s := start(t)
	for name, outage := range map[string]struct{ begin, end func(*kubetest.Server) }{
		"killed": {(*kubetest.Server).Kill, (*kubetest.Server).Restart},
		"hangs":  {(*kubetest.Server).Pause, (*kubetest.Server).Resume},
	} {
		t.Run(name, func(t *testing.T) {
			s.DeleteNodes(t)
			longOutage(t, s, func() { outage.begin(s) }, func() { outage.end(s) })
		})
	}
}

func longOutage(t *testing.T, s *kubetest.Server, begin, end func()) {
	long := os.Getenv("TWILL_LONG") != ""
	away := 5 * time.Second
	if long {
		away = time.Minute
	}
	b := backend{server: s, url: s.URL, config: filepath.Join(t.TempDir(), "net-conf.json")}
	b.Join(t, "n1", "10.5.1.0/24")
	store := b.open(t, "n1")
	subnettest.Hold(t, store, subnettest.Claim(t, "n1")).Next(t)
	states := make(chan subnet.NetworkState)
	subnettest.During(t, func(ctx context.Context) { _ = store.ReportNetwork(ctx, states) })
	states <- subnet.NetworkState{Up: true, Message: "before"}
	subnettest.Eventually(t, "the condition is written", func() bool { return unavailable(s.Node(t, "n1")).Message == "before" })
	views := []*subnettest.View{subnettest.Watch(t, store)}
	for range 7 {
		views = append(views, subnettest.Watch(t, b.open(t, "n9")))
	}
	for _, v := range views {
		v.Await(t, subnettest.Looking(b))
	}

	begin()
	states <- subnet.NetworkState{Up: true, Message: "meanwhile"}
	late := subnettest.Watch(t, b.open(t, "n9"))
	<-time.After(away)
	end()
	back := time.Now()
	b.Join(t, "n2", "10.5.2.0/24")
	b.Announce(t, peer(t, "n2", "10.5.2.0/24"))
	for _, v := range append(views, late) {
		subnettest.Eventually(t, "the new peer is there", func() bool { _, ok := v.Records()["n2"]; return ok })
	}
	took := time.Since(back)
	t.Logf("all have the first new peer %s after the API server", took)
	subnettest.Eventually(t, "the condition is written", func() bool { return unavailable(s.Node(t, "n1")).Message == "meanwhile" })
	t.Logf("the condition is written %s after the API server", time.Since(back))
	if long {
		require.Less(t, took, 2*time.Second)
	}
}
