//go:build cluster

package suite

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// patience is how long a condition may take to come true, and soEnough what
// kubectl is told where it waits itself.
const (
	patience = 6 * time.Minute
	soEnough = "--timeout=5m"
)

// daemonSelector matches Twill's pods.
const daemonSelector = "app.kubernetes.io/component=twilld"

// agnhost is the image of the tests' pods.
const agnhost = "registry.k8s.io/e2e-test-images/agnhost:2.59"

// buildBinaries builds what the lab itself needs of Twill; the cluster has its image.
func buildBinaries(ctx context.Context, root string) (netlab.Binaries, error) {
	dir := filepath.Join(root, ".cache/kube")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "./cmd/twill")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return netlab.Binaries{}, fmt.Errorf("building twill: %w: %s", err, out)
	}
	return netlab.BinariesIn(dir), nil
}

// within is the test's context, with patience, for a step of it. A test that
// fails shows what the cluster is like.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// begin makes a namespace for the test, which goes with it.
func begin(t *testing.T) (namespace string) {
	t.Helper()
	namespace = strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	kubectl(t, "create", "namespace", namespace)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if t.Failed() {
			t.Log(diagnose(ctx))
		}
		_, err := cluster.Kubectl(ctx, "delete", "namespace", namespace, "--wait=true")
		require.NoError(t, err)
	})
	ctx := within(t)
	require.Eventually(t, func() bool {
		return cluster.Get(ctx, "/api/v1/namespaces/"+namespace+"/serviceaccounts/default", nil) == nil
	}, patience, 50*time.Millisecond, "the namespace has its service account")
	return namespace
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := cluster.Kubectl(within(t), args...)
	require.NoError(t, err)
	return out
}

func apply(t *testing.T, documents string) {
	t.Helper()
	require.NoError(t, cluster.Apply(within(t), documents))
}

// web makes a DaemonSet of servers: they tell the client's address at
// /clientip and their own name at /hostname, on port 8080.
func web(t *testing.T, namespace, name string) []corev1.Pod {
	t.Helper()
	apply(t, fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata: {labels: {app: %[2]s}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: %[3]s
        imagePullPolicy: Never
        args: [netexec, --http-port=8080, --udp-port=8081]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
`, namespace, name, agnhost))
	return await(t, namespace, "app="+name, len(cluster.Nodes))
}

// await waits for pods that are ready.
func await(t *testing.T, namespace, selector string, count int) []corev1.Pod {
	t.Helper()
	pods, err := cluster.WaitPods(within(t), namespace, selector, count)
	require.NoError(t, err)
	return pods
}

func host(t *testing.T, p corev1.Pod) *netlab.Host {
	t.Helper()
	h, err := cluster.Host(p)
	require.NoError(t, err)
	return h
}

func hosts(t *testing.T, pods []corev1.Pod) (all []*netlab.Host) {
	t.Helper()
	for _, p := range pods {
		all = append(all, host(t, p))
	}
	return all
}

// pairs pairs each host with each other.
func pairs(all []*netlab.Host) (each []netlabtest.Pair) {
	for i, from := range all {
		for _, to := range all[i+1:] {
			each = append(each, netlabtest.Pair{From: from, To: to})
		}
	}
	return each
}

// fetch gets http://ADDR:PORT/PATH from a host.
func fetch(ctx context.Context, from *netlab.Host, addr netip.Addr, port int, path string) (string, error) {
	url := fmt.Sprintf("http://%s/%s", netip.AddrPortFrom(addr, uint16(port)), path)
	out, err := from.Exec(ctx, "curl", "--silent", "--show-error", "--max-time", "2", "--noproxy", "*", url)
	return strings.TrimSpace(out), err
}

// fetched is fetch, again until it succeeds: kube-proxy takes a moment for what
// is new.
func fetched(t *testing.T, from *netlab.Host, addr netip.Addr, port int, path string) (out string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s gets an answer of %s port %d", from.Name, addr, port), func(ctx context.Context) (err error) {
		out, err = fetch(ctx, from, addr, port, path)
		return err
	})
	return out
}

// clientSeen returns whom a server behind an address takes the host for.
func clientSeen(t *testing.T, from *netlab.Host, addr netip.Addr, port int) netip.Addr {
	t.Helper()
	ap, err := netip.ParseAddrPort(fetched(t, from, addr, port, "clientip"))
	require.NoError(t, err)
	return ap.Addr().Unmap()
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx := within(t)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error // of a check that was not cut off
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			require.FailNow(t, "never came true: "+what, "at last: %v", last)
		}
	}
}

// families calls f for each family of the cluster.
func families(t *testing.T, f func(*testing.T, subnet.Family)) {
	for _, family := range cluster.Stack().Families() {
		t.Run(family.String(), func(t *testing.T) { f(t, family) })
	}
}

// serviceIP returns the address of a Service in a family.
func serviceIP(t *testing.T, namespace, name string, f subnet.Family) netip.Addr {
	t.Helper()
	var s corev1.Service
	require.NoError(t, cluster.Get(t.Context(), "/api/v1/namespaces/"+namespace+"/services/"+name, &s))
	for _, ip := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil && subnet.FamilyOf(a) == f {
			return a
		}
	}
	require.FailNow(t, "no address", "the Service %s has no %s address in %q", name, f, s.Spec.ClusterIPs)
	return netip.Addr{}
}

// diagnose is what one wants to know when something has failed.
func diagnose(ctx context.Context) string {
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "nodes,pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"logs", "-n", "kube-twill", "-l", daemonSelector, "--all-containers", "--prefix", "--tail=40"},
	} {
		out, err := cluster.Kubectl(ctx, args...)
		if err != nil {
			out += err.Error()
		}
		fmt.Fprintf(&b, "kubectl %s:\n%s\n", strings.Join(args, " "), lastLines(out, 60))
	}
	logs, _ := filepath.Glob(filepath.Join(cluster.Dir(), "log", "*.log"))
	for _, name := range logs {
		if text, err := os.ReadFile(name); err == nil {
			fmt.Fprintf(&b, "%s ends:\n%s\n", filepath.Base(name), lastLines(string(text), 12))
		}
	}
	return b.String()
}

func lastLines(text string, n int) string {
	lines := bytes.SplitAfter([]byte(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], nil))
}
