package lifecycle

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// monitor records what is written into a node's kernel: ip-monitor(8), which
// shows FDB entries among the neighbours, and `nft monitor`.
type monitor struct {
	node    *netlab.Node
	ip, nft *netlab.Process
	markers int
}

// startMonitor starts one. Nothing that happens from then on is missed.
func startMonitor(t *testing.T, n *netlab.Node) *monitor {
	t.Helper()
	m := &monitor{node: n}
	var err error
	m.ip, err = n.Start("ip-monitor", "stdbuf", "-oL", "ip", "-o", "monitor", "link", "address", "route", "neigh")
	require.NoError(t, err)
	m.nft, err = n.Start("nft-monitor", "stdbuf", "-oL", "nft", "monitor")
	require.NoError(t, err)
	m.catchUp(t)
	return m
}

// catchUp waits until both have written all that has happened: they show a
// marker that comes after it.
func (m *monitor) catchUp(t *testing.T) {
	t.Helper()
	netlabtest.Eventually(t, "the monitors show the marker", func() error {
		m.markers++
		route := fmt.Sprintf("192.0.2.%d", m.markers%250)
		netlabtest.Run(t, &m.node.Host, fmt.Sprintf(
			"ip route add %s dev lo table 4242; ip route del %[1]s dev lo table 4242; nft add table ip marker%d; nft delete table ip marker%[2]d", route, m.markers))
		if logged(t, m.ip, "Deleted "+route+" ") == 0 || logged(t, m.nft, fmt.Sprintf("delete table ip marker%d\n", m.markers)) == 0 {
			return fmt.Errorf("marker %d is missing", m.markers)
		}
		return nil
	})
}

// stop ends the monitors and returns what was written of ours: what is on our
// devices or has our protocol, and any firewall rule.
func (m *monitor) stop(t *testing.T) (writes []string) {
	t.Helper()
	m.catchUp(t)
	for _, p := range []*netlab.Process{m.ip, m.nft} {
		require.NoError(t, p.Kill(t.Context()))
		log, err := os.ReadFile(p.Log)
		require.NoError(t, err)
		for line := range strings.Lines(string(log)) {
			line = strings.TrimSuffix(line, "\n")
			foreign := strings.Contains(line, " marker") || strings.HasPrefix(line, "# new generation")
			if p == m.ip {
				// A pod's veth has an alias with our name, and the kernel drops its own
				// entries for multicast, a minute old, where the machine has many
				// (neigh_periodic_work).
				of, _, _ := strings.Cut(line, "alias twill:")
				foreign = !strings.Contains(of, "twill") && !strings.Contains(of, "proto 116") || strings.HasSuffix(strings.TrimSpace(of), " NOARP")
			}
			if !foreign {
				writes = append(writes, line)
			}
		}
	}
	return writes
}
