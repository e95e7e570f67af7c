package etcd_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
)

// cpu returns what this process has used of it: of etcd's nothing, and a busy
// machine does not blur it much.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStart is what the store does of a node's start among 20 000: it
// lists them and takes the node's lease.
func BenchmarkStart(b *testing.B) {
	server := etcdtest.Start(b, etcdtest.Options{})
	be := backend{server: server, client: server.Client(b), prefix: "/x"}
	fill(b, be, 20_000)
	cfg, err := subnet.ParseConfig([]byte(`{"Network": "10.0.0.0/8", "SubnetMin": "10.250.0.0"}`))
	require.NoError(b, err)
	claim := subnet.Claim{Node: "n1", Config: cfg, BackendType: subnet.BackendVXLAN}
	b.ReportAllocs()
	before := cpu(b)
	for b.Loop() {
		s := be.openFor(b)
		ctx, cancel := context.WithCancel(b.Context())
		var g errgroup.Group
		told := make(chan bool, 2)
		g.Go(func() error { return s.WatchLeases(ctx, func(subnet.Update) { told <- true }) })
		g.Go(func() error { return s.Hold(ctx, claim, func(subnet.Held) { told <- true }) })
		<-told
		<-told
		cancel()
		require.NoError(b, g.Wait())
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

// BenchmarkEvents is what a burst of 1 000 new leases costs.
func BenchmarkEvents(b *testing.B) {
	const burst = 1000
	server := etcdtest.Start(b, etcdtest.Options{})
	be := backend{server: server, client: server.Client(b), prefix: "/x"}
	s := be.openFor(b)
	ctx, cancel := context.WithCancel(b.Context())
	updates := make(chan int, burst)
	done := make(chan error, 1)
	go func() { done <- s.WatchLeases(ctx, func(u subnet.Update) { updates <- len(u.Put) }) }()
	<-updates
	var ours time.Duration
	b.ReportAllocs()
	for b.Loop() {
		before := cpu(b)
		fill(b, be, burst)
		for seen := 0; seen < burst; seen += <-updates {
		}
		ours += cpu(b) - before
	}
	b.ReportMetric(float64(ours.Microseconds())/1000/float64(b.N), "cpu-ms/op")
	cancel()
	require.NoError(b, <-done)
}
