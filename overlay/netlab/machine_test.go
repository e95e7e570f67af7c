package netlab_test

import (
	"crypto/rand"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// A node for a container runtime keeps to itself what that writes, over a reboot.
func TestMachine(t *testing.T) {
	t.Parallel()
	machine := &netlab.Machine{
		Keep:    []string{"/var/lib/kubelet", "/var/log"},
		Etc:     map[string]string{"resolv.conf": "nameserver 192.0.2.53\n"},
		Pretend: map[string]string{"kernel/panic": "4711"},
		Cgroup:  "twill-test-" + rand.Text()[:8],
	}
	lab := netlabtest.New(t, netlab.Options{Nodes: 2, Machine: machine})
	n, other := lab.Node(1), lab.Node(2)
	run := func(n *netlab.Node, script string) string {
		t.Helper()
		out, err := n.Exec(t.Context(), "sh", "-ec", script)
		require.NoError(t, err)
		return out
	}

	require.Empty(t, run(n, "ls /opt/cni/bin /etc/cni/net.d /var/lib/kubelet /var/log /tmp | grep -v : | grep . || true"))
	require.Equal(t, "nameserver 192.0.2.53\n4711\n", run(n, "cat /etc/resolv.conf /proc/sys/kernel/panic"))
	run(n, "echo 0 >/proc/sys/kernel/panic")
	require.Equal(t, "4711\n", run(other, "cat /proc/sys/kernel/panic"))
	require.Equal(t, "shared\n", run(n, "findmnt --noheadings --output PROPAGATION /"))
	_, err := n.Exec(t.Context(), "touch", "/usr/of-the-machine")
	require.ErrorContains(t, err, "Read-only file system")

	run(n, "for d in /opt/cni/bin /etc/cni/net.d /var/lib/kubelet /var/log /tmp; do touch $d/mark; done")
	for _, g := range groups(t, machine.Cgroup) {
		if filepath.Base(g) == "node1" {
			run(n, "mkdir "+g+"/pod")
		}
	}
	require.NoError(t, n.Reboot(t.Context()))
	const marks = "ls /opt/cni/bin/mark /etc/cni/net.d/mark /var/lib/kubelet/mark /var/log/mark /tmp/mark 2>/dev/null || true"
	require.Equal(t, "/etc/cni/net.d/mark\n/opt/cni/bin/mark\n/var/lib/kubelet/mark\n/var/log/mark\n", run(n, marks))
	require.Empty(t, run(other, marks))
	made := groups(t, machine.Cgroup)
	require.NotEmpty(t, made)
	for _, g := range made {
		require.NotEqual(t, "pod", filepath.Base(g), "a reboot leaves no cgroups")
	}
	require.NoError(t, lab.Close())
	require.Empty(t, groups(t, machine.Cgroup))
}

// groups are the cgroups in all hierarchies below those of a name.
func groups(t *testing.T, name string) (found []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil && d.IsDir() && strings.Contains(path, "/"+name) {
			found = append(found, path)
		}
		return err
	}))
	return found
}
