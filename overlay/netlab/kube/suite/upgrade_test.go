//go:build cluster

package suite

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/overlay/netlab/kube"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// The daemon is replaced on node after node: the kernel carries the packets.
func TestRollingRestart(t *testing.T) {
	pods := web(t, begin(t), "web")
	was := unmoved(t)
	netlabtest.Unharmed(t, "a rolling restart of the DaemonSet", pairs(hosts(t, pods)), func() {
		kubectl(t, "rollout", "restart", "daemonset/twilld", "--namespace=kube-twill")
		rolledOut(t)
	})
	was.check(t)
}

// Another version, and back.
func TestUpgrade(t *testing.T) {
	if testing.Short() {
		t.Skip("it is two rolling restarts, and the building of another version")
	}
	next, err := build(within(t), "lab-next")
	require.NoError(t, err)
	for _, n := range cluster.Nodes {
		require.NoError(t, n.ImportImage(within(t), next.Image))
	}
	pods := web(t, begin(t), "web")
	was := unmoved(t)
	netlabtest.Unharmed(t, "an upgrade, and back", pairs(hosts(t, pods)), func() {
		require.NoError(t, cluster.ApplyFile(within(t), next.Manifest))
		rolledOut(t)
		versions(t, "lab-next")
		require.NoError(t, cluster.ApplyFile(within(t), twill.Manifest))
		rolledOut(t)
		versions(t, "lab")
	})
	was.check(t)
}

func rolledOut(t *testing.T) {
	t.Helper()
	kubectl(t, "rollout", "status", "daemonset/twilld", "--namespace=kube-twill", soEnough)
}

// versions requires that the daemon of each node is of a version.
func versions(t *testing.T, want string) {
	t.Helper()
	for _, p := range await(t, "kube-twill", daemonSelector, len(cluster.Nodes)) {
		out, err := cluster.Exec(within(t), "kube-twill/"+p.Name, "twilld", "--version")
		require.NoError(t, err)
		require.Equal(t, "twilld "+want+"\n", out, "on %s", p.Spec.NodeName)
	}
}

// still is what must not change while Twill is replaced: pods and subnets, since
// when the nodes are Ready, and the file by which they are.
type still struct {
	state     []string
	ready     []string
	conflists []fs.FileInfo
}

func unmoved(t *testing.T) still {
	t.Helper()
	s := still{state: state(t)}
	for _, n := range cluster.Nodes {
		node, err := cluster.GetNode(t.Context(), n.Name)
		require.NoError(t, err)
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady || c.Type == corev1.NodeNetworkUnavailable {
				s.ready = append(s.ready, fmt.Sprintf("%s %s=%s since %s", n.Name, c.Type, c.Status, c.LastTransitionTime))
			}
		}
		info, err := os.Stat(n.Path(conflist))
		require.NoError(t, err)
		s.conflists = append(s.conflists, info)
	}
	return s
}

// conflist is the file that makes a node Ready.
const conflist = "/etc/cni/net.d/10-twill.conflist"

func (s still) check(t *testing.T) {
	t.Helper()
	now := unmoved(t)
	require.Equal(t, s.state, now.state, "subnets, and pods with their restarts")
	require.Equal(t, s.ready, now.ready, "no node was NotReady meanwhile")
	for i, info := range s.conflists {
		require.True(t, os.SameFile(info, now.conflists[i]) && info.ModTime().Equal(now.conflists[i].ModTime()), "the CNI config of node %d has stayed", i+1)
	}
}

// state is what must not change when only Twill does: the nodes' pod networks,
// and the other pods with how often they were restarted.
func state(t *testing.T) (lines []string) {
	t.Helper()
	for _, n := range cluster.Nodes {
		node, err := cluster.GetNode(t.Context(), n.Name)
		require.NoError(t, err)
		lines = append(lines, fmt.Sprint(n.Name, node.Spec.PodCIDRs))
		env, err := os.ReadFile(n.Path("/run/twill/subnet.env"))
		require.NoError(t, err)
		lines = append(lines, string(env))
	}
	var all corev1.PodList
	require.NoError(t, cluster.Get(t.Context(), "/api/v1/pods", &all))
	for _, p := range all.Items {
		if p.Namespace == "kube-twill" {
			continue
		}
		for _, s := range p.Status.ContainerStatuses {
			lines = append(lines, fmt.Sprint(p.Namespace, p.Name, p.Status.PodIPs, s.RestartCount))
		}
	}
	return lines
}

// daemonOf returns the Pod of the daemon on a node.
func daemonOf(t *testing.T, n *kube.Node) (daemon corev1.Pod) {
	t.Helper()
	eventually(t, n.Name+" has a daemon", func(ctx context.Context) error {
		pods, err := cluster.Pods(ctx, "kube-twill", daemonSelector)
		if err != nil {
			return err
		}
		for _, p := range pods {
			if p.Spec.NodeName == n.Name {
				daemon = p
				return nil
			}
		}
		return fmt.Errorf("it is not among %d Pods", len(pods))
	})
	return daemon
}
