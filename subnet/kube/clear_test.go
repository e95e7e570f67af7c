package kube_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/kube"
	"github.com/twill-net/twill/subnet/kube/kubetest"
	"github.com/twill-net/twill/subnet/subnettest"
)

// Under the shipped role and policy: all that is ours goes, all else stays.
func TestClear(t *testing.T) {
	s := kubetest.Start(t)
	s.Apply(t, shipped(t, "rbac.yaml"))
	s.Apply(t, shipped(t, "admission.yaml"))
	n := largeNode(1)
	n.Annotations = map[string]string{"example.com/other": "x", prefix + "public-ip-overwrite": "192.0.2.7"}
	for _, name := range []string{"kube-subnet-manager", "backend-type", "backend-data", "backend-v6-data", "public-ip", "public-ipv6"} {
		n.Annotations[prefix+name] = "x"
	}
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: "TwillIsUp"})
	s.CreateNode(t, n)
	other := largeNode(2)
	other.Status.Conditions = append(other.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: "RouteCreated"})
	s.CreateNode(t, other)
	was := len(s.Node(t, "n1").Status.Conditions)

	open := func(node string) *kube.Store {
		s.Apply(t, []byte(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "on-`+node+`", "namespace": "kube-twill"},
			"spec": {"nodeName": "`+node+`", "serviceAccountName": "twilld", "hostNetwork": true, "containers": [{"name": "twilld", "image": "example.com/twill:1"}]}}`))
		c := kube.DefaultConfig()
		c.Node, c.APIURL, c.NetworkConfig = node, s.URL, filepath.Join(t.TempDir(), "net-conf.json")
		c.ServiceAccount = s.Account(t, s.Token(t, "kube-twill", "twilld", "on-"+node))
		store, err := kube.New(c)
		require.NoError(t, err)
		t.Cleanup(func() { store.Close() })
		return store
	}
	store := open("n1")
	var taken []string
	var err error
	subnettest.Eventually(t, "the role is in force", func() bool {
		taken, err = store.Clear(t.Context())
		return !errors.Is(err, subnet.ErrDenied)
	})
	require.NoError(t, err)
	require.Len(t, taken, 7)
	have := s.Node(t, "n1")
	require.Equal(t, map[string]string{"example.com/other": "x", prefix + "public-ip-overwrite": "192.0.2.7"}, have.Annotations)
	require.Len(t, have.Status.Conditions, was-1)
	for _, c := range have.Status.Conditions {
		require.NotEqual(t, corev1.NodeNetworkUnavailable, c.Type)
	}
	taken, err = store.Clear(t.Context())
	require.NoError(t, err)
	require.Empty(t, taken)

	taken, err = open("n2").Clear(t.Context())
	require.NoError(t, err)
	require.NotContains(t, taken, "condition NetworkUnavailable", "a cloud's is not ours")
	s.DeleteNode(t, "n1")
	taken, err = store.Clear(t.Context())
	require.NoError(t, err)
	require.Empty(t, taken, "no Node, nothing to take")
}
