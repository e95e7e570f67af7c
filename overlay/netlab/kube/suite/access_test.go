//go:build cluster

package suite

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab/kube"
)

const mergePatch = "application/merge-patch+json"

// The token in a daemon's Pod lets it do its work on its own Node, as the other
// tests show, and nothing elsewhere.
func TestTokenOfTheDaemon(t *testing.T) {
	mine, other := cluster.Node(1), cluster.Node(2)
	token, err := mine.Exec(t.Context(), "sh", "-c", `cat "/proc/$(pidof -s twilld)/root/var/run/secrets/kubernetes.io/serviceaccount/token"`)
	require.NoError(t, err)
	daemon := cluster.As(strings.TrimSpace(token))
	annotation := []byte(`{"metadata": {"annotations": {"flannel.alpha.coreos.com/suite": "x"}}}`)
	gone := []byte(`{"metadata": {"annotations": {"flannel.alpha.coreos.com/suite": null}}}`)

	require.NoError(t, daemon.Do(t.Context(), http.MethodPatch, status(mine), mergePatch, annotation, nil))
	require.NoError(t, daemon.Do(t.Context(), http.MethodPatch, status(mine), mergePatch, gone, nil))

	for what, do := range map[string]struct{ method, path, body string }{
		"annotations of another Node":  {http.MethodPatch, status(other), string(annotation)},
		"labels of its own":            {http.MethodPatch, status(mine), `{"metadata": {"labels": {"suite": "x"}}}`},
		"annotations that are not its": {http.MethodPatch, status(mine), `{"metadata": {"annotations": {"example.com/suite": "x"}}}`},
		"addresses of its own":         {http.MethodPatch, status(mine), `{"status": {"addresses": []}}`},
		"its Node itself":              {http.MethodPatch, "/api/v1/nodes/" + mine.Name, string(annotation)},
		"one Node by name":             {http.MethodGet, "/api/v1/nodes/" + mine.Name, ""},
		"a Node's end":                 {http.MethodDelete, "/api/v1/nodes/" + other.Name, ""},
		"secrets":                      {http.MethodGet, "/api/v1/secrets", ""},
		"pods":                         {http.MethodGet, "/api/v1/pods", ""},
	} {
		t.Run(what, func(t *testing.T) {
			err := daemon.Do(t.Context(), do.method, do.path, mergePatch, []byte(do.body), nil)
			var refused *kube.StatusError
			require.ErrorAs(t, err, &refused)
			require.Contains(t, []int{http.StatusForbidden, http.StatusUnprocessableEntity}, refused.Code, "%s", refused.Text)
		})
	}

	// A token of the same account that is of no Pod says of no Node.
	free := cluster.As(strings.TrimSpace(kubectl(t, "create", "token", "twilld", "--namespace=kube-twill")))
	require.ErrorContains(t, free.Do(t.Context(), http.MethodPatch, status(mine), mergePatch, annotation, nil), "of none")
}

func status(n *kube.Node) string { return "/api/v1/nodes/" + n.Name + "/status" }

// What the daemons are allowed is enough.
func TestNothingIsDenied(t *testing.T) {
	// The last that a daemon asks for, some seconds after it is ready, is an Event.
	// A Node that was made anew has none of before.
	described(t, cluster.Nodes[0], "Normal", "TwillReady", "twilld")
	logs := kubectl(t, "logs", "--namespace=kube-twill", "--selector="+daemonSelector, "--all-containers", "--tail=-1")
	require.Contains(t, logs, "twilld starts")
	for _, word := range []string{"forbidden", "denied", "not permitted"} {
		require.NotContains(t, strings.ToLower(logs), word)
	}
}
