//go:build cluster

package suite

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/overlay/netlab/kube"
)

// A node whose daemon does not answer is Ready as long as its pods have their
// network (TestUpgrade sees it, too), and not when they lose it.
func TestNodeIsNotReadyWithoutDevices(t *testing.T) {
	n := cluster.Node(2)
	// The kubelet restarts a container that is not alive, after a minute.
	t.Cleanup(func() { _, _ = n.Exec(context.Background(), "pkill", "-CONT", "-x", "twilld") })
	_, err := n.Exec(t.Context(), "pkill", "-STOP", "-x", "twilld")
	require.NoError(t, err)
	eventually(t, "the Pod of the daemon is not ready", func(ctx context.Context) error {
		if err := kube.ReadyPod(daemonOf(t, n)); err == nil {
			return fmt.Errorf("it is")
		}
		return nil
	})
	node, err := cluster.GetNode(t.Context(), n.Name)
	require.NoError(t, err)
	require.NoError(t, kube.ReadyNode(node))

	eventually(t, n.Name+" is NotReady", func(ctx context.Context) error {
		// Again and again, lest a busy kubelet sees no more than the daemon that it
		// has started itself meanwhile.
		_, err := n.Exec(ctx, "sh", "-c", `pkill -STOP -x twilld; for d in /sys/class/net/twill*; do ip link delete "${d##*/}"; done; true`)
		if err != nil {
			return err
		}
		node, err := cluster.GetNode(ctx, n.Name)
		if err != nil {
			return err
		}
		if err := kube.ReadyNode(node); err == nil || !strings.Contains(err.Error(), "no VXLAN device") {
			return fmt.Errorf("it says: %w", err)
		}
		return nil
	})
	_, err = n.Exec(t.Context(), "pkill", "-CONT", "-x", "twilld")
	require.NoError(t, err)
	ready(t)
}

// What an operator must know is on the Node.
func TestEvents(t *testing.T) {
	n := cluster.Nodes[0] // a Node that was made anew has no Events of before
	other := "/etc/cni/net.d/00-other.conflist"
	t.Cleanup(func() { require.NoError(t, os.Remove(n.Path(other))) })
	// As if somebody had installed another CNI plugin besides.
	require.NoError(t, os.WriteFile(n.Path(other), []byte(`{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}]}`), 0o644))
	t.Run("another CNI config", func(t *testing.T) {
		described(t, n, "Warning", "twilld", "00-other.conflist")
	})
	t.Run("ready", func(t *testing.T) {
		described(t, n, "Normal", "TwillReady", "twilld")
	})
	node, err := cluster.GetNode(t.Context(), n.Name)
	require.NoError(t, err)
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			require.Equal(t, corev1.ConditionFalse, c.Status)
		}
	}
}

// described waits until kubectl describe shows all the words in a line of the
// Node's Events.
func described(t *testing.T, n *kube.Node, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("kubectl describe node %s shows %q", n.Name, words), func(ctx context.Context) error {
		out, err := cluster.Kubectl(ctx, "describe", "node", n.Name)
		if err != nil {
			return err
		}
		_, events, _ := strings.Cut(out, "\nEvents:")
	lines:
		for line := range strings.Lines(events) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			return nil
		}
		return fmt.Errorf("it has:%s", events)
	})
}
