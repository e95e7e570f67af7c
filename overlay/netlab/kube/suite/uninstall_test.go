//go:build cluster

package suite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/overlay/netlab/kube"
)

const uninstallSelector = "app.kubernetes.io/component=uninstall"

// Twill goes from nodes that live on, and leaves nothing; while a pod is
// attached it stays there. Then it is installed again, at first so that no node
// can become ready.
func TestUninstallAndInstall(t *testing.T) {
	namespace := begin(t)
	t.Cleanup(func() { // whatever has failed: the other tests need it
		_, _ = cluster.Kubectl(context.Background(), "delete", "daemonset", "twill-uninstall", "--namespace=kube-twill", "--ignore-not-found")
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, cluster.ApplyFile(ctx, twill.Manifest))
		_, err := cluster.Kubectl(ctx, "scale", "deployment/coredns", "--namespace=kube-system", "--replicas=1")
		require.NoError(t, err)
		require.NoError(t, working(ctx))
	})
	kubectl(t, "scale", "deployment/coredns", "--namespace=kube-system", "--replicas=0")
	last := cluster.Nodes[len(cluster.Nodes)-1]
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: attached, namespace: %s}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers: [{name: pause, image: "registry.k8s.io/pause:3.10.1", imagePullPolicy: Never}]
`, namespace, last.Name))
	kubectl(t, "wait", "pod/attached", "--namespace="+namespace, "--for=condition=Ready", soEnough)
	kubectl(t, "delete", "daemonset/twilld", "--namespace=kube-twill")
	kubectl(t, "delete", "pod", "--namespace=kube-system", "--selector=k8s-app=kube-dns", "--wait=true", "--ignore-not-found")
	require.NoError(t, cluster.ApplyFile(within(t), twill.Uninstall))

	eventually(t, "Twill waits on "+last.Name+" and says for what", func(ctx context.Context) error {
		p, err := uninstaller(ctx, last)
		if err != nil {
			return err
		}
		out, err := cluster.Kubectl(ctx, "logs", p.Name, "--namespace=kube-twill", "--container=remove")
		if err == nil && !strings.Contains(out, "pods are still attached") {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	for _, n := range cluster.Nodes[:len(cluster.Nodes)-1] {
		uninstalled(t, n)
	}
	kubectl(t, "delete", "pod/attached", "--namespace="+namespace) // by the plugins, which are still there
	uninstalled(t, last)

	kubectl(t, "delete", "--filename="+twill.Uninstall)
	kinds := strings.Join(strings.Fields(kubectl(t, "api-resources", "--verbs=list", "--output=name")), ",")
	require.Empty(t, kubectl(t, "get", kinds, "--all-namespaces", "--selector=app.kubernetes.io/part-of=twill", "--output=name", "--ignore-not-found"))

	installTooEarly(t)
	require.NoError(t, cluster.ApplyFile(within(t), twill.Manifest))
	ready(t)
}

// uninstaller returns the Pod that takes Twill off a node.
func uninstaller(ctx context.Context, n *kube.Node) (corev1.Pod, error) {
	pods, err := cluster.Pods(ctx, "kube-twill", uninstallSelector)
	if err != nil {
		return corev1.Pod{}, err
	}
	for _, p := range pods {
		if p.Spec.NodeName == n.Name {
			return p, nil
		}
	}
	return corev1.Pod{}, fmt.Errorf("%s has no Pod %s", n.Name, uninstallSelector)
}

// uninstalled waits until the Pod on a node says that nothing is left there, and
// looks whether that is so.
func uninstalled(t *testing.T, n *kube.Node) {
	t.Helper()
	eventually(t, "Twill is off "+n.Name, func(ctx context.Context) error {
		p, err := uninstaller(ctx, n)
		if err != nil {
			return err
		}
		return kube.ReadyPod(p)
	})
	left, err := n.Exec(t.Context(), "sh", "-c", `
ip -o link | grep -E 'twill|cni0|veth'
nft list ruleset | grep -i twill
ip route show table all proto 116
ip -6 route show table all proto 116
find /opt/cni/bin /etc/cni/net.d /var/lib/twill /run/twill /var/lib/cni -mindepth 1 2>/dev/null
true`)
	require.NoError(t, err)
	require.Empty(t, left, "on %s", n.Name)
	node, err := cluster.GetNode(t.Context(), n.Name)
	require.NoError(t, err)
	for name := range node.Annotations {
		require.NotContains(t, name, "flannel.alpha.coreos.com/", "on %s", n.Name)
	}
	for _, c := range node.Status.Conditions {
		require.NotEqual(t, corev1.NodeNetworkUnavailable, c.Type, "on %s", n.Name)
	}
	_, err = cluster.WaitNoCNI(within(t), n.Name)
	require.NoError(t, err)
}

// otherNetworks are what podCIDRs are not in. Kustomize calls a ConfigMap by what
// is in it, the chart writes its sum on the Pods: either has them replaced.
var otherNetworks = []struct {
	expr *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`10\.244\.0\.0/16`), "10.99.0.0/16"},
	{regexp.MustCompile(`fd00:244::/56`), "fd00:99::/56"},
	{regexp.MustCompile(`\btwilld-[0-9a-z]{10}\b`), "twilld-elsewhere"},
	{regexp.MustCompile(`(checksum/config: )[0-9a-f]{64}`), "${1}elsewhere"},
}

// installTooEarly installs Twill with networks that the nodes' podCIDRs are not
// in: the daemons run, and nobody calls a node Ready.
func installTooEarly(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(twill.Manifest)
	require.NoError(t, err)
	wrong := string(text)
	for _, o := range otherNetworks {
		wrong = o.expr.ReplaceAllString(wrong, o.with)
	}
	apply(t, wrong)
	n := cluster.Node(1)
	described(t, n, "Warning", "twilld", "--cluster-cidr")
	for _, n := range cluster.Nodes {
		node, err := cluster.GetNode(t.Context(), n.Name)
		require.NoError(t, err)
		require.ErrorContains(t, kube.ReadyNode(node), "cni plugin not initialized")
		files, err := filepath.Glob(n.Path("/etc/cni/net.d/*"))
		require.NoError(t, err)
		require.Empty(t, files, "the CNI config comes when the node is ready")
	}
}
