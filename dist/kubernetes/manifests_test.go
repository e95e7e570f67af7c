package kubernetes_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-net/twill/subnet/kube/kubetest"
)

// collections are where objects are created, by kind.
var collections = map[string]string{
	"ClusterRole":                      "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding":               "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
	"ConfigMap":                        "/api/v1/namespaces/%s/configmaps",
	"DaemonSet":                        "/apis/apps/v1/namespaces/%s/daemonsets",
	"Event":                            "/api/v1/namespaces/%s/events",
	"Namespace":                        "/api/v1/namespaces",
	"Pod":                              "/api/v1/namespaces/%s/pods",
	"Role":                             "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/roles",
	"RoleBinding":                      "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/rolebindings",
	"ServiceAccount":                   "/api/v1/namespaces/%s/serviceaccounts",
	"ValidatingAdmissionPolicy":        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
	"ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}

// api is a kube-apiserver, asked as kubectl asks.
type api struct {
	*kubetest.Server
	client *http.Client
}

func start(t *testing.T) api {
	t.Helper()
	s := kubetest.Start(t, "--allow-privileged=true")
	pem, err := os.ReadFile(s.CA)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(pem))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return api{s, &http.Client{Transport: transport}}
}

func (a api) do(t *testing.T, token, method, path, contentType string, body any) (code int, answer string) {
	t.Helper()
	raw, err := json.Marshal(body)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), method, a.URL+path, bytes.NewReader(raw))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", contentType)
	resp, err := a.client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for _, w := range resp.Header.Values("Warning") {
		all = append(all, "\n"+w...)
	}
	return resp.StatusCode, string(all)
}

func (a api) create(t *testing.T, token string, o object, query string) (code int, answer string) {
	t.Helper()
	path := collections[o.text("kind")]
	require.NotEmpty(t, path, o.text("kind"))
	if strings.Contains(path, "%s") {
		path = fmt.Sprintf(path, o.text("metadata", "namespace"))
	}
	return a.do(t, token, http.MethodPost, path+query, "application/json", o)
}

func named(kind, namespace, name string) object {
	return object{"kind": kind, "metadata": map[string]any{"name": name, "namespace": namespace}}
}

const strict = "?dryRun=All&fieldValidation=Strict"

// Every manifest is one to a real API server, which knows each field of it and
// warns of none.
func TestServerTakesManifests(t *testing.T) {
	a := start(t)
	code, answer := a.create(t, kubetest.Admin, object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "kube-twill"}}, "")
	require.Equal(t, http.StatusCreated, code, answer)
	all := filepath.Join(t.TempDir(), "all.yaml")
	require.NoError(t, os.WriteFile(all, []byte(everything), 0o644))
	for _, source := range [][]string{
		{"kustomize", "base"}, {"kustomize", "overlays/ipv4"}, {"kustomize", "overlays/dual-stack"}, {"kustomize", "overlays/ipv6"},
		{"kustomize", "uninstall"},
		{"chart", "chart/twill"}, {"chart", "chart/twill", "-set", "createNamespace=true,uninstall=true"},
		{"chart", "chart/twill", "-f", all}, {"chart", "chart/twill", "-f", all, "-set", "uninstall=true"},
	} {
		for _, o := range render(t, source...) {
			code, answer := a.create(t, kubetest.Admin, o, strict)
			what := fmt.Sprintf("%v: %s %s: %s", source, o.text("kind"), o.text("metadata", "name"), answer)
			if o.text("kind") == "Namespace" {
				require.Equal(t, http.StatusConflict, code, what)
				continue
			}
			require.Equal(t, http.StatusCreated, code, what)
			require.NotContains(t, answer, "\n299 ", what)
		}
	}
	o := find(t, render(t, "kustomize", "base"), "DaemonSet", "twilld")
	o.at("spec", "template", "spec").(map[string]any)["hostNetwrok"] = true
	code, answer = a.create(t, kubetest.Admin, o, strict)
	require.Equal(t, http.StatusBadRequest, code, "a field that is none is seen")
	require.Contains(t, answer, "hostNetwrok")
}

// everything has a value for each of the chart's.
const everything = `
network: {ipv4: 10.0.0.0/12, ipv6: "fd00::/48"}
backend: {vni: 7, port: 4789, mtu: 9000, directRouting: true}
networkConfig: {Backend: {GBP: true}}
ipMasq: false
hygiene: false
firewall: nftables
interfaces: [eth1, "192.0.2.1"]
kubeApiUrl: https://192.0.2.1:6443
annotationPrefix: example.com/x
setNodeNetworkUnavailable: false
extraArgs: [--ip-blackhole-route]
extraEnv: [{name: TWILLD_LOG_FORMAT, value: json}]
logLevel: debug
health: {address: "::", port: 10120}
cni: {binDir: /var/lib/rancher/k3s/data/cni, confDir: /var/lib/rancher/k3s/agent/etc/cni/net.d, portmapBackend: nftables}
image: {repository: registry.example.com/twill, tag: v1, pullPolicy: Always}
imagePullSecrets: [{name: pull}]
resources: {requests: {cpu: 1m}}
nodeSelector: {network: twill}
tolerations: [{key: a, operator: Exists}]
priorityClassName: system-cluster-critical
podAnnotations: {a: b}
seLinuxOptions: {type: container_t}
createNamespace: true
`

// The flags that the manifests give are ones of the programs, with values that
// they can use.
func TestFlags(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", "../../cmd/twilld", "../../cmd/twill")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	all := filepath.Join(t.TempDir(), "all.yaml")
	require.NoError(t, os.WriteFile(all, []byte(everything), 0o644))
	programs := 0
	for _, args := range [][]string{{}, {"-set", "uninstall=true"}, {"-f", all}, {"-f", all, "-set", "uninstall=true"}} {
		for _, o := range render(t, append([]string{"chart", "chart/twill"}, args...)...) {
			if o.text("kind") != "DaemonSet" {
				continue
			}
			spec := object(o.at("spec", "template", "spec").(map[string]any))
			containers, _ := spec["initContainers"].([]any)
			for _, c := range append(containers, spec["containers"].([]any)...) {
				container := c.(map[string]any)
				var argv []string
				for _, list := range []any{container["command"], container["args"]} {
					for _, s := range list.([]any) {
						argv = append(argv, s.(string))
					}
				}
				program := filepath.Join(bin, filepath.Base(argv[0]))
				if strings.HasSuffix(program, "twilld") {
					argv = append(argv, "--version")
				} else {
					argv = append(argv, "--help")
				}
				out, err := exec.Command(program, argv[1:]...).CombinedOutput()
				require.NoError(t, err, "%v: %s", argv, out)
				programs++
			}
		}
	}
	require.Equal(t, 12, programs)
}

// pod is one that a DaemonSet makes.
func pod(daemonSet object, namespace string) object {
	template := daemonSet.at("spec", "template").(map[string]any)
	return object{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "one", "namespace": namespace}, "spec": template["spec"],
	}
}

// The namespace's label is what the Pods need, and what they need it for is
// known: only the first step is privileged, only what needs it has NET_ADMIN.
func TestPodSecurity(t *testing.T) {
	a := start(t)
	rendered := render(t, "kustomize", "base")
	level := find(t, rendered, "Namespace", "kube-twill").text("metadata", "labels", "pod-security.kubernetes.io/enforce")
	for _, ns := range []struct{ name, level string }{{"as-shipped", level}, {"baseline", "baseline"}} {
		namespace := named("Namespace", "", ns.name)
		namespace["metadata"].(map[string]any)["labels"] = map[string]any{"pod-security.kubernetes.io/enforce": ns.level}
		code, answer := a.create(t, kubetest.Admin, namespace, "")
		require.Equal(t, http.StatusCreated, code, answer)
		code, answer = a.create(t, kubetest.Admin, named("ServiceAccount", ns.name, "twilld"), "")
		require.Equal(t, http.StatusCreated, code, answer)
	}
	daemon := find(t, rendered, "DaemonSet", "twilld")
	uninstall := find(t, render(t, "kustomize", "uninstall"), "DaemonSet", "twill-uninstall")
	for _, d := range []object{daemon, uninstall} {
		code, answer := a.create(t, kubetest.Admin, pod(d, "as-shipped"), strict)
		require.Equal(t, http.StatusCreated, code, answer)
	}
	code, answer := a.create(t, kubetest.Admin, pod(daemon, "baseline"), strict)
	require.Equal(t, http.StatusForbidden, code, answer)
	require.Contains(t, answer, `privileged (container \"prepare\" must not set`)
	require.Contains(t, answer, `non-default capabilities (container \"twilld\" must not include \"NET_ADMIN\"`)
	code, answer = a.create(t, kubetest.Admin, pod(uninstall, "baseline"), strict)
	require.Equal(t, http.StatusForbidden, code, answer)
	require.NotContains(t, answer, "privileged (", "nothing is privileged to take Twill away")

	// What little the daemon's container has.
	containers := daemon.at("spec", "template", "spec", "containers").([]any)
	require.Len(t, containers, 1)
	require.Equal(t, map[string]any{
		"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
		"capabilities": map[string]any{"drop": []any{"ALL"}, "add": []any{"NET_ADMIN"}},
	}, containers[0].(map[string]any)["securityContext"])
	require.Equal(t, "RuntimeDefault", daemon.text("spec", "template", "spec", "securityContext", "seccompProfile", "type"))
	require.Equal(t, float64(1), daemon.at("spec", "updateStrategy", "rollingUpdate", "maxUnavailable"))
}

// install creates what is in the manifests but for the Pods, and a token of the
// daemon's on node n1.
func (a api) install(t *testing.T, rendered []object) (token string) {
	t.Helper()
	for _, o := range rendered {
		if o.text("kind") != "DaemonSet" {
			code, answer := a.create(t, kubetest.Admin, o, "")
			require.Equal(t, http.StatusCreated, code, answer)
		}
	}
	a.CreateNode(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	p := pod(find(t, rendered, "DaemonSet", "twilld"), "kube-twill")
	p.at("spec").(map[string]any)["nodeName"] = "n1"
	code, answer := a.create(t, kubetest.Admin, p, "")
	require.Equal(t, http.StatusCreated, code, answer)
	return a.Token(t, "kube-twill", "twilld", "one")
}

func event(namespace, name string) object {
	e := named("Event", namespace, name)
	e["involvedObject"] = map[string]any{"kind": "Node", "name": "n1", "uid": "n1"}
	e["reason"], e["message"], e["type"] = "TwillConfigRefused", "why", "Warning"
	return e
}

// The daemon may write Events about its Node and count them, and that is all;
// less one verb it may not.
func TestEvents(t *testing.T) {
	a := start(t)
	rendered := render(t, "kustomize", "base")
	token := a.install(t, rendered)
	const path = "/api/v1/namespaces/default/events/e"
	patch := func() int {
		code, _ := a.do(t, token, http.MethodPatch, path, "application/strategic-merge-patch+json", map[string]any{"count": 2})
		return code
	}
	create := func(namespace, name string) int {
		code, _ := a.create(t, token, event(namespace, name), "")
		return code
	}
	// RBAC is read from a watch.
	eventually(t, func() bool { return create("default", "e") == http.StatusCreated })
	require.Equal(t, http.StatusOK, patch())
	require.Equal(t, http.StatusForbidden, create("kube-system", "e"))
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		code, _ := a.do(t, token, method, path, "", nil)
		require.Equal(t, http.StatusForbidden, code, method)
	}

	role := find(t, rendered, "Role", "twilld")
	less := func(verbs ...any) {
		role["rules"].([]any)[0].(map[string]any)["verbs"] = verbs
		code, answer := a.do(t, kubetest.Admin, http.MethodPut, fmt.Sprintf(collections["Role"], "default")+"/twilld", "application/json", role)
		require.Equal(t, http.StatusOK, code, answer)
	}
	less("patch")
	n := 0
	eventually(t, func() bool { n++; return create("default", fmt.Sprint("less-", n)) == http.StatusForbidden })
	require.Equal(t, http.StatusOK, patch())
	less("create")
	eventually(t, func() bool { return patch() == http.StatusForbidden })
	require.Equal(t, http.StatusCreated, create("default", "e2"))
}

// The admission policy is about the annotations that the daemon is told to
// write, and follows the namespace.
func TestPolicyFollowsPrefix(t *testing.T) {
	a := start(t)
	token := a.install(t, render(t, "chart", "chart/twill", "-set", "createNamespace=true,annotationPrefix=example.com/x"))
	n := 0
	patch := func(annotation string) int {
		n++ // what changes nothing is no change
		code, _ := a.TryPatch(t, token, "n1/status", fmt.Sprintf(`{"metadata":{"annotations":{%q:"%d"}}}`, annotation, n))
		return code
	}
	// It takes some moments to be in force.
	eventually(t, func() bool { return patch("flannel.alpha.coreos.com/public-ip") == http.StatusUnprocessableEntity })
	require.Equal(t, http.StatusUnprocessableEntity, patch("example.com/y"))
	require.Equal(t, http.StatusOK, patch("example.com/x-public-ip"))

	for prefix, want := range map[string]string{"example.com": "example.com/", "example.com/": "example.com/", "example.com/x-": "example.com/x-"} {
		policy := find(t, render(t, "chart", "chart/twill", "-set", "annotationPrefix="+prefix), "ValidatingAdmissionPolicy", "twilld")
		require.Equal(t, "'"+want+"'", object(policy.at("spec", "variables").([]any)[0].(map[string]any)).text("expression"))
	}
	for _, o := range render(t, "chart", "chart/twill", "-set", "admissionPolicy=false") {
		require.NotContains(t, o.text("kind"), "Admission")
	}
	for _, o := range render(t, "chart", "chart/twill", "-namespace", "other") {
		raw, err := json.Marshal(o)
		require.NoError(t, err)
		require.NotContains(t, string(raw), "kube-twill", "all of it is in the release's namespace")
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 3*time.Minute, 50*time.Millisecond)
}
