package lifecycle

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// somebodyElses makes on a node what others may have there: none of it is
// ours, however like ours it looks.
const somebodyElses = `
	ip link add other type vxlan id 7 dstport 4789 local 192.168.77.11 dev eth0 nolearning
	ip link set other up
	ip address add 10.7.0.0/32 dev other
	ip route add 10.7.1.0/24 via 10.7.1.0 dev other onlink
	ip neigh add 10.7.1.0 lladdr 02:07:00:00:00:01 dev other nud permanent
	bridge fdb add 02:07:00:00:00:01 dev other dst 192.168.77.99
	ip link add twill-x type vxlan id 8 dstport 4789 local 192.168.77.11 dev eth0
	ip link add twill.77 type bridge
	ip link add name twill.78x type bridge
	ip route add 10.9.0.0/24 via 192.168.77.1 proto static
	ip route add 10.9.1.0/24 via 192.168.77.1 proto 117
	ip -6 route add fd09::/64 via fd77::1 proto bird
	ip route add blackhole 10.9.2.0/24
	ip route add 10.9.3.0/24 via 192.168.77.1 table 116 proto 116
	ip rule add from 10.9.0.0/24 lookup 116 priority 116
	ip neigh add 192.168.77.250 lladdr 02:07:00:00:00:02 dev eth0 nud permanent
	nft add table ip twill
	nft add table inet other '{ chain postrouting { type nat hook postrouting priority srcnat; ip saddr 10.9.0.0/24 masquerade; }; }'
	mkdir -p /var/lib/twill-other
	touch /var/lib/twill-other/file
	sysctl -qw net.ipv6.conf.all.forwarding=1`

var soon = regexp.MustCompile(`(?m) expires \d+sec| (REACHABLE|STALE|DELAY|PROBE)\s*$|^\d+: | [a-z_]+_timer +[0-9.]+`)

// everything shows all that a daemon could have changed on a node: what only
// traffic changes, the neighbours that were learned, is left out.
func everything(t *testing.T, n *netlab.Node) []string {
	t.Helper()
	const script = `
		ip -o -d link
		ip -o address
		ip route show table all
		ip -6 route show table all
		ip rule
		ip -6 rule
		ip neigh show nud permanent
		ip neigh show proxy
		ip nexthop
		bridge -o fdb show
		nft list ruleset
		find /run/twill /var/lib/twill /var/lib/twill-other /etc/cni 2>/dev/null || :`
	return strings.Split(strings.ReplaceAll(soon.ReplaceAllString(netlabtest.Run(t, &n.Host, script), ""), "\t", " "), "\n")
}

// awaitEverything waits until all is as it was: some of what goes the kernel
// takes away in its own time.
func awaitEverything(t *testing.T, n *netlab.Node, want []string) {
	t.Helper()
	netlabtest.Eventually(t, n.Name+" is as it was", func() error { return equalLines(want, everything(t, n)) })
}

// --cleanup leaves the host as it was before the first start, and takes
// nothing that is another's. Forwarding alone stays on, on purpose: by then
// others may rely on it. (In IPv6 it brings routes and multicast groups with
// it, so that it is on from the beginning here.)
func TestCleanup(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 2})
	n := c.Node(1)
	netlabtest.Run(t, &n.Host, somebodyElses)
	netlabtest.Run(t, &n.Host, "ping -qc1 192.168.77.1; ping -qc1 fd77::1")
	before := everything(t, n)
	clean := func(flags string) {
		t.Helper()
		_, err := n.Exec(t.Context(), "sh", "-c", "twilld --cleanup "+flags)
		require.NoError(t, err)
		awaitEverything(t, n, before)
	}

	t.Run("where twilld never ran", func(t *testing.T) { clean("") })

	for _, tt := range []struct {
		name string
		end  func(*testing.T, *netlab.Node)
	}{{"after a stop", c.stop}, {"after a kill", c.kill}} {
		t.Run(tt.name, func(t *testing.T) {
			c.start(t, n, "--ip-blackhole-route")
			other := c.launch(t, c.Node(2))
			c.awaitReady(t, c.Node(2))
			c.awaitPeer(t, n)
			pods := []*netlab.Pod{netlabtest.AddPod(t, n, "pod"), netlabtest.AddPod(t, c.Node(2), "pod")}
			requirePings(t, pods...)
			was := c.record(t, n.Name)

			_, err := n.Exec(t.Context(), "twilld", "--cleanup")
			require.ErrorContains(t, err, "exit status 1")
			require.ErrorContains(t, err, "another twilld works in /var/lib/twill: stop it first")
			unharmed(t, pods, func() {})

			require.NoError(t, n.DelPod(t.Context(), pods[0]))
			require.NoError(t, c.Node(2).DelPod(t.Context(), pods[1]))
			netlabtest.Run(t, &n.Host, "ip link del cni0")
			tt.end(t, n)
			clean("")
			require.Equal(t, "1\n1\n", netlabtest.Run(t, &n.Host, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"))
			require.Equal(t, was, c.record(t, n.Name), "the lease is left to end by itself")
			clean("")
			require.NoError(t, other.Stop(t.Context()))
		})
	}

	// Where the files are is the operator's choice.
	t.Run("with other paths", func(t *testing.T) {
		const paths = "--subnet-file=/run/elsewhere/subnet.env --socket=/run/elsewhere/sock --state-dir=/var/lib/elsewhere"
		c.start(t, n, strings.Fields(paths)...)
		require.FileExists(t, n.Path("/run/elsewhere/subnet.env"))
		c.stop(t, n)
		clean(paths)
		require.NoFileExists(t, n.Path("/run/elsewhere/subnet.env"))
		require.NoDirExists(t, n.Path("/var/lib/elsewhere"))
	})
}

// awaitPeer waits until a node has a way to a peer; a blackhole for its own
// subnet is not one.
func (c *cluster) awaitPeer(t *testing.T, n *netlab.Node) {
	t.Helper()
	netlabtest.Eventually(t, n.Name+" has a peer", func() error {
		for _, way := range ways(t, n) {
			if strings.HasPrefix(way, "route ") && !strings.Contains(way, " via  ") {
				return nil
			}
		}
		return fmt.Errorf("it has only %v", ways(t, n))
	})
}
