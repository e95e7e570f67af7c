package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/subnet/kube/kubetest"
	"github.com/twill-net/twill/subnet/subnettest"
)

// insideEnv marks the process that is the node of a test.
const insideEnv = "TWILLD_TEST_INSIDE"

// inside runs the test again in namespaces of its own, and reports whether this
// is that run.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--mount", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return false
}

// ip runs iproute2.
func ip(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput()
	require.NoError(t, err, "ip %v: %s", args, out)
	return string(out)
}

// underlays makes eth0, of the default route, with 192.0.2.1, and eth1 with
// 198.51.100.1.
func underlays(t testing.TB) {
	t.Helper()
	ip(t, "link", "set", "lo", "up")
	for i, address := range []string{"192.0.2.1/24", "198.51.100.1/24"} {
		name, far := "eth"+string(rune('0'+i)), "far"+string(rune('0'+i))
		ip(t, "link", "add", name, "type", "veth", "peer", "name", far)
		ip(t, "link", "set", far, "up")
		ip(t, "link", "set", name, "up")
		ip(t, "address", "add", address, "dev", name)
	}
	ip(t, "route", "add", "default", "via", "192.0.2.254")
}

const prefix = "flannel.alpha.coreos.com/"

// cluster runs the test again in namespaces of its own, as node n1: with its
// underlays, and an API server on which the daemon has the rights of the shipped
// role. Outside of them it returns nil.
func cluster(t *testing.T) *kubetest.Server {
	t.Helper()
	if !inside(t) {
		return nil
	}
	underlays(t)
	api := kubetest.Start(t)
	api.Grant(t,
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list", "watch"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes/status"}, Verbs: []string{"patch"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}})
	return api
}

// join makes Node n1.
func join(t *testing.T, api *kubetest.Server, internal string, podCIDRs ...string) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDRs: podCIDRs}}
	if len(podCIDRs) > 0 {
		n.Spec.PodCIDR = podCIDRs[0]
	}
	if internal != "" {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: internal}}
	}
	api.CreateNode(t, n)
}

// joinPeer makes Node n2, with a daemon.
func joinPeer(t *testing.T, api *kubetest.Server) {
	api.CreateNode(t, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n2", Annotations: map[string]string{
			prefix + "kube-subnet-manager": "true", prefix + "backend-type": "vxlan", prefix + "public-ip": "192.0.2.2",
			prefix + "backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`,
		}},
		Spec: corev1.NodeSpec{PodCIDR: "10.244.2.0/24", PodCIDRs: []string{"10.244.2.0/24"}},
	})
}

// daemon is a twilld on node n1, within the test.
type daemon struct {
	t       *testing.T
	dir     string
	args    []string
	stderr  subnettest.Log
	code    chan int
	running bool
}

// newDaemon prepares one for an API server that it reaches at url.
func newDaemon(t *testing.T, api *kubetest.Server, url string, args ...string) *daemon {
	clear(t)
	t.Setenv("NODE_NAME", "n1")
	d := &daemon{t: t, dir: t.TempDir(), code: make(chan int, 1)}
	config := d.write("net-conf.json", `{"Network": "10.244.0.0/16"}`)
	d.args = append([]string{
		"--kube-subnet-mgr", "--kubeconfig-file", api.Kubeconfig(t, url, kubetest.Daemon), "--net-config-path", config,
		"--state-dir", d.path("state"), "--subnet-file", d.path("run", "subnet.env"), "--socket", d.path("run", "sock"),
		"--cni-conf-dir", d.path("net.d"),
	}, args...)
	t.Cleanup(func() {
		if d.running {
			d.stop()
		}
		if t.Failed() {
			t.Logf("twilld: %s", d.stderr.String())
		}
	})
	return d
}

func (d *daemon) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir}, parts...)...)
}

func (d *daemon) write(name, content string) string {
	d.t.Helper()
	require.NoError(d.t, os.MkdirAll(filepath.Dir(d.path(name)), 0o755))
	require.NoError(d.t, os.WriteFile(d.path(name), []byte(content), 0o644))
	return d.path(name)
}

func (d *daemon) start() {
	d.running = true
	go func() { d.code <- run(d.args, &bytes.Buffer{}, &d.stderr) }()
}

func (d *daemon) stop() {
	d.t.Helper()
	d.running = false
	require.NoError(d.t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
	require.Zero(d.t, <-d.code, "%s", &d.stderr)
}

// status asks as twill status does; the zero one while nobody answers.
func (d *daemon) status() (s overlay.Status) { return statusAt(d.path("run", "sock")) }

func statusAt(socket string) (s overlay.Status) {
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := c.Get("http://twilld/status")
	if err != nil {
		return s
	}
	defer resp.Body.Close()
	_ = json.NewDecoder(resp.Body).Decode(&s)
	return s
}

// eventually waits for something that a busy machine takes its time for.
func (d *daemon) eventually(what string, ok func() bool) {
	d.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !ok() {
		select {
		case c := <-d.code:
			d.running = false
			d.t.Fatalf("%s: exit code %d", what, c)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s := d.status()
			d.t.Fatalf("not within two minutes: %s\n%s", what, s.Text())
		}
	}
}

func (d *daemon) ready() {
	d.t.Helper()
	d.eventually("ready", func() bool { return d.status().Ready })
}

// notReady waits for a reason.
func (d *daemon) notReady(reason string) {
	d.t.Helper()
	d.eventually(reason, func() bool {
		s := d.status()
		return !s.Ready && strings.Contains(strings.Join(s.NotReady, "\n"), reason)
	})
}

// tunnel returns the parent and the local address of our device.
func tunnel(t testing.TB) (parent, local string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "-details", "-json", "link", "show", "twill.1").Output()
	if err != nil {
		return "", ""
	}
	var links []struct {
		LinkInfo struct {
			Data struct{ Link, Local string } `json:"info_data"`
		}
	}
	require.NoError(t, json.Unmarshal(out, &links))
	return links[0].LinkInfo.Data.Link, links[0].LinkInfo.Data.Local
}
