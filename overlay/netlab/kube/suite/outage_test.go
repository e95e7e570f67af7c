//go:build cluster

package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/kube"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// long is whether an outage is one of a minute, after which there are pauses that
// a shorter one does not bring.
var long = os.Getenv("TWILL_LONG") != ""

// outage is how long a part of the cluster stays away.
func outage() time.Duration {
	if long {
		return time.Minute
	}
	return 10 * time.Second
}

// soon is well below what Kubernetes' own parts need after an outage of a
// minute, see hurry, and above what a machine does that is not all too busy.
const soon = 20 * time.Second

// The API server is away, and daemons start meanwhile: what is there stays, and
// when it is back, so are the daemons, and what is new reaches them.
func TestAPIServerDown(t *testing.T) {
	namespace := begin(t)
	pods := web(t, namespace, "web")
	netlabtest.Unharmed(t, "an API server that is down", pairs(hosts(t, pods)), func() {
		require.NoError(t, cluster.Control.APIServer.Kill(t.Context()))
		end := time.NewTimer(outage())
		defer end.Stop()
		killDaemon(t, cluster.Node(2))
		select {
		case <-end.C:
		case <-t.Context().Done():
		}
		require.NoError(t, cluster.Control.APIServer.Restart())
		require.NoError(t, cluster.WaitAPI(within(t)))
		back := time.Now()
		newPeer(t)
		t.Logf("all nodes have the first new peer %s after the API server", time.Since(back))
		for _, n := range cluster.Nodes {
			eventually(t, "the daemon of "+n.Name+" is ready, and its store well", func(ctx context.Context) error {
				out, err := n.Exec(ctx, "curl", "--silent", "--show-error", "--max-time", "2", "http://127.0.0.1:10119/readyz")
				if err == nil && strings.TrimSpace(out) != "ready" {
					err = fmt.Errorf("it says: %s", out)
				}
				return err
			})
		}
		took := time.Since(back)
		t.Logf("all daemons are well %s after the API server", took)
		if long {
			require.Less(t, took, soon)
		}
		hurry(t)
		ready(t)
		t.Logf("all of the cluster is ready %s after the API server", time.Since(back))
	})
	web(t, namespace, "after")
}

// newPeer makes a Node as if a daemon had announced itself there, and waits
// until all nodes have a way to its pods.
func newPeer(t *testing.T) {
	t.Helper()
	peer := corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: "late", Annotations: map[string]string{
			"flannel.alpha.coreos.com/kube-subnet-manager": "true",
			"flannel.alpha.coreos.com/backend-type":        "vxlan",
		}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "twill.test/late", Effect: corev1.TaintEffectNoSchedule}}}, // there is nobody to run Pods
	}
	nets := subnet.PerFamily[string]{"10.244.200.0/24", "fd00:244:0:c8::/64"}
	for _, f := range cluster.Stack().Families() {
		peer.Spec.PodCIDRs = append(peer.Spec.PodCIDRs, nets[f])
		for name, value := range (subnet.PerFamily[map[string]string]{
			{"public-ip": "192.168.77.200", "backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:c8"}`},
			{"public-ipv6": "fd77::200", "backend-v6-data": `{"VNI":1,"VtepMAC":"02:00:00:00:06:c8"}`},
		})[f] {
			peer.Annotations["flannel.alpha.coreos.com/"+name] = value
		}
	}
	peer.Spec.PodCIDR = peer.Spec.PodCIDRs[0]
	body, err := json.Marshal(peer)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := cluster.Kubectl(ctx, "delete", "node", peer.Name, "--ignore-not-found")
		require.NoError(t, err)
	})
	require.NoError(t, cluster.Do(within(t), http.MethodPost, "/api/v1/nodes", "application/json", body, nil))
	for _, n := range cluster.Nodes {
		for _, f := range cluster.Stack().Families() {
			eventually(t, n.Name+" has a route to "+nets[f], func(ctx context.Context) error {
				version := subnet.PerFamily[string]{"-4", "-6"}[f]
				out, err := n.Exec(ctx, "ip", version, "route", "show", nets[f])
				if err == nil && out == "" {
					err = errors.New("there is none")
				}
				return err
			})
		}
	}
}

// hurry restarts what is Kubernetes' own and watches the API: after an outage of
// a minute client-go's Reflector pauses for up to another one before it asks, is
// told that its place in the history is gone, and pauses again before it lists
// (k8s.io/client-go/tools/cache, NewReflectorWithOptions). Until then a kubelet
// starts no new Pod, and a Node that the controller-manager has called Unknown
// stays so: the kubelet patches what differs from the Node as it saw it last,
// which was Ready (pkg/kubelet, tryUpdateNodeStatus).
func hurry(t *testing.T) {
	t.Helper()
	processes := []*netlab.Process{cluster.Control.ControllerManager, cluster.Control.Scheduler}
	for _, n := range cluster.Nodes {
		processes = append(processes, n.Kubelet)
		if n.Proxy != nil {
			processes = append(processes, n.Proxy)
		}
	}
	for _, p := range processes {
		require.NoError(t, p.Kill(t.Context()))
		require.NoError(t, p.Restart())
	}
}

// killDaemon kills the daemon in its container; the kubelet starts it again.
func killDaemon(t *testing.T, n *kube.Node) {
	t.Helper()
	pid, err := n.Exec(t.Context(), "pidof", "-s", "twilld")
	require.NoError(t, err)
	_, err = n.Exec(t.Context(), "sh", "-c", `kill -KILL "$1"`, "sh", strings.TrimSpace(pid))
	require.NoError(t, err)
	eventually(t, "the kubelet of "+n.Name+" has started twilld again", func(ctx context.Context) error {
		now, err := n.Exec(ctx, "pidof", "-s", "twilld")
		if err == nil && now == pid {
			err = fmt.Errorf("it is process %s still", pid)
		}
		return err
	})
}
