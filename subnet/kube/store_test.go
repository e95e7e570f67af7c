package kube_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/kube"
	"github.com/twill-net/twill/subnet/kube/kubetest"
	"github.com/twill-net/twill/subnet/subnettest"
)

func TestMain(m *testing.M) {
	if kubeconfig := os.Getenv(childEnv); kubeconfig != "" {
		if err := child(kubeconfig); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// shipped returns a file that we ship for clusters.
func shipped(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "dist", "kubernetes", "base", name))
	require.NoError(t, err)
	return b
}

// least returns all that the shipped role allows.
func least(t testing.TB) []rbacv1.PolicyRule {
	t.Helper()
	for doc := range bytes.SplitSeq(shipped(t, "rbac.yaml"), []byte("\n---\n")) {
		var role rbacv1.ClusterRole
		require.NoError(t, yaml.Unmarshal(doc, &role))
		if role.Kind == "ClusterRole" {
			return role.Rules
		}
	}
	require.Fail(t, "no role is shipped")
	return nil
}

// start runs an API server on which the daemon has the least rights.
func start(t *testing.T, args ...string) *kubetest.Server {
	t.Helper()
	s := kubetest.Start(t, args...)
	s.Grant(t, least(t)...)
	return s
}

// TestOneServer runs what can share a server, one after the other: a server
// takes seconds to start and 300 MB.
func TestOneServer(t *testing.T) {
	s := start(t)
	fresh := func(t *testing.T) backend {
		s.Grant(t, least(t)...)
		s.DeleteNodes(t)
		s.DeleteEvents(t)
		return backend{server: s, url: s.URL, config: filepath.Join(t.TempDir(), "net-conf.json")}
	}
	t.Run("contract", func(t *testing.T) {
		subnettest.Assigned(t, func(t *testing.T) subnettest.Assigning { return fresh(t) })
	})
	for name, test := range map[string]func(*testing.T, backend){
		"annotations, as flannel has them": flannelAnnotations,
		"annotations that are no good":     brokenAnnotations,
		"public IP by annotation":          overwrittenPublicIP,
		"addresses":                        watchAddresses,
		"heartbeats are no news":           heartbeats,
		"condition":                        condition,
		"condition that is not ours":       conditionOfOthers,
		"condition switched off":           conditionOff,
		"rights":                           rights,
		"rights are named":                 rightsNamed,
		"another prefix":                   anotherPrefix,
		"a watch that is cut":              cutWatch,
		"ways to the server":               waysToTheServer,
		"progress":                         progress,
		"events":                           events,
		"events without rights":            eventsDenied,
		"events of a server that is away":  eventsLater,
		"events that are refused":          eventsRefused,
		"position":                         position,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

// backend is an API server as the contract sees it.
type backend struct {
	server *kubetest.Server
	url    string
	config string // file
	change func(*kube.Config)
}

func (b backend) Open(t *testing.T, node string) subnettest.Store { return b.open(t, node) }

func (b backend) open(t *testing.T, node string) *kube.Store {
	t.Helper()
	cfg := kube.DefaultConfig()
	cfg.Node, cfg.NetworkConfig, cfg.ConfigInterval = node, b.config, 10*time.Millisecond
	cfg.Kubeconfig = b.server.Kubeconfig(t, b.url, kubetest.Daemon)
	if b.change != nil {
		b.change(&cfg)
	}
	s, err := kube.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func (b backend) SetConfig(t *testing.T, raw []byte) {
	t.Helper()
	if raw == nil {
		require.NoError(t, os.Remove(b.config))
		return
	}
	next := b.config + ".next" // a ConfigMap is replaced as a whole
	require.NoError(t, os.WriteFile(next, raw, 0o644))
	require.NoError(t, os.Rename(next, b.config))
}

// Join makes node n7 one with the InternalIP 192.168.0.7.
func (b backend) Join(t *testing.T, node string, subnets ...string) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: corev1.NodeSpec{PodCIDRs: subnets}}
	if len(subnets) > 0 {
		n.Spec.PodCIDR = subnets[0]
	}
	n.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: node}, {Type: corev1.NodeExternalIP, Address: "203.0.113.1"},
		{Type: corev1.NodeInternalIP, Address: "192.168.0." + node[1:]},
	}
	b.server.CreateNode(t, n)
}

func (b backend) Assign(t *testing.T, node string, subnets ...string) {
	t.Helper()
	list, err := json.Marshal(subnets)
	require.NoError(t, err)
	b.server.PatchNode(t, node, fmt.Sprintf(`{"spec":{"podCIDR":%q,"podCIDRs":%s}}`, subnets[0], list))
}

func (b backend) Leave(t *testing.T, node string) { b.server.DeleteNode(t, node) }

const prefix = "flannel.alpha.coreos.com/"

// members are flannel's and Twill's names of what a lease says, in etcd and in
// annotations.
var members = map[string]string{
	"PublicIP": prefix + "public-ip", "PublicIPv6": prefix + "public-ipv6", "BackendType": prefix + "backend-type",
	"BackendData": prefix + "backend-data", "BackendV6Data": prefix + "backend-v6-data",
	"SourceIP": prefix + "source-ip", "SourceIPv6": prefix + "source-ipv6", "MachineID": prefix + "machine-id",
}

// Announce goes by the value that the lease has in etcd.
func (b backend) Announce(t *testing.T, l subnet.Lease) {
	t.Helper()
	raw, err := subnet.EncodeValue(l)
	require.NoError(t, err)
	var value map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(raw, &value))
	annotations := map[string]any{prefix + "kube-subnet-manager": "true"}
	for member, name := range members {
		annotations[name] = nil
		text := string(value[member])
		_ = json.Unmarshal(value[member], &text)
		if text != "" && text != "null" {
			annotations[name] = text
		}
	}
	b.annotate(t, l.Node, annotations)
}

func (b backend) annotate(t *testing.T, node string, annotations map[string]any) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	require.NoError(t, err)
	b.server.PatchNode(t, node, string(patch))
}

// Records reads annotations as the value that they would be in etcd.
func (b backend) Records(t *testing.T) []subnet.Record {
	t.Helper()
	var out []subnet.Record
	for _, n := range b.server.Nodes(t) {
		if n.Annotations[prefix+"kube-subnet-manager"] != "true" {
			continue
		}
		value := map[string]any{"NodeName": n.Name}
		for member, name := range members {
			switch text, ok := n.Annotations[name]; {
			case ok && (member == "BackendData" || member == "BackendV6Data"):
				value[member] = json.RawMessage(text)
			case ok:
				value[member] = text
			}
		}
		raw, err := json.Marshal(value)
		require.NoError(t, err)
		var subnets subnet.PerFamily[netip.Prefix]
		for _, s := range n.Spec.PodCIDRs {
			p := netip.MustParsePrefix(s)
			subnets[subnet.FamilyOf(p.Addr())] = p
		}
		r := subnet.Record{Key: n.Name, Created: n.CreationTimestamp.Unix(), Reserved: true}
		_, err = fmt.Sscan(n.ResourceVersion, &r.Modified)
		require.NoError(t, err)
		r.Lease, err = subnet.DecodeValue(subnets, raw)
		require.NoError(t, err)
		out = append(out, r)
	}
	return out
}

// next returns what comes next.
func next[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(subnettest.Patience):
		require.Fail(t, "nothing comes")
	}
	return v
}
