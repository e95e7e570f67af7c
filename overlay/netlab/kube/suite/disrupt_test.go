//go:build cluster

package suite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/overlay/netlab/kube"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// ready waits until the nodes are Ready and Twill's pods are.
func ready(t *testing.T) {
	t.Helper()
	require.NoError(t, cluster.WaitReady(within(t)))
	await(t, "kube-twill", daemonSelector, len(cluster.Nodes))
}

// Kubelet and containerd come and go.
func TestKubeletAndContainerdRestart(t *testing.T) {
	pods := web(t, begin(t), "web")
	n := cluster.Node(2)
	before := state(t)
	netlabtest.Unharmed(t, "kubelet and containerd restarted", pairs(hosts(t, pods)), func() {
		require.NoError(t, n.Kubelet.Kill(t.Context()))
		require.NoError(t, n.Containerd.Kill(t.Context()))
		require.NoError(t, n.Containerd.Restart())
		require.NoError(t, n.WaitContainerd(within(t)))
		require.NoError(t, n.Kubelet.Restart())
		ready(t)
	})
	require.Equal(t, before, state(t))
}

// A power cut: the node's pods come back with new sandboxes, and the addresses
// of the old ones are free again.
func TestNodeReboot(t *testing.T) {
	namespace := begin(t)
	web(t, namespace, "web")
	n := cluster.Node(2)
	require.NoError(t, n.Reboot(within(t)))
	ready(t)
	awaitReach(t, namespace, "app=web")
	noLeaks(t, n)
}

// awaitReach waits until all pods of a selector, one on each node, reach each
// other.
func awaitReach(t *testing.T, namespace, selector string) {
	t.Helper()
	eventually(t, "pods reach each other", func(ctx context.Context) error {
		pods, err := cluster.WaitPods(ctx, namespace, selector, len(cluster.Nodes))
		if err != nil {
			return err
		}
		for _, a := range pods {
			for _, b := range pods {
				if err := reach(ctx, a, b); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func reach(ctx context.Context, a, b corev1.Pod) error {
	from, err := cluster.Host(a)
	if err != nil {
		return err
	}
	to, err := cluster.Host(b)
	if err != nil {
		return err
	}
	for _, f := range cluster.Stack().Families() {
		if _, err := from.Ping(ctx, to.Addrs[f], 0); err != nil {
			return err
		}
	}
	return nil
}

// A Node is deleted and comes back with other pod networks: pods that are made
// from then on are of those.
func TestNodeReadded(t *testing.T) {
	namespace := begin(t)
	web(t, namespace, "web")
	n := cluster.Nodes[len(cluster.Nodes)-1]
	old, err := cluster.WaitPodNetworks(within(t), n.Name)
	require.NoError(t, err)
	kubectl(t, "delete", "node", n.Name)
	// A kubelet registers its Node when it starts.
	require.NoError(t, n.Kubelet.Kill(t.Context()))
	require.NoError(t, n.Kubelet.Restart())
	now, err := cluster.WaitPodNetworks(within(t), n.Name)
	require.NoError(t, err)
	require.NotEqual(t, old, now, "kube-controller-manager gives the next ones")
	ready(t)
	eventually(t, "subnet.env has the new subnets", func(context.Context) error {
		env, err := os.ReadFile(n.Path("/run/twill/subnet.env"))
		if err != nil {
			return err
		}
		for _, f := range cluster.Stack().Families() {
			if first := now[f].Addr().Next().String(); !strings.Contains(string(env), first+"/") {
				return fmt.Errorf("%s is not in:\n%s", first, env)
			}
		}
		return nil
	})
	renew(t, n)
	awaitReach(t, namespace, "app=web")
	for _, p := range await(t, namespace, "app=web", len(cluster.Nodes)) {
		if p.Spec.NodeName == n.Name {
			for f, a := range host(t, p).Addrs {
				require.True(t, !a.IsValid() || now[f].Contains(a), "%s is in %s", a, now[f])
			}
		}
	}
}

// renew deletes the pods of a node: nobody evicts them when their Node was away
// for less than 40 s, and they keep addresses that are no longer the node's.
func renew(t *testing.T, n *kube.Node) {
	t.Helper()
	var all corev1.PodList
	require.NoError(t, cluster.Get(t.Context(), "/api/v1/pods?fieldSelector=spec.nodeName="+n.Name, &all))
	for _, p := range all.Items {
		if !p.Spec.HostNetwork {
			kubectl(t, "delete", "pod", p.Name, "--namespace="+p.Namespace, "--ignore-not-found")
		}
	}
	await(t, "kube-system", "k8s-app=kube-dns", 1)
}

// Many pods come and go: nothing is left of them.
func TestChurn(t *testing.T) {
	namespace := begin(t)
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	const replicas = 36
	apply(t, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: many, namespace: %[1]s}
spec:
  replicas: 0
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: pause, image: "registry.k8s.io/pause:3.10.1", imagePullPolicy: Never}]
`, namespace))
	for range rounds {
		kubectl(t, "scale", "deployment/many", "--namespace="+namespace, fmt.Sprintf("--replicas=%d", replicas))
		await(t, namespace, "app=many", replicas)
		kubectl(t, "scale", "deployment/many", "--namespace="+namespace, "--replicas=0")
		eventually(t, "all pods are gone", func(ctx context.Context) error {
			var list corev1.PodList
			if err := cluster.Get(ctx, "/api/v1/namespaces/"+namespace+"/pods", &list); err != nil {
				return err
			}
			if len(list.Items) > 0 {
				return fmt.Errorf("%d are left", len(list.Items))
			}
			return nil
		})
	}
	for _, n := range cluster.Nodes {
		noLeaks(t, n)
	}
}

// noLeaks waits until the addresses, the ports of the bridge and the CNI results
// on a node are those of its pods.
func noLeaks(t *testing.T, n *kube.Node) {
	t.Helper()
	eventually(t, n.Name+" has nothing left of pods that have gone", func(ctx context.Context) error {
		var all corev1.PodList
		if err := cluster.Get(ctx, "/api/v1/pods?fieldSelector=spec.nodeName="+n.Name, &all); err != nil {
			return err
		}
		pods := 0
		want := map[string]bool{}
		for _, p := range all.Items {
			if p.Spec.HostNetwork {
				continue
			}
			pods++
			for _, ip := range p.Status.PodIPs {
				want[ip.IP] = true
			}
		}
		reserved, err := filepath.Glob(filepath.Join(cluster.Dir(), n.Name, "var-lib-cni/networks/cbr0/[0-9a-f]*[.:]*"))
		if err != nil {
			return err
		}
		for _, file := range reserved {
			if ip := filepath.Base(file); !want[ip] {
				return fmt.Errorf("%s is reserved, and no pod has it", ip)
			}
		}
		if len(reserved) != len(want) {
			return fmt.Errorf("%d addresses are reserved, and %d pods have %d", len(reserved), pods, len(want))
		}
		ports, err := n.Exec(ctx, "sh", "-c", "ip -o link show type veth master cni0 | wc -l; ls /var/lib/cni/results | grep -c eth0$ || true") // grep that counts none fails
		if err != nil {
			return err
		}
		counts := strings.Fields(ports)
		if counts[0] != fmt.Sprint(pods) || counts[1] != counts[0] {
			return fmt.Errorf("%s ports of the bridge and %s CNI results for %d pods", counts[0], counts[1], pods)
		}
		return nil
	})
}
