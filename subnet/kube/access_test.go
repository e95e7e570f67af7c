package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/kube"
	"github.com/twill-net/twill/subnet/kube/kubetest"
	"github.com/twill-net/twill/subnet/subnettest"
)

// without returns the rules less one verb on a resource.
func without(rules []rbacv1.PolicyRule, verb, resource string) []rbacv1.PolicyRule {
	rules = slices.Clone(rules)
	for i := range rules {
		if slices.Contains(rules[i].Resources, resource) {
			rules[i].Verbs = slices.DeleteFunc(slices.Clone(rules[i].Verbs), func(v string) bool { return v == verb })
		}
	}
	return slices.DeleteFunc(rules, func(r rbacv1.PolicyRule) bool { return len(r.Verbs) == 0 })
}

// The shipped role is enough, as all other tests show; without any verb of it
// something does not work, and is told.
func rights(t *testing.T, b backend) {
	var health subnettest.Reports
	b.change = func(c *kube.Config) { c.Health = health.Take }
	b.Join(t, "n1", "10.5.1.0/24")
	verbs := 0
	for _, rule := range least(t) {
		for _, verb := range rule.Verbs {
			verbs++
			denied := fmt.Sprintf("cannot %s resource %q", verb, rule.Resources[0])
			b.server.Grant(t, without(least(t), verb, rule.Resources[0])...)
			way := b.server.Proxy(t)
			b.url = way.Endpoint
			s := b.open(t, "n1")
			h := subnettest.Hold(t, s, subnettest.Claim(t, "n1"))
			v := subnettest.Watch(t, s)
			if verb == "list" { // a stream that brings its list needs it only to be resumed
				subnettest.Eventually(t, "there is a stream", func() bool { return len(v.Updates()) > 0 })
				told := len(v.Updates())
				b.annotate(t, "n1", map[string]any{prefix + "source-ip": "192.168.0.99"})
				subnettest.Eventually(t, "it told something", func() bool { return len(v.Updates()) > told })
				way.Cut()
				way.Heal()
			}
			subnettest.Eventually(t, denied, func() bool {
				_, err := health.Last()
				return err != nil && strings.Contains(err.Error(), denied)
			})
			b.server.Grant(t, least(t)...) // whoever mends the role need not restart anything
			h.Next(t)
			subnettest.Eventually(t, "all is well", func() bool { _, err := health.Last(); return err == nil && len(v.Updates()) > 0 })
			h.Stop()
			require.NoError(t, v.Stop())
			require.NoError(t, s.Release(t.Context()))
		}
	}
	require.Equal(t, 3, verbs)
}

// The shipped policy: the daemon on a node can do its work there, with the token
// that it finds in its Pod, and nothing else anywhere.
func TestAdmission(t *testing.T) {
	s := kubetest.Start(t)
	s.Apply(t, shipped(t, "rbac.yaml"))
	s.Apply(t, shipped(t, "admission.yaml"))
	var health subnettest.Reports
	var token string
	b := backend{server: s, config: filepath.Join(t.TempDir(), "net-conf.json"), change: func(c *kube.Config) {
		c.Kubeconfig, c.APIURL, c.ServiceAccount, c.Health = "", s.URL, s.Account(t, token), health.Take
	}}
	for i := range 3 {
		n := largeNode(i) // what the policy compares has a cost, which has a limit
		n.Labels = map[string]string{"role": "worker"}
		n.Spec.PodCIDRs = []string{fmt.Sprintf("10.5.%d.0/24", i)}
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
		n.Annotations = map[string]string{"example.com/other": "x"}
		s.CreateNode(t, n)
	}
	s.Apply(t, []byte(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "twilld-1", "namespace": "kube-twill"},
		"spec": {"nodeName": "n1", "serviceAccountName": "twilld", "hostNetwork": true, "containers": [{"name": "twilld", "image": "example.com/twill:1"}]}}`))
	token = s.Token(t, "kube-twill", "twilld", "twilld-1")
	unbound := s.Token(t, "kube-twill", "twilld", "")
	ours := func(value string) string {
		return fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, prefix+"public-ip", value)
	}

	subnettest.Eventually(t, "the policy is in force", func() bool {
		_, answer := s.TryPatch(t, unbound, "n1/status", ours("")) // the role may not be yet
		return strings.Contains(answer, "but it is of none")
	})
	for _, c := range []struct{ name, token, path, patch, why string }{
		{"another Node", token, "n2/status", ours("192.0.2.1"), "twilld may change the Node that its token is of, n1, and this is n2"},
		{"a token of no Node", unbound, "n1/status", ours("192.0.2.1"), "twilld may change the Node that its token is of, but it is of none, and this is n1"},
		{"the Node itself", token, "n1", ours("192.0.2.1"), `cannot patch resource \"nodes\" in API group`},
		{"another annotation", token, "n1/status", `{"metadata":{"annotations":{"example.com/other":"y"}}}`, "annotations below"},
		{"a new annotation", token, "n1/status", `{"metadata":{"annotations":{"example.com/new":"y"}}}`, "annotations below"},
		{"no annotation", token, "n1/status", `{"metadata":{"annotations":{"example.com/other":null}}}`, "annotations below"},
		{"no annotations", token, "n1/status", `{"metadata":{"annotations":null}}`, "annotations below"},
		{"a label", token, "n1/status", `{"metadata":{"labels":{"role":"control-plane"}}}`, "neither labels"},
		{"a finalizer", token, "n1/status", `{"metadata":{"finalizers":["example.com/stay"]}}`, "neither labels"},
		{"an owner", token, "n1/status", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n2","uid":"7"}]}}`, "neither labels"},
		{"another condition", token, "n1/status", `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, "condition NetworkUnavailable, and no others"},
		{"no conditions", token, "n1/status", `{"status":{"conditions":null}}`, "condition NetworkUnavailable, and no others"},
		{"an address", token, "n1/status", `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.66"}]}}`, "nothing of its Node's status"},
		{"capacity", token, "n1/status", `{"status":{"capacity":{"cpu":"1000"}}}`, "nothing of its Node's status"},
		{"images", token, "n1/status", `{"status":{"images":null}}`, "nothing of its Node's status"},
	} {
		code, answer := s.TryPatch(t, c.token, c.path, c.patch)
		require.True(t, code == http.StatusForbidden || code == http.StatusUnprocessableEntity, "%s: %d %s", c.name, code, answer)
		require.Contains(t, answer, c.why, c.name)
	}
	before := s.Node(t, "n1")
	s.TryPatch(t, token, "n1/status", `{"spec":{"unschedulable":true}}`)
	require.Equal(t, before.Spec, s.Node(t, "n1").Spec, "what is not of the status is passed over")

	// All that the daemon does.
	store := b.open(t, "n1")
	v := subnettest.Watch(t, store)
	c := subnettest.Claim(t, "n1")
	h := subnettest.Hold(t, store, c)
	h.Next(t)
	states := make(chan subnet.NetworkState)
	subnettest.During(t, func(ctx context.Context) { _ = store.ReportNetwork(ctx, states) })
	for _, up := range []bool{true, false, true} {
		states <- subnet.NetworkState{Up: up}
		want := corev1.ConditionTrue
		if up {
			want = corev1.ConditionFalse
		}
		subnettest.Eventually(t, "the condition is written", func() bool { return unavailable(s.Node(t, "n1")).Status == want })
	}
	subnettest.Eventually(t, "it sees itself", func() bool { return len(v.Records()) == 1 })
	h.Stop()
	require.NoError(t, store.Release(t.Context()))
	subnettest.Eventually(t, "it sees that it has gone", func() bool { return len(v.Records()) == 0 })
	_, err := health.Last()
	require.NoError(t, err)

	// The same on a Node that is not its own.
	c = subnettest.Claim(t, "n2")
	subnettest.Hold(t, b.open(t, "n2"), c)
	subnettest.Eventually(t, "it is told", func() bool {
		_, err := health.Last()
		return errors.Is(err, subnet.ErrDenied) && strings.Contains(err.Error(), "twilld may change the Node that its token is of, n1, and this is n2")
	})
}

// CEL cannot ask for all of the status but one field, so that each is named: a
// release of Kubernetes that has a new one fails here.
func TestAdmissionNamesEachField(t *testing.T) {
	t.Parallel()
	policy := string(shipped(t, "admission.yaml"))
	status := reflect.TypeFor[corev1.NodeStatus]()
	for i := range status.NumField() {
		name, _, _ := strings.Cut(status.Field(i).Tag.Get("json"), ",")
		require.Contains(t, policy, "status.?"+name, "a field of a Node's status")
	}
	require.Contains(t, policy, "'"+kube.DefaultConfig().AnnotationPrefix+"/'")
}
