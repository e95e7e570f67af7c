package lifecycle

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// ways lists what leads to peers on a node; see netlabtest.Ways.
func ways(t *testing.T, n *netlab.Node) (found []string) {
	t.Helper()
	netlabtest.Eventually(t, n.Name+" shows its ways", func() (err error) { // a dump may be interrupted
		found, err = netlabtest.Ways(t.Context(), n)
		return err
	})
	return found
}

// awaitWays waits until exactly the ways lead from a node that follow from the
// records of all others in etcd.
func (c *cluster) awaitWays(t *testing.T, n *netlab.Node) {
	t.Helper()
	c.awaitWaysTo(t, n, func(record) bool { return true })
}

// awaitWaysTo is awaitWays for the records that are good.
func (c *cluster) awaitWaysTo(t *testing.T, n *netlab.Node, good func(record) bool) {
	t.Helper()
	netlabtest.Eventually(t, n.Name+" has a way to each peer and to nobody else", func() error {
		var peers []record
		for _, r := range c.records(t) {
			if r.NodeName != n.Name && good(r) {
				peers = append(peers, r)
			}
		}
		return equalLines(netlabtest.WantedWays(peers), ways(t, n))
	})
}

func equalLines(want, have []string) error { return netlabtest.EqualLines(want, have) }

// A device that was too small for IPv6 for a moment has got a link-local
// address from the kernel, and keeps it.
var volatile = regexp.MustCompile(`(?m)^.* inet6 fe80::.*\n|^\d+: | addrgenmode .*$| expires \d+sec`)

// ours shows everything of ours on a node but the ways: devices, addresses,
// rules and settings.
func ours(t *testing.T, n *netlab.Node) string {
	t.Helper()
	text, err := showOurs(t, n)
	require.NoError(t, err)
	return text
}

// showOurs is ours where a device or the table may be away at the moment.
func showOurs(t *testing.T, n *netlab.Node) (string, error) {
	t.Helper()
	const script = `
		for d in twill.1 twill-v6.1; do
			ip link show dev $d >/dev/null
			ip -o -d link show dev $d | tr '\\' '\n'
			ip -o address show dev $d | tr '\\' '\n'
		done
		nft list table inet twill
		cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding`
	out, err := n.Exec(t.Context(), "sh", "-euc", script)
	return volatile.ReplaceAllString(out, ""), err
}

// awaitOurs waits until all of ours is as it was.
func awaitOurs(t *testing.T, n *netlab.Node, want string) {
	t.Helper()
	netlabtest.Eventually(t, n.Name+" has its devices and rules", func() error {
		have, err := showOurs(t, n)
		if err != nil {
			return err
		}
		return equalLines(strings.Split(want, "\n"), strings.Split(have, "\n"))
	})
}
