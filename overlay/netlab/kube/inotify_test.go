package kube

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each user namespace has a limit of its own below those around it, so that the
// machine's stays as it is.
func TestInotifyRoom(t *testing.T) {
	const child = "TWILL_TEST_INOTIFY"
	if os.Getenv(child) != "" {
		require.NoError(t, os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("5"), 0))
		require.NoError(t, inotifyRoom(5))
		require.NoError(t, inotifyRoom(5), "they are given back")
		require.ErrorContains(t, inotifyRoom(6), "making room for the cluster's 6 inotify instances: 5 are left of fs.inotify.max_user_instances")
		return
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestInotifyRoom$", "-test.v")
	cmd.Env = append(os.Environ(), child+"=1")
	root := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: root}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), fmt.Sprint("--- PASS: ", t.Name()), "it ran")
}
