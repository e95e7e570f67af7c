package lifecycle

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// The network config is the cluster's: without one nothing happens, a bad one
// is refused by name and the last one stays at work, and one that is deleted
// stays at work as well.
func TestNetworkConfigIsTouched(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 2})
	n := c.Node(1)
	before := ours(t, n)
	unharmed(t, pods, func() {
		for _, tt := range []struct{ conf, reason string }{
			{`{"Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48", "EnableIPv6": true, "Bakend": {"Type": "vxlan"}}`, "Bakend"},
			{`{"Network": "10.99.0.0/16", "IPv6Network": "fd00:244::/48", "EnableIPv6": true, "Backend": {"Type": "vxlan"}}`, "no longer leases this node's subnet"},
			{`{"Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48", "EnableIPv6": true, "Backend": {"Type": "alloc"}}`, "Backend.Type changed from vxlan to alloc"},
			{`no JSON`, "JSON"},
		} {
			_, err := c.etcd.Put(t.Context(), netlab.ConfigKey, tt.conf)
			require.NoError(t, err)
			s := awaitStatus(t, n, "refused", func(s overlay.Status) bool { return strings.Contains(s.Config.Refused, tt.reason) })
			require.True(t, s.Ready)
		}
		_, err := c.etcd.Delete(t.Context(), netlab.ConfigKey)
		require.NoError(t, err)
		awaitLogged(t, c.daemon(n), "the last one stays in force")
		awaitOurs(t, n, before)
		_, err = c.etcd.Put(t.Context(), netlab.ConfigKey, netlab.DefaultNetConf(netlab.DualStack))
		require.NoError(t, err)
		awaitStatus(t, n, "taken", func(s overlay.Status) bool { return s.Config.Refused == "" })
	})
	require.Zero(t, status(t, n).Repairs.Total)
}

// What of the network config can change under running pods does, on every node
// and back again.
func TestNetworkConfigChanges(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 3})
	before := map[*netlab.Node]string{}
	for _, n := range c.Nodes {
		before[n] = ours(t, n)
	}
	_, err := c.etcd.Put(t.Context(), netlab.ConfigKey, `{"Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48", "EnableIPv6": true,
		"Backend": {"Type": "vxlan", "VNI": 5, "Port": 4789, "MTU": 1400}}`)
	require.NoError(t, err)
	for _, n := range c.Nodes {
		awaitStatus(t, n, "another VNI", func(s overlay.Status) bool {
			return s.Ready && s.Config.VNI == 5 && s.Config.Port == 4789 && s.MTU == 1330 && len(s.Peers) == 2 && len(s.Refused) == 0
		})
		links := netlabtest.Run(t, &n.Host, "ip -o -d link show type vxlan")
		require.Contains(t, links, "twill.5:")
		require.Contains(t, links, "mtu 1330")
		require.NotContains(t, links, "twill.1:")
		require.NotContains(t, links, "twill-v6.1:")
		require.Contains(t, statEnv(t, n).content, "FLANNEL_MTU=1330\n")
	}
	requirePings(t, pods...)

	_, err = c.etcd.Put(t.Context(), netlab.ConfigKey, netlab.DefaultNetConf(netlab.DualStack))
	require.NoError(t, err)
	for _, n := range c.Nodes {
		c.awaitWays(t, n)
		awaitOurs(t, n, before[n])
		require.Zero(t, status(t, n).Repairs.Total)
	}
	requirePings(t, pods...)
}
