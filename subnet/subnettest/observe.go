package subnettest

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// Patience bounds how long a condition may take: no test waits for it.
const Patience = 60 * time.Second

// Eventually waits for a condition.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, Patience, 5*time.Millisecond, "waiting until %s", what)
}

// During runs a task until the test ends or stop is called, which wait for its
// end.
func During(t *testing.T, task func(context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		task(ctx)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return stop
}

// Claim returns that of node n7, for one, at 192.168.0.7 with the network
// 10.5.0.0/16.
func Claim(t *testing.T, node string) subnet.Claim {
	t.Helper()
	n, err := strconv.Atoi(node[1:])
	require.NoError(t, err)
	return claim(t, wide, node, n)
}

// Holding is a Hold under way.
type Holding struct {
	Held chan subnet.Held // what it tells
	Done chan error       // what it returned
	Stop func()           // ends it
}

// Hold holds a lease until the test ends.
func Hold(t *testing.T, store Store, c subnet.Claim) *Holding {
	t.Helper()
	h := &Holding{Held: make(chan subnet.Held, 100), Done: make(chan error, 1)}
	h.Stop = During(t, func(ctx context.Context) {
		h.Done <- store.Hold(ctx, c, func(held subnet.Held) { h.Held <- held })
	})
	return h
}

// Next returns the lease that Hold tells of next.
func (h *Holding) Next(t *testing.T) subnet.Held {
	t.Helper()
	select {
	case held := <-h.Held:
		return held
	case err := <-h.Done:
		require.NoError(t, err, "Hold has ended")
		require.Fail(t, "Hold has ended without a lease")
	case <-time.After(Patience):
		require.Fail(t, "no lease")
	}
	return subnet.Held{}
}

// End ends Hold and returns what it returned.
func (h *Holding) End(t *testing.T) error {
	t.Helper()
	h.Stop()
	return h.Err(t)
}

// Err waits for Hold to end by itself and returns what it returned.
func (h *Holding) Err(t *testing.T) error {
	t.Helper()
	select {
	case err := <-h.Done:
		h.Done <- err
		return err
	case <-time.After(Patience):
		require.Fail(t, "Hold does not end")
		return nil
	}
}

// Reports collects what a store tells of its health.
type Reports struct {
	mu  sync.Mutex
	all []error
}

// Take is for the store's config.
func (r *Reports) Take(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, err)
}

// All returns what was told so far.
func (r *Reports) All() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// Last returns what was told last, nil before, and how often something was.
func (r *Reports) Last() (n int, err error) {
	all := r.All()
	if n = len(all); n > 0 {
		err = all[n-1]
	}
	return n, err
}

// Log keeps what is written to it while a test reads it.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Entry returns a logger that writes all levels to it, for the store's config.
func (l *Log) Entry() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(l)
	log.SetLevel(logrus.TraceLevel)
	return logrus.NewEntry(log)
}

// Write never fails.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns all so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
