package kubetest

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/etcd/etcdtest"
)

// Kill ends the server at once; its etcd runs on. It does nothing when it is
// not running.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

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
	require.NoError(s.t, s.start())
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

// Proxy opens a way to the server that can be cut, until the test ends.
func (s *Server) Proxy(t testing.TB) *etcdtest.Proxy {
	return (&etcdtest.Server{Endpoint: s.URL}).Proxy(t)
}

// Kubeconfig writes a file that leads to url, the server or a way to it, as the
// user of the token.
func (s *Server) Kubeconfig(t testing.TB, url, token string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "%s", certificate-authority: "%s"}}]
users: [{name: u, user: {token: "%s"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, url, s.CA, token), 0o600))
	return file
}
