// Package kubernetes_test renders the manifests, as Helm and kustomize do, and
// holds them against a real kube-apiserver.
package kubernetes_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/twill-net/twill/subnet"
)

//go:generate go -C render run . write ..

// renderer builds the program below render/, once.
var renderer = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "twill-render-")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "render")
	cmd := exec.Command("go", "-C", "render", "build", "-o", program, ".")
	cmd.Stderr = os.Stderr
	return program, cmd.Run()
})

func TestMain(m *testing.M) {
	code := m.Run()
	if program, err := renderer(); err == nil {
		_ = os.RemoveAll(filepath.Dir(program))
	}
	os.Exit(code)
}

func try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	program, err := renderer()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	return string(out) + stderr.String(), err
}

// object is one of Kubernetes', as JSON has it.
type object map[string]any

func (o object) text(path ...string) string {
	s, _ := o.at(path...).(string)
	return s
}

func (o object) at(path ...string) any {
	var value any = map[string]any(o)
	for _, key := range path {
		m, _ := value.(map[string]any)
		value = m[key]
	}
	return value
}

// render returns the objects that a command prints, without those that are only
// comments.
func render(t *testing.T, args ...string) []object {
	t.Helper()
	out, err := try(t, args...)
	require.NoError(t, err, out)
	var objects []object
	for doc := range strings.SplitSeq("\n"+out, "\n---\n") {
		var o object
		require.NoError(t, yaml.UnmarshalStrict([]byte(doc), &o), doc)
		if o != nil {
			objects = append(objects, o)
		}
	}
	require.NotEmpty(t, objects)
	return objects
}

func find(t *testing.T, objects []object, kind, name string) object {
	t.Helper()
	for _, o := range objects {
		if o.text("kind") == kind && o.text("metadata", "name") == name {
			return o
		}
	}
	require.Fail(t, "not there", "%s %s", kind, name)
	return nil
}

// What is committed is what the chart renders; a change of either needs `make
// generate`.
func TestWritten(t *testing.T) {
	t.Parallel()
	copied := filepath.Join(t.TempDir(), "kubernetes")
	require.NoError(t, os.CopyFS(filepath.Join(copied, "chart"), os.DirFS("chart")))
	require.NoError(t, os.CopyFS(filepath.Join(copied, "..", "cni-conf"), os.DirFS("../cni-conf")))
	out, err := try(t, "write", copied)
	require.NoError(t, err, out)
	for _, dir := range []string{"chart", "base", "overlays", "uninstall"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(copied, dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, err := filepath.Rel(copied, path)
			require.NoError(t, err)
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			have, err := os.ReadFile(name)
			require.NoError(t, err)
			require.Equal(t, string(want), string(have), "%s: make generate", name)
			return nil
		}))
	}
}

// The chart and each kustomization install the same.
func TestSame(t *testing.T) {
	t.Parallel()
	for dir, set := range map[string][]string{
		"base":                {},
		"overlays/ipv4":       {},
		"overlays/dual-stack": {"-set", "network.ipv6=fd00:244::/56"},
		"overlays/ipv6":       {"-set", "network.ipv4=,network.ipv6=fd00:244::/56"},
		"uninstall":           {"-set", "uninstall=true"},
	} {
		chart := settled(t, render(t, append([]string{"chart", "chart/twill", "-set", "createNamespace=true"}, set...)...))
		kustomized := settled(t, render(t, "kustomize", dir))
		require.Equal(t, len(chart), len(kustomized), dir)
		for key, want := range chart {
			require.JSONEq(t, want, kustomized[key], "%s: %s", dir, key)
		}
	}
}

// settled takes away what must differ: how a change of the config replaces Pods.
func settled(t *testing.T, objects []object) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, o := range objects {
		metadata := o["metadata"].(map[string]any)
		name := metadata["name"].(string)
		if o.text("kind") == "ConfigMap" {
			metadata["name"] = "twilld"
			data := o["data"].(map[string]any)
			for k, v := range data {
				data[k] = strings.TrimSpace(v.(string))
			}
			name = "twilld"
		}
		if o.text("kind") == "DaemonSet" && name == "twilld" {
			annotations := o.at("spec", "template", "metadata", "annotations").(map[string]any)
			delete(annotations, "checksum/config")
			volumes := o.at("spec", "template", "spec", "volumes").([]any)
			config := object(volumes[0].(map[string]any))
			require.True(t, strings.HasPrefix(config.text("configMap", "name"), "twilld"))
			config.at("configMap").(map[string]any)["name"] = "twilld"
		}
		raw, err := json.Marshal(o)
		require.NoError(t, err)
		all[o.text("kind")+" "+name] = string(raw)
	}
	return all
}

// A change of the config has the Pods replaced.
func TestConfigReplacesPods(t *testing.T) {
	t.Parallel()
	checksum := func(set string) string {
		d := find(t, render(t, "chart", "chart/twill", "-set", set), "DaemonSet", "twilld")
		return d.text("spec", "template", "metadata", "annotations", "checksum/config")
	}
	require.NotEmpty(t, checksum("backend.vni=1"))
	require.Equal(t, checksum("backend.vni=1"), checksum("logLevel=info"))
	require.NotEqual(t, checksum("backend.vni=1"), checksum("backend.vni=2"))
	names := map[string]bool{}
	for _, dir := range []string{"base", "overlays/dual-stack", "overlays/ipv6"} {
		for _, o := range render(t, "kustomize", dir) {
			if o.text("kind") == "ConfigMap" {
				names[o.text("metadata", "name")] = true
			}
		}
	}
	require.Len(t, names, 3)
}

// Whatever ends with an error leaves its last words in its Pod's status.
func TestLastWords(t *testing.T) {
	t.Parallel()
	containers := 0
	for dir, name := range map[string]string{"base": "twilld", "uninstall": "twill-uninstall"} {
		d := find(t, render(t, "kustomize", dir), "DaemonSet", name)
		for _, list := range []string{"initContainers", "containers"} {
			for _, c := range d.at("spec", "template", "spec", list).([]any) {
				c := object(c.(map[string]any))
				require.Equal(t, "FallbackToLogsOnError", c.text("terminationMessagePolicy"), "%s: %s", name, c.text("name"))
				containers++
			}
		}
	}
	require.Equal(t, 6, containers)
}

// Who prepares the host chooses the same interface as the daemon: by the same
// variables, and by what the daemon knew last.
func TestPrepareKnowsWhatTwilldKnows(t *testing.T) {
	t.Parallel()
	values := filepath.Join(t.TempDir(), "values.yaml")
	require.NoError(t, os.WriteFile(values, []byte(`{interfaces: [eth1], extraEnv: [{name: TWILLD_IFACE_REGEX, value: "^eth"}]}`), 0o644))
	d := find(t, render(t, "chart", "chart/twill", "-f", values), "DaemonSet", "twilld")
	prepare := object(d.at("spec", "template", "spec", "initContainers").([]any)[0].(map[string]any))
	twilld := object(d.at("spec", "template", "spec", "containers").([]any)[0].(map[string]any))
	require.Equal(t, "prepare", prepare.text("name"))
	variable := map[string]any{"name": "TWILLD_IFACE_REGEX", "value": "^eth"}
	for _, c := range []object{prepare, twilld} {
		require.Contains(t, c["env"], variable, c.text("name"))
		require.Contains(t, c["args"], "--iface=eth1", c.text("name"))
	}
	require.Contains(t, prepare["volumeMounts"], map[string]any{"name": "state", "mountPath": "/var/lib/twill", "readOnly": true})
	require.Contains(t, twilld["volumeMounts"], map[string]any{"name": "state", "mountPath": "/var/lib/twill"})
}

// portmap's backend is its own, and the chart's default leaves the choice to it.
func TestPortmapBackend(t *testing.T) {
	t.Parallel()
	conflist := func(set string) string {
		c := find(t, render(t, "chart", "chart/twill", "-set", set), "ConfigMap", "twilld")
		return c.text("data", "cni-conf.json")
	}
	plain, err := os.ReadFile("../cni-conf/10-twill.conflist")
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(string(plain)), strings.TrimSpace(conflist("cni.portmapBackend=")))
	for _, backend := range []string{"iptables", "nftables"} {
		var have, want object
		require.NoError(t, json.Unmarshal([]byte(conflist("cni.portmapBackend="+backend)), &have))
		require.NoError(t, json.Unmarshal(plain, &want))
		plugins := want["plugins"].([]any)
		require.Equal(t, "portmap", plugins[1].(map[string]any)["type"])
		plugins[1].(map[string]any)["backend"] = backend
		require.Equal(t, want, have)
	}
	checksum := func(set string) string {
		d := find(t, render(t, "chart", "chart/twill", "-set", set), "DaemonSet", "twilld")
		return d.text("spec", "template", "metadata", "annotations", "checksum/config")
	}
	require.NotEqual(t, checksum("cni.portmapBackend="), checksum("cni.portmapBackend=nftables"))
}

func TestSchema(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"netwrok.ipv4=10.0.0.0/8", "network.ip4=10.0.0.0/8", "network.ipv4=10.0.0.0", "network.ipv6=10.0.0.0/8", "network.ipv4=",
		"backend.vni=0", "backend.vni=16777216", "backend.port=65536", "backend.port=x", "backend.mtu=100", "backend.type=vxlan",
		"ipMasq=maybe", "firewall=iptables", "kubeApiUrl=192.0.2.1", "kubeApiUrl=https://user@192.0.2.1", "annotationPrefix=Example.com",
		"annotationPrefix=a/b/c", "extraArgs={x}", "logLevel=trace", "health.port=0", "health.address=localhost", "cni.binDir=opt", "cni.portmapBackend=ipvs",
		"image.tag=a b", "image.digest=sha256:1", "image.pullPolicy=never", "resources.limit.memory=1Gi", "tolerations=x", "nodeSelector.a=1",
		"network.ipv4=10.1.0.0/33", "network.ipv4=10.256.0.0/16", "network.ipv4=10.1.0.0/016", "network.ipv6=fd00::/129", "network.ipv6=fd00::/048",
		"networkConfig.Netwrok=abc", "networkConfig.network=10.1.0.0/16", "networkConfig.SubnetLen=x", "networkConfig.EnableNFTables=maybe",
		"networkConfig.Network=10.1.0.0/33", "networkConfig.IPv6Network=fd00::/129", "networkConfig.NonMasqueradeCIDRs={10.1.0.0/33}",
		"networkConfig.NonMasqueradeCIDRs=10.1.0.0/16", "networkConfig.Backend.Typ=vxlan", "networkConfig.Backend.VNI=x",
		"admissionPolicy=1", "uninstall=1", "priorityClassName=1", "interfaces={a b}", "interfaces=eth0",
	} {
		out, err := try(t, "chart", "chart/twill", "-set", bad)
		require.Error(t, err, bad)
		key, _, _ := strings.Cut(bad, "=")
		top, _, _ := strings.Cut(key, ".")
		require.Contains(t, out, top, bad)
	}
	for _, good := range []string{
		"network.ipv6=fd00:244::/56", "network.ipv4=,network.ipv6=2001:db8::/48", "backend.mtu=1500", "backend.vni=16777215", "backend.directRouting=true",
		"kubeApiUrl=https://[2001:db8::1]:6443", "kubeApiUrl=https://api.example.com:6443/", "annotationPrefix=example.com", "annotationPrefix=example.com/x-",
		"extraArgs={--ip-blackhole-route,-v}", "health.address=::", "image.digest=sha256:" + strings.Repeat("0", 64), "interfaces={eth0,192.0.2.1}", "cni.portmapBackend=",
		"networkConfig.Backend.GBP=true", "networkConfig.SubnetLen=26", "networkConfig.NonMasqueradeCIDRs={192.168.0.0/16,2001:db8::/32}",
		"networkConfig.MasqueradeIPv4=false", "networkConfig.SubnetMin=10.244.16.0", "networkConfig.Network=10.0.0.0/8", "network.ipv4=100.64.0.0/10", "global.anything=1", "resources=null", "tolerations=null", "seLinuxOptions=null",
	} {
		out, err := try(t, "chart", "chart/twill", "-set", good)
		require.NoError(t, err, "%s: %s", good, out)
	}
}

// The schema has the keys of net-conf.json that its parser takes, which says
// them of one that it does not.
func TestSchemaOfNetworkConfig(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("chart/twill/values.schema.json")
	require.NoError(t, err)
	var schema object
	require.NoError(t, json.Unmarshal(raw, &schema))
	for unknown, path := range map[string][]string{
		`{"Unknown": 1}`: {"properties", "networkConfig"},
		`{"Network": "10.244.0.0/16", "Backend": {"Unknown": 1}}`: {"properties", "networkConfig", "properties", "Backend"},
	} {
		var refused *subnet.ConfigError
		_, err := subnet.ParseConfig([]byte(unknown))
		require.ErrorAs(t, err, &refused)
		properties, _ := schema.at(append(path, "properties")...).(map[string]any)
		require.ElementsMatch(t, strings.Split(refused.Keys, ", "), slices.Collect(maps.Keys(properties)), path)
		require.Equal(t, false, schema.at(append(path, "additionalProperties")...), path)
	}
}
