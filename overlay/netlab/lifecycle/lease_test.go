package lifecycle

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

// A node keeps its subnet whatever becomes of it, and its peers follow without
// a restart.
func TestLeaseIsKept(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 2})
	n, watching := c.Node(2), c.Node(1)
	was := c.record(t, n.Name)
	kept := func() {
		t.Helper()
		now := c.record(t, n.Name)
		require.Equal(t, was.Subnets, now.Subnets)
		require.Equal(t, was.BackendData, now.BackendData, "the MAC is the name's")
		require.Equal(t, was.BackendV6Data, now.BackendV6Data)
		c.awaitWays(t, watching)
		c.awaitWays(t, n)
	}

	t.Run("over a restart", func(t *testing.T) {
		c.stop(t, n)
		c.restart(t, n)
		kept()
		require.Equal(t, was, c.record(t, n.Name))
		requirePings(t, pods...)
	})

	t.Run("over a reboot", func(t *testing.T) {
		require.NoError(t, n.Reboot(t.Context()))
		c.start(t, n)
		kept()
		require.Equal(t, was, c.record(t, n.Name))
		pods[1] = netlabtest.AddPod(t, n, "after")
		requirePings(t, pods...)
	})

	t.Run("over a reinstallation", func(t *testing.T) {
		require.NoError(t, n.Reinstall(t.Context()))
		c.start(t, n)
		kept()
		now := c.record(t, n.Name)
		require.NotEqual(t, was.MachineID, now.MachineID, "it is another installation")
		require.Equal(t, was.PublicIP, now.PublicIP)
		pods[1] = netlabtest.AddPod(t, n, "pod")
		requirePings(t, pods...)
	})

	// The daemon of this node and that of the other follow without a restart,
	// the pods keep their addresses.
	for _, tt := range []struct{ name, from, to, script string }{
		{"over an address added and another deleted", "12", "112", `
			sysctl -qw net.ipv4.conf.all.promote_secondaries=1
			ip address add 192.168.77.$to/24 dev eth0; ip address add fd77::$to/64 dev eth0 nodad
			ip address del 192.168.77.$from/24 dev eth0; ip address del fd77::$from/64 dev eth0`},
		{"over an address deleted and another added", "112", "113", `
			ip address del 192.168.77.$from/24 dev eth0; ip address del fd77::$from/64 dev eth0
			ip address add 192.168.77.$to/24 dev eth0; ip address add fd77::$to/64 dev eth0 nodad`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := strings.NewReplacer("local 192.168.77."+tt.from+" ", "local 192.168.77."+tt.to+" ",
				"local fd77::"+tt.from+" ", "local fd77::"+tt.to+" ").Replace(ours(t, n))
			netlabtest.Run(t, &n.Host, fmt.Sprintf("from=%s; to=%s; %s; ip route replace default via 192.168.77.1", tt.from, tt.to, tt.script))
			netlabtest.Eventually(t, "the new addresses are announced", func() error {
				r := c.record(t, n.Name)
				return equalLines([]string{"192.168.77." + tt.to, "fd77::" + tt.to}, []string{r.Announced(subnet.IPv4), r.Announced(subnet.IPv6)})
			})
			kept()
			awaitOurs(t, n, want)
			awaitStatus(t, n, "ready", func(s overlay.Status) bool { return s.Ready })
			requirePings(t, pods...)
		})
	}
}

// What an operator or another node does to our key.
func TestLeaseKeyIsTouched(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 3})
	n := c.Node(2)

	t.Run("deleted", func(t *testing.T) {
		was := c.record(t, n.Name)
		unharmedBetween(t, pods[0], pods[2], func() {
			c.delete(t, was.Key)
			netlabtest.Eventually(t, "the key is there again", func() error {
				return equalLines([]string{n.Name}, c.holders(t, was.Key))
			})
		})
		now := c.record(t, n.Name)
		require.Greater(t, now.Created, was.Created)
		now.Created = was.Created
		require.Equal(t, was, now)
		require.NotZero(t, now.LeaseID)
		for _, n := range c.Nodes {
			c.awaitWays(t, n)
		}
		requirePings(t, pods...)
		awaitStatus(t, n, "ready", func(s overlay.Status) bool { return s.Ready })
	})

	t.Run("taken by another node", func(t *testing.T) {
		was := c.record(t, n.Name)
		thief := peer(99)
		c.put(t, was.Key, thief)
		s := awaitStatus(t, n, "another subnet", func(s overlay.Status) bool {
			return s.Ready && s.Lease.Subnets[0] != was.Subnets[subnet.IPv4].String()
		})
		require.NotEqual(t, was.Subnets[subnet.IPv6].String(), s.Lease.Subnets[1])
		require.NotZero(t, logged(t, c.daemon(n), "level=warning"), "loudly")
		require.Equal(t, 1, logged(t, c.daemon(n), "pods of the old subnet are cut off"))
		require.NotEqual(t, was.Subnets, c.record(t, n.Name).Subnets)
		require.Equal(t, []string{thief.NodeName}, c.holders(t, was.Key), "the thief's is not touched")
		for _, n := range []*netlab.Node{c.Node(1), c.Node(3)} {
			c.awaitWays(t, n)
		}
		env := statEnv(t, n).content
		for _, p := range s.Lease.Subnets {
			gateway := envfile.Gateway(netip.MustParsePrefix(p)).String()
			require.Contains(t, env, "SUBNET="+gateway+"\n")
		}

		// The bridge has the new gateway, and not the old one, which would
		// keep out the route to the thief. The pod that is left is named, until
		// it is made anew.
		awaitStatus(t, n, "the pod is named", func(s overlay.Status) bool {
			return len(s.Failing) == 0 && len(s.Stranded) == 1 && strings.Contains(s.Stranded[0], pods[1].Addrs[subnet.IPv4].String())
		})
		c.awaitWays(t, n)
		require.NoError(t, n.DelPod(t.Context(), pods[1]))
		pods[1] = netlabtest.AddPod(t, n, "anew")
		awaitStatus(t, n, "none is left", func(s overlay.Status) bool { return len(s.Stranded) == 0 })
		requirePings(t, pods...)
		c.delete(t, was.Key)
		c.awaitWays(t, n)
	})
}

// holders returns the node names under a key: one or none.
func (c *cluster) holders(t *testing.T, key string) (nodes []string) {
	t.Helper()
	for _, r := range c.records(t) {
		if r.Key == key {
			nodes = append(nodes, r.NodeName)
		}
	}
	return nodes
}

func unharmedBetween(t *testing.T, a, b *netlab.Pod, do func()) {
	t.Helper()
	unharmed(t, []*netlab.Pod{a, b}, do)
}

// Two machines with one node name: the first goes on unharmed, the second
// names both and stays away; once the name is free, it comes.
func TestNodeNameTwice(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 3})
	first, second := c.Node(2), c.Node(3)
	was, third := c.record(t, first.Name), c.record(t, second.Name)
	c.stop(t, second)
	unharmedBetween(t, pods[0], pods[1], func() {
		c.launch(t, second, "--node-name="+first.Name)
		s := awaitStatus(t, second, "a duplicate", func(s overlay.Status) bool {
			return len(s.Problems) > 0 && strings.Contains(s.Text(), "belongs to two machines")
		})
		require.False(t, s.Ready)
		text := s.Text()
		for _, want := range []string{was.MachineID, third.MachineID, was.PublicIP, third.PublicIP, `"node2"`} {
			require.Contains(t, text, want)
		}
		awaitLogged(t, c.daemon(second), "belongs to two machines")
	})
	require.Equal(t, was, c.record(t, first.Name))
	s := status(t, first)
	require.True(t, s.Ready)
	require.Zero(t, s.Repairs.Total)
	require.True(t, c.daemon(second).Running(), "it waits")

	c.stop(t, first)
	c.delete(t, was.Key)
	c.awaitReady(t, second)
	now := c.record(t, first.Name)
	require.Equal(t, third.MachineID, now.MachineID)
}

// A lease lives as long as it is renewed, and a reservation for ever.
func TestLeaseEnds(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 3})
	stays, killed, reserved := c.Node(1), c.Node(2), c.Node(3)
	c.start(t, stays)
	pods := append([]*netlab.Pod{netlabtest.AddPod(t, stays, "pod")}, c.deploy(t, c.Nodes[1:], "--lease-ttl=15s")...)
	was := c.record(t, killed.Name)
	kept := c.record(t, reserved.Name)
	netlabtest.Run(t, c.Lan, fmt.Sprintf("twill reserve --etcd-endpoints=%s --node=%s %s %s",
		c.EtcdEndpoints()[0], reserved.Name, kept.Subnets[subnet.IPv4], kept.Subnets[subnet.IPv6]))
	awaitStatus(t, reserved, "a reservation", func(s overlay.Status) bool { return s.Lease.Expires == nil })

	unharmedBetween(t, pods[0], pods[2], func() {
		c.kill(t, killed)
		c.kill(t, reserved)
		netlabtest.Eventually(t, "the lease ends", func() error { return equalLines(nil, c.holders(t, was.Key)) })
		c.awaitWays(t, stays)
	})
	_, err := pods[0].Exec(t.Context(), "ping", "-c1", "-W1", pods[1].Addrs[subnet.IPv4].String())
	require.Error(t, err, "the way to the dead node is gone")
	require.Equal(t, []string{reserved.Name}, c.holders(t, kept.Key))
	require.Len(t, status(t, stays).Peers, 1)

	// The node comes back to the same subnet: it is free, and subnet.env
	// tells of it.
	c.restart(t, killed)
	require.Equal(t, was.Subnets, c.record(t, killed.Name).Subnets)
	c.restart(t, reserved)
	require.Equal(t, kept.Subnets, c.record(t, reserved.Name).Subnets)
	require.Zero(t, c.record(t, reserved.Name).LeaseID)
	c.awaitWays(t, stays)
	requirePings(t, pods...)
}

// --release-on-exit takes the node out at once; its own data path stays.
func TestReleaseOnExit(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 2})
	c.start(t, c.Node(1))
	c.start(t, c.Node(2), "--release-on-exit")
	c.awaitWays(t, c.Node(1))
	was := c.record(t, "node2")
	way := ways(t, c.Node(2))

	c.kill(t, c.Node(2))
	c.restart(t, c.Node(2))
	require.Equal(t, was, c.record(t, "node2"), "a kill releases nothing")

	c.stop(t, c.Node(2))
	require.Empty(t, c.holders(t, was.Key))
	c.awaitWays(t, c.Node(1))
	require.Empty(t, ways(t, c.Node(1)))
	require.Equal(t, way, ways(t, c.Node(2)))
	leases, err := c.etcd.Leases(t.Context())
	require.NoError(t, err)
	require.Len(t, leases.Leases, 1, "node1's: none is left behind")

	c.restart(t, c.Node(2))
	require.Equal(t, was.Subnets, c.record(t, "node2").Subnets)
	c.awaitWays(t, c.Node(1))
}
