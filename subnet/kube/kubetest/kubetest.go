// Package kubetest runs a real kube-apiserver for tests, on a real etcd, as a
// process on loopback: the program that dist/kubernetes/components builds. There
// is no controller and no kubelet, so that a test does itself what they would.
// Only tests may import it.
package kubetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/etcd/etcdtest"
)

// The tokens that a server takes. Admin may do everything; the daemon is the
// user "twilld", who may do nothing until Grant.
const (
	Admin  = "admin-token"
	Daemon = "daemon-token"
)

// Server is a kube-apiserver.
type Server struct {
	URL string // https://127.0.0.1:port
	CA  string // PEM file

	Etcd *etcdtest.Server

	t      testing.TB
	http   *http.Client
	args   []string
	log    *os.File
	cmd    *exec.Cmd
	exited chan struct{}
	paused bool
}

// A busy machine takes its time.
const startTimeout = 2 * time.Minute

// Start runs a server, until the test ends. It is ready when Start returns.
// args are further flags of kube-apiserver's.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	// Somebody may take the port between its choice and the server's own bind.
	for try := 1; ; try++ {
		s := newServer(t, args)
		err := s.start()
		if err == nil {
			return s
		}
		s.Kill()
		require.Less(t, try, 3, "starting kube-apiserver: %v", err)
		t.Logf("starting kube-apiserver, attempt %d: %v", try, err)
	}
}

func newServer(t testing.TB, args []string) *Server {
	t.Helper()
	dir := t.TempDir()
	files := etcdtest.NewTLS(t)
	port := freePort(t)
	s := &Server{URL: fmt.Sprintf("https://127.0.0.1:%d", port), CA: files.CA, Etcd: etcdtest.Start(t, etcdtest.Options{}), t: t}
	tokens := filepath.Join(dir, "tokens.csv")
	require.NoError(t, os.WriteFile(tokens, []byte(Admin+`,admin,1,"system:masters"`+"\n"+Daemon+",twilld,2\n"), 0o600))
	s.args = append([]string{
		binary(t),
		"--etcd-servers=" + s.Etcd.Endpoint,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port), "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none",
		"--cert-dir=" + dir, "--tls-cert-file=" + files.ServerCert, "--tls-private-key-file=" + files.ServerKey,
		"--token-auth-file=" + tokens, "--authorization-mode=Node,RBAC",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file=" + files.ServerKey, "--service-account-key-file=" + files.ServerCert,
	}, args...)
	var err error
	s.log, err = os.Create(filepath.Join(dir, "apiserver.log"))
	require.NoError(t, err)
	pem, err := os.ReadFile(s.CA)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	s.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	t.Cleanup(func() {
		s.http.CloseIdleConnections()
		s.Kill()
		s.log.Close()
	})
	return s
}

// binary returns the path of kube-apiserver.
func binary(t testing.TB) string {
	t.Helper()
	mod, err := exec.CommandContext(t.Context(), "go", "env", "GOMOD").Output()
	require.NoError(t, err)
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	list := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	list.Dir = filepath.Join(root, "dist", "kubernetes", "components")
	version, err := list.Output()
	require.NoError(t, err)
	b := filepath.Join(root, ".cache", "kubernetes", strings.TrimSpace(string(version))+"-"+runtime.GOARCH, "kube-apiserver")
	_, err = os.Stat(b)
	require.NoError(t, err, "kube-apiserver is not built; run dist/kubernetes/components/build, which takes ten minutes the first time")
	return b
}

// freePort chooses below the range from which the kernel gives ports to
// outgoing connections, so that a server finds its port free when it restarts.
func freePort(t testing.TB) int {
	t.Helper()
	for {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			require.NoError(t, l.Close())
			return port
		}
		require.ErrorIs(t, err, syscall.EADDRINUSE)
	}
}

func (s *Server) start() error {
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.Env = []string{"GOMAXPROCS=2"}
	// A test binary that is killed takes its servers along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	return s.await()
}

// await waits until the server is ready.
func (s *Server) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		code, body, err := s.do(ctx, Admin, http.MethodGet, "/readyz", "", nil)
		if err == nil && code == http.StatusOK {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("kube-apiserver exited: %s", s.tail())
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver is not ready after %s: %s %w; %s", startTimeout, body, err, s.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *Server) tail() string {
	b, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-5):], []byte("\n")))
}

// do makes one request.
func (s *Server) do(ctx context.Context, token, method, path, contentType string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", contentType)
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}
