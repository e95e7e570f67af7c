package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"
)

// inside has libcni run plugins in a host's namespace.
type inside struct {
	*invoke.DefaultExec
	ns string
}

func (i inside) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", i.ns, path)
	cmd.Env, cmd.Stdin = environ, bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		e := new(types.Error)
		if json.Unmarshal(out, e) == nil && e.Msg != "" {
			return nil, e
		}
		return nil, fmt.Errorf("%s: %w: %s%s", path, err, out, stderr.Bytes())
	}
	return out, err
}

// conflist returns the example of dist/ with the host's directories, and more
// keys for plugins by their place; those past its end are added to it.
func (h host) conflist(t *testing.T, name string, more map[int]conf) []byte {
	t.Helper()
	text, err := os.ReadFile("../../dist/cni-conf/10-twill.conflist")
	require.NoError(t, err)
	var list map[string]any
	require.NoError(t, json.Unmarshal(text, &list))
	if name != "" {
		list["name"] = name
	}
	plugins := list["plugins"].([]any)
	set := func(i int, c conf) {
		if i == len(plugins) {
			plugins = append(plugins, map[string]any{})
			list["plugins"] = plugins
		}
		p := plugins[i].(map[string]any)
		for k, v := range c {
			if d, ok := p[k].(map[string]any); ok && k == "delegate" {
				for k, v := range v.(conf) {
					d[k] = v
				}
				continue
			}
			p[k] = v
		}
	}
	set(0, conf{"subnetFile": h.subnetFile, "ipam": conf{"dataDir": h.ipamDir}})
	for i, c := range more {
		set(i, c)
	}
	return must(json.Marshal(list))
}

// The list of dist/ and a plugin more, driven as containerd and CRI-O do it:
// every verb, with every plugin of the chain doing something.
func TestConflist(t *testing.T) {
	t.Parallel()
	h := newHost(t, dualEnv)
	h.device(t, "twill.1", 1, "10.5.52.0/32")
	ctx := t.Context()
	list, err := libcni.NetworkConfFromBytes(h.conflist(t, "", map[int]conf{
		3: {"type": "tuning", "dataDir": filepath.Join(h.dataDir, "tuning"), "sysctl": conf{"net.ipv4.ip_unprivileged_port_start": "80"}, "mtu": 1400},
	}))
	require.NoError(t, err)
	require.Equal(t, "1.1.0", list.CNIVersion, "a runtime of today chooses the newest version; an older one reads cniVersion")
	cni := libcni.NewCNIConfigWithCacheDir([]string{h.bin}, t.TempDir(), inside{&invoke.DefaultExec{RawExec: &invoke.RawExec{}}, h.ns})

	caps, err := cni.ValidateNetworkList(ctx, list)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"ips", "mac", "portMappings", "bandwidth"}, caps)

	err = cni.GetStatusNetworkList(ctx, list)
	requireCode(t, 51, err)
	h.device(t, "twill-v6.1", 1, "fd00:5:0:52::/128")
	require.NoError(t, cni.GetStatusNetworkList(ctx, list))

	ns := netns(t)
	rt := &libcni.RuntimeConf{
		ContainerID: "pod", NetNS: netnsPath(ns), IfName: "eth0", Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "web"}},
		CapabilityArgs: map[string]any{
			"ips": []string{"10.5.52.77"}, "mac": "02:00:00:00:00:07",
			"portMappings": []conf{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
			"bandwidth":    conf{"ingressRate": 8_000_000, "ingressBurst": 800_000},
		},
	}
	added, err := cni.AddNetworkList(ctx, list, rt)
	require.NoError(t, err)
	result, err := current.NewResultFromResult(added)
	require.NoError(t, err)
	require.Equal(t, "10.5.52.77/24", result.IPs[0].Address.String())
	eth0 := links(t, ns, "dev", "eth0")[0]
	require.Equal(t, "02:00:00:00:00:07", eth0.Addr)
	require.Equal(t, 1400, eth0.MTU, "tuning's")
	require.Equal(t, []string{"twill:cbr0/pod/eth0/10.5.52.77/fd00:5:0:52::2"}, h.aliases(t))
	require.Contains(t, ip(t, "netns", "exec", h.ns, "tc", "qdisc", "show", "dev", h.veths(t)[0]), "tbf")
	require.Contains(t, h.masquerade(t), "10.5.52.77:80")
	require.NoError(t, cni.CheckNetworkList(ctx, list, rt))

	// A second one, lost in a reboot with the runtime's memory of it: GC has
	// to find it by itself. Of the first the runtime knows, and GC deletes it.
	lost := *rt
	lost.ContainerID, lost.NetNS, lost.CapabilityArgs = "lost", netnsPath(netns(t)), nil
	_, err = cni.AddNetworkList(ctx, list, &lost)
	require.NoError(t, err)
	cni2 := libcni.NewCNIConfigWithCacheDir([]string{h.bin}, t.TempDir(), inside{&invoke.DefaultExec{RawExec: &invoke.RawExec{}}, h.ns})
	h.lose(t, strings.TrimPrefix(lost.NetNS, "/run/netns/"))
	require.NoError(t, cni2.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "pod", IfName: "eth0"}}}))
	require.Equal(t, []string{"10.5.52.77", "fd00:5:0:52::2"}, h.reserved(t))
	require.NoError(t, cni.CheckNetworkList(ctx, list, rt))

	require.NoError(t, cni.GCNetworkList(ctx, list, &libcni.GCArgs{}))
	require.Empty(t, h.reserved(t))
	require.Empty(t, h.veths(t))
	require.NotContains(t, h.masquerade(t), "10.5.52.77:80")
	require.Error(t, cni.CheckNetworkList(ctx, list, rt))
	for range 2 {
		require.NoError(t, cni.DelNetworkList(ctx, list, rt))
	}
	require.NoError(t, cni.GCNetworkList(ctx, list, nil))
}

// Two networks of one daemon, a pod in both of them.
func TestTwoNetworks(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	other := h
	other.subnetFile = filepath.Join(t.TempDir(), "subnet.env")
	other.setEnv(t, strings.ReplaceAll(v4Env, "10.5.", "10.9."))
	ctx := t.Context()
	cni := libcni.NewCNIConfigWithCacheDir([]string{h.bin}, t.TempDir(), inside{&invoke.DefaultExec{RawExec: &invoke.RawExec{}}, h.ns})
	a, err := libcni.NetworkConfFromBytes(h.conflist(t, "blue", nil))
	require.NoError(t, err)
	b, err := libcni.NetworkConfFromBytes(other.conflist(t, "green", map[int]conf{0: {"delegate": conf{"bridge": "green0", "isDefaultGateway": false}}}))
	require.NoError(t, err)
	ns := netns(t)
	rt := libcni.RuntimeConf{ContainerID: "pod", NetNS: netnsPath(ns), IfName: "eth0"}
	rt2 := rt
	rt2.IfName = "net1"
	for list, r := range map[*libcni.NetworkConfigList]*libcni.RuntimeConf{a: &rt, b: &rt2} {
		_, err = cni.AddNetworkList(ctx, list, r)
		require.NoError(t, err)
		require.NoError(t, cni.CheckNetworkList(ctx, list, r))
	}
	require.ElementsMatch(t, []string{"twill:blue/pod/eth0/10.5.52.2/", "twill:green/pod/net1/10.9.52.2/"}, h.aliases(t))
	reaches(t, ns, "10.9.52.1")

	require.NoError(t, cni.GCNetworkList(ctx, a, &libcni.GCArgs{}))
	require.Equal(t, []string{"twill:green/pod/net1/10.9.52.2/"}, h.aliases(t))
	require.NoError(t, cni.CheckNetworkList(ctx, b, &rt2))
	require.FileExists(t, filepath.Join(h.ipamDir, "green", "10.9.52.2"))
	require.NoFileExists(t, filepath.Join(h.ipamDir, "blue", "10.5.52.2"))
	require.NoError(t, cni.DelNetworkList(ctx, b, &rt2))
	require.Empty(t, h.veths(t))
}

// CNI's own tool, as a person would use it; its cache is in /var/lib/cni,
// which is this test's own.
func TestCNITool(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	h.device(t, "twill.1", 1, "10.5.52.0/32")
	confDir, varLib := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(confDir, "10-twill.conflist"), h.conflist(t, "", nil), 0o644))
	ns := netns(t)
	tool := func(verb string) (string, error) {
		cmd := exec.Command("unshare", "--mount", "sh", "-ec", `mount --bind "$1" /var/lib && exec ip netns exec "$2" "$3" "$4" cbr0 "$5"`,
			"sh", varLib, h.ns, filepath.Join(h.bin, "cnitool"), verb, netnsPath(ns))
		cmd.Env = append(os.Environ(), "CNI_PATH="+h.bin, "NETCONFPATH="+confDir, `CAP_ARGS={"portMappings":[{"hostPort":9090,"containerPort":80,"protocol":"tcp"}]}`)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, verb := range []string{"status", "add", "check", "status", "gc", "del", "del"} {
		out, err := tool(verb)
		require.NoError(t, err, "%s: %s", verb, out)
		switch verb {
		case "add":
			require.Contains(t, out, `"address": "10.5.52.2/24"`)
			require.Contains(t, h.masquerade(t), "10.5.52.2:80")
		case "gc": // cnitool gives no list, and libcni deletes what it remembers
			require.Empty(t, h.reserved(t))
		}
	}
	require.Empty(t, h.veths(t))
	require.NotContains(t, h.masquerade(t), "10.5.52.2:80")
	ip(t, "-n", h.ns, "link", "set", "twill.1", "down")
	out, err := tool("status")
	require.Error(t, err)
	require.Contains(t, out, "the VXLAN device twill.1 is down")
}
