package kube_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/kube"
	"github.com/twill-net/twill/subnet/subnettest"
)

// Whoever misses a right is told which, and what gives it.
func rightsNamed(t *testing.T, b backend) {
	b.Join(t, "n1", "10.5.1.0/24")
	for _, c := range []struct{ verb, resource, right string }{
		{"patch", "nodes/status", "twilld lacks the right to patch nodes/status, which the ClusterRole twilld and its ClusterRoleBinding give: kubectl apply -f dist/kubernetes/base/rbac.yaml"},
		{"watch", "nodes", "twilld lacks the right to watch nodes, which the ClusterRole twilld and its ClusterRoleBinding give: kubectl apply -f dist/kubernetes/base/rbac.yaml"},
	} {
		b.server.Grant(t, append(without(least(t), c.verb, c.resource), mayTell)...)
		var health subnettest.Reports
		b.change = func(cfg *kube.Config) { cfg.Health = health.Take }
		h := subnettest.Hold(t, b.open(t, "n1"), subnettest.Claim(t, "n1"))
		subnettest.Eventually(t, c.right, func() bool {
			_, err := health.Last()
			return err != nil && strings.Contains(err.Error(), c.right)
		})
		_, err := health.Last()
		require.ErrorIs(t, err, subnet.ErrDenied)
		h.Stop()
	}
	for _, verb := range []string{"create", "patch"} {
		b.server.Grant(t, append(least(t), without([]rbacv1.PolicyRule{mayTell}, verb, "events")...)...)
		var log subnettest.Log
		b.change = func(cfg *kube.Config) { cfg.Logger = log.Entry() }
		notices := report(t, b, "n1")
		notices <- subnet.Notice{Reason: "TwillReady", Message: verb}
		if verb == "patch" { // which counts on the Event that is there
			subnettest.Eventually(t, "there is one", func() bool { return len(b.of(t, "TwillReady")) == 1 })
			notices <- subnet.Notice{Reason: "TwillReady", Message: verb}
		}
		subnettest.Eventually(t, verb, func() bool {
			return strings.Contains(log.String(), "lacks the right to "+verb+" events, which the Role twilld of namespace default")
		})
	}
}
