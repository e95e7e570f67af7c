//go:build cluster

package suite

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/kube"
	"github.com/twill-net/twill/subnet"
)

// The cluster had no other network before, and needs none.
func TestNodesBecomeReadyByTwill(t *testing.T) {
	for _, n := range before {
		require.ErrorContains(t, kube.ReadyNode(n), "cni plugin not initialized")
	}
	for _, n := range cluster.Nodes {
		node, err := cluster.GetNode(t.Context(), n.Name)
		require.NoError(t, err)
		require.NoError(t, kube.ReadyNode(node))
		unavailable := slices.IndexFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeNetworkUnavailable })
		require.GreaterOrEqual(t, unavailable, 0, "the condition NetworkUnavailable is there")
		require.Equal(t, corev1.ConditionFalse, node.Status.Conditions[unavailable].Status)
		files, err := n.Exec(t.Context(), "ls", "/etc/cni/net.d")
		require.NoError(t, err)
		require.Equal(t, "10-twill.conflist\n", files)
	}
}

func TestPodsReachEachOther(t *testing.T) {
	namespace := begin(t)
	pods := hosts(t, append(web(t, namespace, "one"), web(t, namespace, "two")...))
	families(t, func(t *testing.T, f subnet.Family) {
		for _, from := range pods {
			mtu, err := from.MTU(t.Context(), "eth0")
			require.NoError(t, err)
			for _, to := range pods {
				if from == to {
					continue
				}
				eventually(t, from.Name+" reaches "+to.Name, func(ctx context.Context) error {
					_, err := from.Ping(ctx, to.Addrs[f], 0)
					return err
				})
				eventually(t, fmt.Sprintf("a packet of %d bytes comes from %s to %s", mtu, from.Name, to.Name), func(ctx context.Context) error {
					_, err := from.Ping(ctx, to.Addrs[f], mtu)
					return err
				})
				require.Equal(t, from.Addrs[f], clientSeen(t, from, to.Addrs[f], 8080), "the client that %s sees", to.Name)
			}
		}
	})
}

// Probes come from the node; what runs on it reaches pods everywhere.
func TestNodesReachPods(t *testing.T) {
	pods := hosts(t, web(t, begin(t), "web"))
	families(t, func(t *testing.T, f subnet.Family) {
		for _, n := range cluster.Nodes {
			for _, to := range pods {
				require.NotEmpty(t, fetched(t, &n.Host, to.Addrs[f], 8080, "hostname"))
			}
		}
	})
}

// What leaves the cluster has the address of its node; what comes from there
// has its own.
func TestMasquerade(t *testing.T) {
	pods := web(t, begin(t), "web")
	outside := cluster.Lab().Outside
	families(t, func(t *testing.T, f subnet.Family) {
		for _, p := range pods {
			ctx := within(t)
			seen, err := netlab.SourceSeen(ctx, host(t, p), outside, outside.Addrs[f])
			require.NoError(t, err)
			require.Equal(t, addrOf(t, p.Spec.NodeName, f), seen, "whom the outside host sees when %s speaks", p.Name)
		}
	})
}

// addrOf returns the address of a node.
func addrOf(t *testing.T, node string, f subnet.Family) netip.Addr {
	t.Helper()
	for _, n := range cluster.Nodes {
		if n.Name == node {
			return n.Addrs[f]
		}
	}
	require.FailNow(t, "no node "+node)
	return netip.Addr{}
}
