package netlabtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// Pair is two hosts of which one pings the other, in each family in which that
// has an address.
type Pair struct{ From, To *netlab.Host }

// Each pairs each two of some pods.
func Each(pods ...*netlab.Pod) (pairs []Pair) {
	for i, from := range pods {
		for _, to := range pods[i+1:] {
			pairs = append(pairs, Pair{&from.Host, &to.Host})
		}
	}
	return pairs
}

// Traffic is pings, a hundred times a second.
type Traffic struct {
	what    string
	flows   []*netlab.Flow
	ways    []way // of the flows
	watched []*netlab.Host
	began   time.Time
	before  Counters
}

// way is what a flow takes.
type way struct {
	Pair
	family subnet.Family
}

func (w way) String() string { return fmt.Sprintf("%s to %s (%s)", w.From.Name, w.To.Name, w.family) }

// StartTraffic starts pings and returns once all are answered. What names it
// where it fails.
func StartTraffic(t *testing.T, what string, pairs ...Pair) *Traffic {
	t.Helper()
	tr := &Traffic{what: what, watched: watched(pairs), began: time.Now()}
	for _, p := range pairs {
		for f, to := range p.To.Addrs {
			if !to.IsValid() {
				continue
			}
			flow, err := p.From.PingContinuously(t.Context(), to, 10*time.Millisecond)
			require.NoError(t, err)
			tr.flows = append(tr.flows, flow)
			tr.ways = append(tr.ways, way{p, subnet.Family(f)})
		}
	}
	tr.Await(t, 5)
	tr.before = Count(t.Context(), tr.watched...)
	return tr
}

// watched are the hosts that packets pass on their way: those of the pairs, all
// nodes and the lan.
func watched(pairs []Pair) []*netlab.Host {
	lab := pairs[0].From.Lab()
	hosts := []*netlab.Host{lab.Lan}
	for _, n := range lab.Nodes {
		hosts = append(hosts, &n.Host)
	}
	known := func(h *netlab.Host) bool {
		return slices.ContainsFunc(hosts, func(o *netlab.Host) bool { return o.Name == h.Name })
	}
	for _, p := range pairs {
		for _, h := range []*netlab.Host{p.From, p.To} {
			if !known(h) {
				hosts = append(hosts, h)
			}
		}
	}
	return hosts
}

// Await waits until n more requests of each flow are answered.
func (tr *Traffic) Await(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	for i, flow := range tr.flows {
		require.NoError(t, flow.Await(ctx, n), "%s: %s", tr.what, tr.ways[i])
	}
}

// RequireNoLoss ends the traffic, after some more of it, and fails the test if
// a packet was lost.
func (tr *Traffic) RequireNoLoss(t *testing.T) {
	t.Helper()
	if v := tr.stop(t); v.lost > 0 {
		require.FailNow(t, v.text)
	}
}

// Lost ends the traffic, after some more of it, and returns how many packets
// were lost.
func (tr *Traffic) Lost(t *testing.T) int {
	t.Helper()
	v := tr.stop(t)
	t.Log(v.text)
	return v.lost
}

// verdict is what has become of a Traffic.
type verdict struct {
	lost       int
	overflowed bool   // the machine had no room for a neighbour entry meanwhile
	text       string // which packets were lost, and what the kernel has counted meanwhile
}

func (tr *Traffic) stop(t *testing.T) (v verdict) {
	t.Helper()
	tr.Await(t, 10)
	var lines []string
	sent, lost := 0, map[way]int{} // by where to
	for i, flow := range tr.flows {
		loss, err := flow.Stop()
		require.NoError(t, err)
		sent += loss.Sent
		if loss.Lost() > 0 {
			lost[way{Pair{To: tr.ways[i].To}, tr.ways[i].family}] += loss.Lost()
			lines = append(lines, fmt.Sprintf("%s: %d of %d, longest gap %v; no answer to %v", tr.ways[i], loss.Lost(), loss.Sent,
				loss.LongestGap.Round(100*time.Microsecond), loss.Missing[:min(10, len(loss.Missing))]))
		}
	}
	now := tr.before
	if len(lines) > 0 {
		now = Count(t.Context(), tr.watched...)
	}
	for to, n := range lost {
		v.lost += max(0, n-now.Refused(tr.before, to.To, to.family))
	}
	v.text = fmt.Sprintf("%s: %d of %d packets lost", tr.what, v.lost, sent)
	if len(lines) > 0 {
		v.overflowed = now.Overflowed(tr.before)
		v.text += fmt.Sprintf(":\n%s\nSince %s the kernel has counted:\n%s", strings.Join(lines, "\n"), tr.began.Format("15:04:05.000"), now.Since(tr.before))
	}
	return v
}

// attempts bounds how often a step is done that the machine has spoilt.
const attempts = 3

// Unharmed does something while pairs ping each other, and fails the test if a
// packet is lost.
//
// A packet lost while the machine's neighbour table overflowed, which labs that
// run beside this one may have filled, says nothing. Then again brings back
// what was before, and all is done once more; without it the test fails.
func Unharmed(t *testing.T, what string, pairs []Pair, do func(), again ...func()) {
	t.Helper()
	for i := 1; ; i++ {
		tr := StartTraffic(t, what, pairs...)
		do()
		v := tr.stop(t)
		switch {
		case v.lost == 0:
			t.Log(v.text)
			return
		case !v.overflowed || len(again) == 0 || i == attempts:
			require.FailNow(t, v.text)
		}
		t.Logf("attempt %d of %d says nothing, the machine's neighbour table was full: %s", i, attempts, v.text)
		for _, f := range again {
			f()
		}
	}
}
