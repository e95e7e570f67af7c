package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-net/twill/subnet/kube/kubetest"
)

func TestNodeName(t *testing.T) {
	clear(t)
	hostname, err := os.Hostname()
	require.NoError(t, err)
	for _, c := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{nil, map[string]string{"NODE_NAME": "n1"}, hostname},
		{[]string{"--kube-subnet-mgr"}, map[string]string{"NODE_NAME": "n1"}, "n1"},
		{[]string{"--kube-subnet-mgr", "--node-name=n2"}, map[string]string{"NODE_NAME": "n1"}, "n2"},
		{[]string{"--kube-subnet-mgr", "--node-name=" + hostname}, map[string]string{"NODE_NAME": "n1"}, hostname},
		{nil, map[string]string{"NODE_NAME": "n1", "TWILLD_NODE_NAME": "n3", "TWILLD_KUBE_SUBNET_MGR": "true"}, "n3"},
	} {
		t.Setenv("TWILLD_NODE_NAME", "")
		t.Setenv("TWILLD_KUBE_SUBNET_MGR", "")
		for name, value := range c.env {
			t.Setenv(name, value)
		}
		var o options
		require.NoError(t, o.parse(o.flags(), c.args))
		require.Equal(t, c.want, o.nodeName, "%v %v", c.args, c.env)
	}
}

// insideEnv marks the process that is the node of TestKubernetes.
const insideEnv = "TWILLD_TEST_INSIDE"

// A whole daemon on a real API server, in a network namespace of its own.
func TestKubernetes(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--mount", os.Args[0], "-test.run=^TestKubernetes$", "-test.v")
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	clear(t)
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "eth0", "type", "veth", "peer", "name", "far0"},
		{"link", "set", "far0", "up"}, {"link", "set", "eth0", "up"},
		{"address", "add", "192.0.2.1/24", "dev", "eth0"},
		{"route", "add", "default", "via", "192.0.2.254"},
	} {
		out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput()
		require.NoError(t, err, "ip %v: %s", args, out)
	}
	api := kubetest.Start(t)
	api.Grant(t,
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list", "watch"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes/status"}, Verbs: []string{"patch"}})
	api.CreateNode(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/25", PodCIDRs: []string{"10.244.1.0/25"}}})
	const prefix = "flannel.alpha.coreos.com/"
	api.CreateNode(t, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n2", Annotations: map[string]string{
			prefix + "kube-subnet-manager": "true", prefix + "backend-type": "vxlan", prefix + "public-ip": "192.0.2.2",
			prefix + "backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`,
		}},
		Spec: corev1.NodeSpec{PodCIDR: "10.244.2.0/24", PodCIDRs: []string{"10.244.2.0/24"}},
	})

	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
		return file
	}
	config := write("net-conf.json", `{"Network": "10.244.0.0/16"}`)
	source := write("conflist", `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"twill"}]}`)
	t.Setenv("NODE_NAME", "n1")
	args := []string{
		"--kube-subnet-mgr", "--kubeconfig-file", api.Kubeconfig(t, api.URL, kubetest.Daemon), "--net-config-path", config,
		"--state-dir", filepath.Join(dir, "state"), "--subnet-file", filepath.Join(dir, "run", "subnet.env"), "--socket", filepath.Join(dir, "run", "sock"),
		"--cni-conf-dir", filepath.Join(dir, "net.d"), "--cni-conf-install", source,
	}
	var stderr bytes.Buffer
	code := make(chan int, 1)
	go func() { code <- run(args, &bytes.Buffer{}, &stderr) }()
	available := func() bool {
		n := api.Node(t, "n1")
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionFalse {
				return n.Annotations[prefix+"public-ip"] == "192.0.2.1" && n.Annotations[prefix+"kube-subnet-manager"] == "true"
			}
		}
		return false
	}
	deadline := time.Now().Add(time.Minute)
	for !available() && time.Now().Before(deadline) {
		select {
		case c := <-code:
			t.Fatalf("exit code %d: %s", c, &stderr)
		case <-time.After(20 * time.Millisecond):
		}
	}
	ok := available()
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
	require.Zero(t, <-code, "%s", &stderr)
	require.True(t, ok, "%s", &stderr)
	env, err := os.ReadFile(filepath.Join(dir, "run", "subnet.env"))
	require.NoError(t, err)
	require.Contains(t, string(env), "FLANNEL_SUBNET=10.244.1.1/25\n")
	require.FileExists(t, filepath.Join(dir, "net.d", "10-twill.conflist"))
	out, err := exec.CommandContext(t.Context(), "ip", "-json", "route", "get", "10.244.2.7").Output()
	require.NoError(t, err)
	var routes []struct{ Dev string }
	require.NoError(t, json.Unmarshal(out, &routes))
	require.Equal(t, "twill.1", routes[0].Dev)
	state, err := os.ReadFile(filepath.Join(dir, "state", "last-good.json"))
	require.NoError(t, err)
	require.Contains(t, string(state), fmt.Sprintf(`"store":"kubernetes %s %s"`, api.URL, prefix))

	stderr.Reset()
	require.Zero(t, run(append(args, "--cleanup"), &bytes.Buffer{}, &stderr), "%s", &stderr)
	require.NoDirExists(t, filepath.Join(dir, "state"))
	require.NoFileExists(t, filepath.Join(dir, "net.d", "10-twill.conflist"))
	_, err = net.InterfaceByName("twill.1")
	require.Error(t, err)
}
