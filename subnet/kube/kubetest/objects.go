package kubetest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

const nodes = "/api/v1/nodes"

// request makes a request as the administrator and fails the test unless the
// answer's status is among ok.
func (s *Server) request(t testing.TB, method, path, contentType string, body, into any, ok ...int) int {
	t.Helper()
	var b []byte
	if body != nil {
		var err error
		b, err = json.Marshal(body)
		require.NoError(t, err)
	}
	code, answer, err := s.do(t.Context(), Admin, method, path, contentType, b)
	require.NoError(t, err)
	require.Contains(t, ok, code, "%s %s: %s", method, path, answer)
	if into != nil && code < 300 {
		require.NoError(t, json.Unmarshal(answer, into))
	}
	return code
}

// CreateNode creates a Node with its status, as its kubelet does.
func (s *Server) CreateNode(t testing.TB, n *corev1.Node) *corev1.Node {
	t.Helper()
	n = n.DeepCopy()
	status := n.Status
	s.request(t, http.MethodPost, nodes, "application/json", n, n, http.StatusCreated)
	if len(status.Addresses)+len(status.Conditions)+len(status.Images) > 0 {
		s.request(t, http.MethodPatch, nodes+"/"+n.Name+"/status", mergePatch, map[string]any{"status": status}, n, http.StatusOK)
	}
	return n
}

// The types of patches. A merge patch replaces lists as a whole.
const (
	mergePatch     = "application/merge-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
)

// PatchNode makes a strategic merge patch of a Node.
func (s *Server) PatchNode(t testing.TB, name, patch string) {
	t.Helper()
	s.request(t, http.MethodPatch, nodes+"/"+name, strategicPatch, json.RawMessage(patch), nil, http.StatusOK)
}

// PatchStatus makes a merge patch of a Node's status.
func (s *Server) PatchStatus(t testing.TB, name, patch string) {
	t.Helper()
	s.request(t, http.MethodPatch, nodes+"/"+name+"/status", mergePatch, json.RawMessage(patch), nil, http.StatusOK)
}

// Node returns a Node, nil when there is none.
func (s *Server) Node(t testing.TB, name string) *corev1.Node {
	t.Helper()
	n := &corev1.Node{}
	if s.request(t, http.MethodGet, nodes+"/"+name, "", nil, n, http.StatusOK, http.StatusNotFound) == http.StatusNotFound {
		return nil
	}
	return n
}

// Nodes returns all Nodes, sorted by name.
func (s *Server) Nodes(t testing.TB) []corev1.Node {
	t.Helper()
	var list corev1.NodeList
	s.request(t, http.MethodGet, nodes, "", nil, &list, http.StatusOK)
	slices.SortFunc(list.Items, func(a, b corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	return list.Items
}

// DeleteNode deletes a Node that is there.
func (s *Server) DeleteNode(t testing.TB, name string) {
	t.Helper()
	s.request(t, http.MethodDelete, nodes+"/"+name, "", nil, nil, http.StatusOK)
}

// DeleteNodes deletes all Nodes.
func (s *Server) DeleteNodes(t testing.TB) {
	t.Helper()
	s.request(t, http.MethodDelete, nodes, "", nil, nil, http.StatusOK)
}

const events = "/api/v1/namespaces/default/events"

// Events returns the Events of namespace default, sorted by reason.
func (s *Server) Events(t testing.TB) []corev1.Event {
	t.Helper()
	var list corev1.EventList
	s.request(t, http.MethodGet, events, "", nil, &list, http.StatusOK)
	slices.SortFunc(list.Items, func(a, b corev1.Event) int { return strings.Compare(a.Reason, b.Reason) })
	return list.Items
}

// DeleteEvents deletes them, as the server does after an hour.
func (s *Server) DeleteEvents(t testing.TB) {
	t.Helper()
	s.request(t, http.MethodDelete, events, "", nil, nil, http.StatusOK)
}
