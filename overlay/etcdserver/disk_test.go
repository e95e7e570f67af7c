package etcdserver_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallDisk gives the store a disk of some megabytes, which nobody else sees:
// a tmpfs in a mount namespace that ends with the test. The returned path
// leads there from outside.
func (s *store) smallDisk(t *testing.T, megabytes int) (outside string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a tmpfs")
	}
	disk := filepath.Join(filepath.Dir(s.cfg.DataDir), "disk")
	require.NoError(t, os.Mkdir(disk, 0o700))
	holder := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-ec",
		fmt.Sprintf("mount -t tmpfs -o size=%dm small %s; echo mounted; exec sleep infinity", megabytes, disk))
	holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := holder.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, holder.Start())
	t.Cleanup(func() {
		s.end(syscall.SIGKILL)
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "mounted\n", line)
	pid := strconv.Itoa(holder.Process.Pid)
	s.cfg.DataDir = filepath.Join(disk, "data")
	s.wrap = []string{"nsenter", "--mount", "-t", pid, "--"}
	return filepath.Join("/proc", pid, "root", disk)
}

// A full disk stops the store with a word on what to do, and takes nothing
// that was acknowledged.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	const advice = "is full: make room"

	t.Run("at the first start", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		s.smallDisk(t, 20)
		s.refuses(t, advice)
	})

	t.Run("later", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		disk := s.smallDisk(t, 160)
		s.start(t)
		c := s.client(t)
		ballast := filepath.Join(disk, "ballast")
		f, err := os.Create(ballast)
		require.NoError(t, err)
		for err == nil {
			_, err = f.Write(make([]byte, 1<<20))
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.NoError(t, f.Close())

		acked := 0
		for err = nil; err == nil; acked++ {
			_, err = c.Put(t.Context(), fmt.Sprintf("w0/%d", acked+1), strings.Repeat("x", 10<<10))
		}
		acked--
		require.Error(t, s.cmd.Wait())
		s.cmd = nil
		require.Contains(t, s.log.String(), advice)
		require.NotContains(t, s.log.String(), "goroutine ")
		s.log.Reset()
		if s.try(t) != nil { // a start may do without more room
			require.Contains(t, s.log.String(), advice)
		}
		s.end(syscall.SIGKILL)
		require.NoError(t, os.Remove(ballast))
		s.start(t)
		s.requireAcked(t, []int{acked})
		t.Logf("%d writes until the disk was full", acked)
	})
}
