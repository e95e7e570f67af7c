package lifecycle

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// traffic is a ping a hundred times a second in each family between each two
// of some pods.
type traffic struct {
	flows []*netlab.Flow
	names []string
}

func startTraffic(t *testing.T, pods []*netlab.Pod) *traffic {
	t.Helper()
	tr := &traffic{}
	for i, from := range pods {
		for _, to := range pods[i+1:] {
			for _, f := range subnet.Families {
				if !to.Addrs[f].IsValid() {
					continue
				}
				flow, err := from.PingContinuously(t.Context(), to.Addrs[f], 10*time.Millisecond)
				require.NoError(t, err)
				tr.flows = append(tr.flows, flow)
				tr.names = append(tr.names, fmt.Sprintf("%s to %s (%s)", from.Name, to.Name, f))
			}
		}
	}
	tr.await(t, 10)
	return tr
}

// await waits until n more requests of each flow are answered.
func (tr *traffic) await(t *testing.T, n int) {
	t.Helper()
	for i, flow := range tr.flows {
		eventuallyDone := make(chan error, 1)
		go func() { eventuallyDone <- flow.Await(t.Context(), n) }()
		select {
		case err := <-eventuallyDone:
			require.NoError(t, err, tr.names[i])
		case <-time.After(patience):
			require.FailNow(t, "no traffic", tr.names[i])
		}
	}
}

// requireNoLoss ends the traffic after some more of it.
func (tr *traffic) requireNoLoss(t *testing.T) {
	t.Helper()
	tr.await(t, 10)
	for i, flow := range tr.flows {
		loss, err := flow.Stop()
		require.NoError(t, err)
		require.Zero(t, loss.Lost(), "%s: %+v", tr.names[i], loss)
	}
}

// unharmed does something while every pod pings every other, and fails if a
// packet is lost.
func unharmed(t *testing.T, pods []*netlab.Pod, do func()) {
	t.Helper()
	tr := startTraffic(t, pods)
	do()
	tr.requireNoLoss(t)
}

// requirePings waits until every pod reaches every other.
func requirePings(t *testing.T, pods ...*netlab.Pod) {
	t.Helper()
	for _, from := range pods {
		for _, to := range pods {
			for _, f := range subnet.Families {
				if from == to || !to.Addrs[f].IsValid() {
					continue
				}
				eventually(t, fmt.Sprintf("%s pings %s", from.Name, to.Name), func() error {
					_, err := from.Ping(t.Context(), to.Addrs[f], 0)
					return err
				})
			}
		}
	}
}
