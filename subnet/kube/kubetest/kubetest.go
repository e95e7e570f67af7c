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
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/internal/serverprocess"
)

// The tokens that a server takes. Admin may do everything; the daemon is the
// user "twilld", who may do nothing until Grant.
const (
	Admin  = "admin-token"
	Daemon = "daemon-token"
)

// Server is a kube-apiserver. Its end leaves its etcd running.
type Server struct {
	*serverprocess.Process

	URL string // https://127.0.0.1:port
	CA  string // PEM file

	Etcd *etcdtest.Server

	http *http.Client
}

// A busy machine takes its time.
const startTimeout = 2 * time.Minute

// Start runs a server, until the test ends. It is ready when Start returns.
// args are further flags of kube-apiserver's.
func Start(t testing.TB, args ...string) (s *Server) {
	t.Helper()
	serverprocess.Start(t, func() []*serverprocess.Process {
		s = newServer(t, args)
		return []*serverprocess.Process{s.Process}
	})
	return s
}

func newServer(t testing.TB, args []string) *Server {
	t.Helper()
	dir := t.TempDir()
	files := etcdtest.NewTLS(t)
	port := serverprocess.FreePort(t)
	s := &Server{URL: fmt.Sprintf("https://127.0.0.1:%d", port), CA: files.CA, Etcd: etcdtest.Start(t, etcdtest.Options{})}
	tokens := filepath.Join(dir, "tokens.csv")
	require.NoError(t, os.WriteFile(tokens, []byte(Admin+`,admin,1,"system:masters"`+"\n"+Daemon+",twilld,2\n"), 0o600))
	s.Process = serverprocess.New(t, startTimeout, s.ready, append([]string{
		binary(t),
		"--etcd-servers=" + s.Etcd.Endpoint,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port), "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none",
		"--cert-dir=" + dir, "--tls-cert-file=" + files.ServerCert, "--tls-private-key-file=" + files.ServerKey,
		"--token-auth-file=" + tokens, "--authorization-mode=Node,RBAC",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file=" + files.ServerKey, "--service-account-key-file=" + files.ServerCert,
	}, args...)...)
	pem, err := os.ReadFile(s.CA)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	s.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	t.Cleanup(s.http.CloseIdleConnections)
	return s
}

// binary returns the path of kube-apiserver.
func binary(t testing.TB) string {
	t.Helper()
	components := filepath.Join("dist", "kubernetes", "components")
	b := filepath.Join(serverprocess.Cache(t, "kubernetes", components, "k8s.io/kubernetes"), "kube-apiserver")
	_, err := os.Stat(b)
	require.NoError(t, err, "kube-apiserver is not built; run dist/kubernetes/components/build, which takes ten minutes the first time")
	return b
}

func (s *Server) ready(ctx context.Context) error {
	code, body, err := s.do(ctx, Admin, http.MethodGet, "/readyz", "", nil)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("status %d: %s", code, body)
	}
	return err
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
