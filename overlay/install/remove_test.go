package install_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/install"
)

func put(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), mode))
}

// files returns what is below a directory, but for directories.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			list = append(list, path[len(dir):])
		}
		return err
	}))
	return list
}

func TestRemove(t *testing.T) {
	h := newHost(t)
	root, image := t.TempDir(), t.TempDir()
	bin := filepath.Join(root, "opt/cni/bin")
	put(t, image+"/twill", "ours", 0o755)
	put(t, image+"/bridge", "new", 0o755)
	put(t, image+"/portmap", "new", 0o755)
	put(t, bin+"/bridge", "the distribution's", 0o755)
	put(t, bin+"/calico", "another's", 0o755)
	_, err := install.Plugins(image, bin)
	require.NoError(t, err)
	put(t, image+"/twill", "ours, upgraded", 0o755)
	_, err = install.Plugins(image, bin)
	require.NoError(t, err)

	const list = `{"name":"net1","cniVersion":"1.0.0","plugins":[{"type":"twill","delegate":{"bridge":"br-pods"}},{"type":"portmap"}]}`
	put(t, root+"/etc/cni/net.d/10-twill.conflist", list, 0o644)
	put(t, root+"/etc/cni/net.d/20-other.conflist", "{}", 0o644)
	put(t, root+"/var/lib/cni/networks/net1/10.244.1.2", "x", 0o644)
	put(t, root+"/var/lib/cni/results/net1-0123-eth0", "x", 0o644)
	put(t, root+"/var/lib/cni/results/other-0123-eth0", "x", 0o644)
	h.run(`ip link add br-pods type bridge
		ip link set far1 master br-pods`)
	gone := install.Host{Root: root, BinDir: "/opt/cni/bin", ConfDir: "/etc/cni/net.d", RunDir: "/run/twill", StateDir: "/var/lib/twill"}

	before := files(t, root)
	removed, err := gone.Remove(t.Context(), h)
	require.ErrorContains(t, err, "pods are still attached on this node (behind the link far1): drain it, or delete them; ")
	require.Empty(t, removed)
	require.Equal(t, before, files(t, root), "a pod that cannot be taken down stays for ever")
	h.run("ip link set far1 nomaster; ip link set far1 alias twill:net1/0123/eth0/10.244.1.2/")
	_, err = gone.Remove(t.Context(), h)
	require.ErrorContains(t, err, "(container 0123 behind far1)", "a pod without a bridge")
	require.ErrorContains(t, err, "; `crictl pods --id CONTAINER` says which pod a container is of")
	h.run("ip link set far1 alias other")

	put(t, bin+"/portmap", "another's", 0o755)
	removed, err = gone.Remove(t.Context(), h)
	require.NoError(t, err)
	require.Contains(t, removed, "bridge br-pods")
	require.Equal(t, []string{
		"/etc/cni/net.d/20-other.conflist",
		"/opt/cni/bin/bridge",  // was there before; ours now, and of use to others
		"/opt/cni/bin/calico",  // never ours
		"/opt/cni/bin/portmap", // replaced since
		"/var/lib/cni/results/other-0123-eth0",
	}, files(t, root))
	require.NoDirExists(t, root+"/var/lib/cni/networks")
	left, err := gone.Left()
	require.NoError(t, err)
	require.Empty(t, left)

	removed, err = gone.Remove(t.Context(), h)
	require.NoError(t, err)
	require.Empty(t, removed)
}

// A pod that is still attached is named as Kubernetes does: a runtime keeps what
// it called the plugins with.
func TestRemoveNamesPods(t *testing.T) {
	h := newHost(t)
	root, bin := t.TempDir(), t.TempDir()
	put(t, bin+"/twill", "#!/bin/sh\necho '{\"cniVersion\":\"1.0.0\"}'\n", 0o755)
	list, err := libcni.NetworkConfFromBytes([]byte(`{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"twill"}]}`))
	require.NoError(t, err)
	runtime := libcni.NewCNIConfigWithCacheDir([]string{bin}, root+"/var/lib/cni", nil)
	alias := func(link, container, ifName string) {
		h.run("ip link set " + link + " alias twill:cbr0/" + container + "/" + ifName + "/10.244.1.2/")
	}
	attach := func(link, container, ifName, name string) {
		_, err := runtime.AddNetworkList(t.Context(), list, &libcni.RuntimeConf{
			ContainerID: container, NetNS: "/proc/self/ns/net", IfName: ifName,
			Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "kube-system"}, {"K8S_POD_NAME", name}},
		})
		require.NoError(t, err)
		alias(link, container, ifName)
	}
	attach("far0", "0123", "eth0", "node-exporter-x7k2p")
	attach("far1", "0123", "eth1", "node-exporter-x7k2p")
	gone := install.Host{Root: root, BinDir: "/opt/cni/bin", ConfDir: "/etc/cni/net.d", RunDir: "/run/twill", StateDir: "/var/lib/twill"}
	_, err = gone.Remove(t.Context(), h)
	require.EqualError(t, err, "pods are still attached on this node (kube-system/node-exporter-x7k2p): drain it, or delete them; "+
		"a drain leaves those of DaemonSets: delete these, or keep them off the node")
	alias("far1", "4567", "eth0")
	_, err = gone.Remove(t.Context(), h)
	require.ErrorContains(t, err, "(container 4567 behind far1, kube-system/node-exporter-x7k2p)")

	for i := range 11 {
		link := fmt.Sprint("more", i)
		h.run("ip link add " + link + " type veth peer name peer" + link)
		attach(link, fmt.Sprint("cafe", i), "eth0", link)
	}
	_, err = gone.Remove(t.Context(), h)
	require.ErrorContains(t, err, "kube-system/more7, and 3 more)")
}

// On a host of which all was made for us nothing is left, not even directories.
func TestRemoveLeavesNothing(t *testing.T) {
	h := newHost(t)
	root, image := t.TempDir(), t.TempDir()
	put(t, image+"/twill", "ours", 0o755)
	put(t, image+"/bridge", "bridge", 0o755)
	require.NoError(t, os.MkdirAll(root+"/opt/cni", 0o755))
	_, err := install.Plugins(image, root+"/opt/cni/bin")
	require.NoError(t, err)
	put(t, root+"/var/lib/cni/networks/cbr0/10.244.1.2", "x", 0o644)
	put(t, root+"/var/lib/twill/lock", "", 0o600)
	gone := install.Host{Root: root, BinDir: "/opt/cni/bin", ConfDir: "/etc/cni/net.d", RunDir: "/run/twill", StateDir: "/var/lib/twill"}
	left, err := gone.Left()
	require.NoError(t, err)
	require.Equal(t, []string{
		"file " + root + "/opt/cni/bin/.twill-installed", "file " + root + "/opt/cni/bin/twill", "file " + root + "/var/lib/twill",
	}, left)
	_, err = gone.Remove(t.Context(), h)
	require.NoError(t, err)
	require.NoDirExists(t, root+"/opt/cni/bin")
	require.NoDirExists(t, root+"/var/lib/cni")
	left, err = gone.Left()
	require.NoError(t, err)
	require.Equal(t, []string{"file " + root + "/var/lib/twill"}, left, "twilld --cleanup removes that")
}
