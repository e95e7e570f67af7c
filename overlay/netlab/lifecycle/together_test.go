package lifecycle

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// Fifty nodes that learn of the network at the same moment, in a network with
// two subnets to spare, all get one of their own, at once and without a
// restart, and all reach all.
func TestFiftyNodesAtOnce(t *testing.T) {
	t.Parallel()
	const nodes = 50
	for _, tt := range []struct {
		name     string
		netConf  string
		families int
	}{
		{"IPv4", `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.52.0", "Backend": {"Type": "vxlan"}}`, 1},
		{"dual stack", `{"EnableIPv6": true, "Network": "10.244.0.0/16", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.52.0",
			"IPv6Network": "fd00:244::/48", "IPv6SubnetMin": "fd00:244:0:1::", "IPv6SubnetMax": "fd00:244:0:34::", "Backend": {"Type": "vxlan"}}`, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// The neighbour tables are one for all namespaces (gc_thresh3, 1024
			// entries): an IPv6 underlay of so many nodes would fill theirs.
			c := newCluster(t, netlab.Options{Nodes: nodes, Underlay: netlab.IPv4Only})
			_, err := c.etcd.Delete(t.Context(), netlab.ConfigKey)
			require.NoError(t, err)
			for _, n := range c.Nodes {
				c.launch(t, n)
			}
			for _, n := range c.Nodes {
				awaitLogged(t, c.daemon(n), "There is no network config in etcd")
			}
			_, err = c.etcd.Put(t.Context(), netlab.ConfigKey, tt.netConf)
			require.NoError(t, err)
			for _, n := range c.Nodes {
				c.awaitReady(t, n)
			}
			for _, n := range c.Nodes {
				c.awaitWays(t, n)
				require.Zero(t, logged(t, c.daemon(n), "level=error"))
				require.Zero(t, logged(t, c.daemon(n), "task broke"))
				require.Zero(t, logged(t, c.daemon(n), "leased or renewed"))
			}
			requireApart(t, c.records(t), nodes, tt.families)
		})
	}
}

// requireApart fails unless so many nodes have one lease each, and no two have
// a subnet in common.
func requireApart(t *testing.T, all []record, nodes, families int) {
	t.Helper()
	holders, subnets := map[string]bool{}, map[netip.Prefix]string{}
	for _, r := range all {
		require.False(t, holders[r.NodeName], "%s has two leases", r.NodeName)
		holders[r.NodeName] = true
		for _, f := range subnet.Families[:families] {
			p := r.Subnets[f]
			require.True(t, p.IsValid(), r.Key)
			require.Empty(t, subnets[p], fmt.Sprintf("of %s and %s", p, r.NodeName))
			subnets[p] = r.NodeName
		}
	}
	require.Len(t, holders, nodes)
	require.Len(t, subnets, nodes*families)
}
