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

// numbered returns the key under which peer(number) stands.
func numbered(number int) string {
	return fmt.Sprintf("10.244.%d.0-24&fd00:244:0:%x::-64", number, number)
}

// What has changed in the store and in the kernel while the daemon was down is
// right after its start, and the peers that stayed never notice.
func TestChangesWhileDown(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 3})
	n := c.Node(1)
	for number := 250; number < 255; number++ {
		c.put(t, numbered(number), peer(number))
	}
	c.awaitWays(t, n)
	before := ours(t, n)

	t.Run("peers", func(t *testing.T) {
		unharmed(t, pods, func() {
			c.kill(t, n)
			c.delete(t, numbered(250)) // left
			heir := peer(249)
			c.put(t, numbered(251), heir) // its subnet is another node's
			moved := peer(252)
			moved.PublicIP, moved.PublicIPv6 = heirAddr(152)
			c.put(t, numbered(252), moved)
			changed := peer(253)
			changed.BackendData, changed.BackendV6Data = &netlabtest.VTEP{VNI: 1, VtepMAC: "02:00:00:00:04:01"}, &netlabtest.VTEP{VNI: 1, VtepMAC: "02:00:00:00:06:01"}
			c.put(t, numbered(253), changed)
			c.delete(t, numbered(254)) // has another subnet
			c.put(t, numbered(248), peer(254))
			c.put(t, numbered(247), peer(247)) // new
			c.restart(t, n)
			c.awaitWays(t, n)
		})
	})

	t.Run("peers, one family only", func(t *testing.T) {
		unharmed(t, pods, func() {
			c.kill(t, n)
			changed := peer(252)
			_, changed.PublicIPv6 = heirAddr(153)
			c.put(t, numbered(252), changed)
			changed = peer(253)
			changed.BackendData = &netlabtest.VTEP{VNI: 1, VtepMAC: "02:00:00:00:04:02"}
			c.put(t, numbered(253), changed)
			c.restart(t, n)
			c.awaitWays(t, n)
		})
	})

	// All of this is on our devices or carries our protocol.
	t.Run("entries of ours", func(t *testing.T) {
		unharmed(t, pods, func() {
			c.kill(t, n)
			netlabtest.Run(t, &n.Host, `
				ip route add 10.244.200.0/24 via 10.244.200.0 dev twill.1 onlink proto 116
				ip -6 route add fd00:244:0:c8::/64 via fd00:244:0:c8:: dev twill-v6.1 onlink proto 116
				ip route add 10.244.201.0/24 via 192.168.77.99 proto 116
				ip route add blackhole 10.244.202.0/24 proto 116
				ip neigh add 10.244.200.0 lladdr 02:00:00:00:00:c8 dev twill.1 nud permanent
				ip neigh add fd00:244:0:c8:: lladdr 02:00:00:00:00:c8 dev twill-v6.1 nud permanent
				bridge fdb add 02:00:00:00:00:c8 dev twill.1 dst 192.168.77.99
				bridge fdb append 00:00:00:00:00:00 dev twill.1 dst 192.168.77.98
				bridge fdb append 00:00:00:00:00:00 dev twill.1 dst 192.168.77.99
				ip address add 10.244.200.0/32 dev twill.1
				ip address add fd00:244:0:c9::/128 dev twill-v6.1`)
			c.restart(t, n)
			c.awaitWays(t, n)
			awaitOurs(t, n, before)
		})
	})

	// None of this is ours: another protocol, or not permanent, or another
	// device.
	t.Run("entries of others", func(t *testing.T) {
		// Written from time to time, it is not there from the beginning.
		netlabtest.Eventually(t, "it has written down what it knows", func() error {
			_, err := os.Stat(n.Path("/var/lib/twill/last-good.json"))
			return err
		})
		unharmed(t, pods, func() {
			c.kill(t, n)
			netlabtest.Run(t, &n.Host, somebodyElses+`
				ip route add 10.244.203.0/24 via 10.244.203.0 dev twill.1 onlink proto static
				ip -6 route add fd00:244:0:cb::/64 via fd00:244:0:cb:: dev twill-v6.1 onlink proto bird
				ip neigh add 10.244.203.0 lladdr 02:00:00:00:00:cb dev twill.1 nud reachable
				bridge fdb add 02:00:00:00:00:cb dev twill.1 dst 192.168.77.97 dynamic`)
			was := everything(t, n)
			c.restart(t, n)
			c.awaitWays(t, n)
			awaitOurs(t, n, before)
			awaitEverything(t, n, was)
		})
	})
}

func heirAddr(number int) (v4 string, v6 *string) {
	p := peer(number)
	return p.PublicIP, p.PublicIPv6
}

// A node that ran for another network, with another VNI, is swept when it
// starts for this one: nothing is left of the former.
func TestEarlierRunForAnotherNetwork(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 2})
	n := c.Node(1)
	const other = "/other/network"
	_, err := c.etcd.Put(t.Context(), other+"/config",
		`{"Network": "10.99.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:99::/48", "Backend": {"Type": "vxlan", "VNI": 77, "Port": 4789}}`)
	require.NoError(t, err)
	for _, n := range c.Nodes {
		c.start(t, n, "--etcd-prefix="+other)
	}
	c.awaitPeer(t, n)
	require.Contains(t, netlabtest.Run(t, &n.Host, "ip -o link"), "twill-v6.77")
	for _, n := range c.Nodes {
		c.stop(t, n)
		c.start(t, n)
	}
	for _, n := range c.Nodes {
		c.awaitWays(t, n)
		netlabtest.Eventually(t, "nothing is left of the other network", func() error {
			left := netlabtest.Run(t, &n.Host, "ip -o link; ip -o address; ip route show table all; ip -6 route show table all; ip neigh; bridge fdb; nft list ruleset")
			for _, of := range []string{"twill.77", "twill-v6.77", "10.99.", "fd00:99:"} {
				if strings.Contains(left, of) {
					return fmt.Errorf("%s is there still:\n%s", of, left)
				}
			}
			return nil
		})
	}
	requirePings(t, netlabtest.AddPod(t, c.Node(1), "pod"), netlabtest.AddPod(t, c.Node(2), "pod"))
}
