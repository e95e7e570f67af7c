package etcdtest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Build returns the path of etcd's program, built in the cache of the working
// tree from the version that go.mod pins.
func Build(t testing.TB) string {
	t.Helper()
	const pkg = "go.etcd.io/etcd/server/v3"
	root := filepath.Dir(goCommand(t, "", "env", "GOMOD"))
	dir := filepath.Join(root, ".cache", "etcd", goCommand(t, root, "list", "-m", "-f", "{{.Version}}", pkg)+"-"+runtime.GOARCH)
	binary := filepath.Join(dir, "etcd")
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	tmp, err := os.MkdirTemp(dir, "build-") // several test binaries may build at once
	require.NoError(t, err)
	defer os.RemoveAll(tmp)
	goCommand(t, root, "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(tmp, "etcd"), pkg)
	require.NoError(t, os.Rename(filepath.Join(tmp, "etcd"), binary))
	return binary
}

func goCommand(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go %s: %s", strings.Join(args, " "), &stderr)
	return strings.TrimSpace(string(out))
}

// Kill ends the server at once. It does nothing when it is not running.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the server cleanly.
func (s *Server) Stop() {
	s.Resume()
	s.end(syscall.SIGTERM)
}

func (s *Server) end(sig syscall.Signal) {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	<-s.exited
	s.cmd, s.paused = nil, false
}

// Restart starts a server that was ended, on the same port and data.
func (s *Server) Restart() {
	s.t.Helper()
	require.Nil(s.t, s.cmd, "the server still runs")
	require.NoError(s.t, s.exec())
	require.NoError(s.t, s.await())
}

// Pause makes the server hang: connections stay, nothing is answered.
func (s *Server) Pause() {
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGSTOP))
	s.paused = true
}

// Resume ends a Pause.
func (s *Server) Resume() {
	if s.paused {
		require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGCONT))
		s.paused = false
	}
}

// Compact makes the server forget all history up to now.
func (s *Server) Compact() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	client := s.Client(s.t)
	resp, err := client.Get(ctx, "/")
	require.NoError(s.t, err)
	_, err = client.Compact(ctx, resp.Header.Revision)
	require.NoError(s.t, err)
}

// Backup copies the data of a server that does not run, and Restore puts such
// a copy back: the store goes back in time.
func (s *Server) Backup() (dir string) {
	s.t.Helper()
	require.Nil(s.t, s.cmd, "the server still runs")
	dir = filepath.Join(s.t.TempDir(), "backup")
	require.NoError(s.t, os.CopyFS(dir, os.DirFS(s.data)))
	return dir
}

// Restore replaces the data, of a server that does not run, by that of Backup.
func (s *Server) Restore(dir string) {
	s.t.Helper()
	require.Nil(s.t, s.cmd, "the server still runs")
	require.NoError(s.t, os.RemoveAll(s.data))
	require.NoError(s.t, os.CopyFS(s.data, os.DirFS(dir)))
	require.NoError(s.t, os.Chmod(s.data, 0o700))
}
