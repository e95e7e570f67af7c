package etcdtest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/internal/serverprocess"
)

// Build returns the path of etcd's program, built in the cache of the working
// tree from the version that go.mod pins.
func Build(t testing.TB) string {
	t.Helper()
	const pkg = "go.etcd.io/etcd/server/v3"
	dir := serverprocess.Cache(t, "etcd", ".", pkg)
	binary := filepath.Join(dir, "etcd")
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	tmp, err := os.MkdirTemp(dir, "build-") // several test binaries may build at once
	require.NoError(t, err)
	defer os.RemoveAll(tmp)
	serverprocess.Go(t, "", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(tmp, "etcd"), pkg)
	require.NoError(t, os.Rename(filepath.Join(tmp, "etcd"), binary))
	return binary
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
	require.False(s.t, s.Running(), "the server still runs")
	dir = filepath.Join(s.t.TempDir(), "backup")
	require.NoError(s.t, os.CopyFS(dir, os.DirFS(s.data)))
	return dir
}

// Restore replaces the data, of a server that does not run, by that of Backup.
func (s *Server) Restore(dir string) {
	s.t.Helper()
	require.False(s.t, s.Running(), "the server still runs")
	require.NoError(s.t, os.RemoveAll(s.data))
	require.NoError(s.t, os.CopyFS(s.data, os.DirFS(dir)))
	require.NoError(s.t, os.Chmod(s.data, 0o700))
}
