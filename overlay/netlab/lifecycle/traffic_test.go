package lifecycle

import (
	"fmt"
	"testing"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// startTraffic has each two of some pods ping each other.
func startTraffic(t *testing.T, pods []*netlab.Pod) *netlabtest.Traffic {
	t.Helper()
	return netlabtest.StartTraffic(t, t.Name(), netlabtest.Each(pods...)...)
}

// unharmed does something while each two pods ping each other, and fails if a
// packet is lost.
func unharmed(t *testing.T, pods []*netlab.Pod, do func()) {
	t.Helper()
	netlabtest.Unharmed(t, t.Name(), netlabtest.Each(pods...), do)
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
				netlabtest.Eventually(t, fmt.Sprintf("%s pings %s", from.Name, to.Name), func() error {
					_, err := from.Ping(t.Context(), to.Addrs[f], 0)
					return err
				})
			}
		}
	}
}
