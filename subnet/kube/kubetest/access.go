package kubetest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/twill-net/twill/subnet/etcd/etcdtest"
)

// collections are where objects are created, by kind.
var collections = map[string]string{
	"Namespace":                        "/api/v1/namespaces",
	"ServiceAccount":                   "/api/v1/namespaces/NAMESPACE/serviceaccounts",
	"Pod":                              "/api/v1/namespaces/NAMESPACE/pods",
	"Role":                             "/apis/rbac.authorization.k8s.io/v1/namespaces/NAMESPACE/roles",
	"RoleBinding":                      "/apis/rbac.authorization.k8s.io/v1/namespaces/NAMESPACE/rolebindings",
	"ClusterRole":                      "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding":               "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
	"ValidatingAdmissionPolicy":        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
	"ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}

// Apply creates objects, or replaces them, from YAML documents.
func (s *Server) Apply(t testing.TB, documents []byte) {
	t.Helper()
	for doc := range bytes.SplitSeq(documents, []byte("\n---\n")) {
		raw, err := yaml.YAMLToJSON(doc)
		require.NoError(t, err)
		var object metav1.PartialObjectMetadata
		require.NoError(t, json.Unmarshal(raw, &object))
		require.Contains(t, collections, object.Kind)
		url := string(bytes.ReplaceAll([]byte(collections[object.Kind]), []byte("NAMESPACE"), []byte(object.Namespace)))
		code := s.request(t, http.MethodPost, url, "application/json", json.RawMessage(raw), nil, http.StatusCreated, http.StatusConflict)
		if code == http.StatusConflict {
			s.request(t, http.MethodPatch, path.Join(url, object.Name), mergePatch, json.RawMessage(raw), nil, http.StatusOK)
		}
	}
}

// Grant allows the daemon this and nothing else. It is in force when Grant
// returns, as the server knows its roles from a watch.
func (s *Server) Grant(t testing.TB, rules ...rbacv1.PolicyRule) {
	t.Helper()
	name := metav1.ObjectMeta{Name: "twilld"}
	mark := rbacv1.PolicyRule{APIGroups: []string{"twill.test"}, Resources: []string{strings.ToLower(rand.Text())}, Verbs: []string{"get"}}
	rules = append(slices.Clone(rules), mark)
	for _, object := range []any{
		rbacv1.ClusterRole{TypeMeta: metav1.TypeMeta{Kind: "ClusterRole"}, ObjectMeta: name, Rules: rules},
		rbacv1.ClusterRoleBinding{
			TypeMeta: metav1.TypeMeta{Kind: "ClusterRoleBinding"}, ObjectMeta: name,
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "twilld"},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "twilld"}},
		},
	} {
		raw, err := yaml.Marshal(object)
		require.NoError(t, err)
		s.Apply(t, raw)
	}
	require.Eventually(t, func() bool { return s.allowed(t, "twilld", mark) }, startTimeout, 5*time.Millisecond)
}

// allowed reports whether a user may do what a rule says.
func (s *Server) allowed(t testing.TB, user string, rule rbacv1.PolicyRule) bool {
	t.Helper()
	attributes := map[string]string{"group": rule.APIGroups[0], "resource": rule.Resources[0], "verb": rule.Verbs[0]}
	var answer struct{ Status struct{ Allowed bool } }
	s.request(t, http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews", "application/json",
		map[string]any{"spec": map[string]any{"user": user, "resourceAttributes": attributes}}, &answer, http.StatusCreated)
	return answer.Status.Allowed
}

// Token asks for a token of a service account, bound to a Pod; "" for none.
func (s *Server) Token(t testing.TB, namespace, account, pod string) string {
	t.Helper()
	spec := map[string]any{"expirationSeconds": 3600}
	if pod != "" {
		var p metav1.PartialObjectMetadata
		s.request(t, http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods/"+pod, "", nil, &p, http.StatusOK)
		spec["boundObjectRef"] = map[string]any{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": p.UID}
	}
	var answer struct{ Status struct{ Token string } }
	s.request(t, http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+account+"/token", "application/json",
		map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}, &answer, http.StatusCreated)
	return answer.Status.Token
}

// Account writes a token and the server's CA as a Pod finds them, and returns
// the directory.
func (s *Server) Account(t testing.TB, token string) string {
	t.Helper()
	dir := t.TempDir()
	ca, err := os.ReadFile(s.CA)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600))
	return dir
}

// TryPatch makes a merge patch as the holder of a token, and returns the
// status and the answer. The path is that of a Node, or of its status.
func (s *Server) TryPatch(t testing.TB, token, node, patch string) (code int, answer string) {
	t.Helper()
	code, b, err := s.do(t.Context(), token, http.MethodPatch, nodes+"/"+node, mergePatch, []byte(patch))
	require.NoError(t, err)
	return code, string(b)
}

// Proxy opens a way to the server that can be cut, until the test ends.
func (s *Server) Proxy(t testing.TB) *etcdtest.Proxy {
	return (&etcdtest.Server{Endpoint: s.URL}).Proxy(t)
}

// Kubeconfig writes a file that leads to url, the server or a way to it, as the
// user of the token.
func (s *Server) Kubeconfig(t testing.TB, url, token string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "%s", certificate-authority: "%s"}}]
users: [{name: u, user: {token: "%s"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, url, s.CA, token), 0o600))
	return file
}
