// Package etcdtest runs a real etcd for tests: etcd's own program as a process
// on loopback, built from the module that go.mod pins. A test binary does not
// link etcd's server. Only tests may import it.
package etcdtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Options of a server. The zero value is plain HTTP without a password.
type Options struct {
	TLS        *TLS
	ClientCert bool     // with TLS: demand a client certificate
	Password   string   // switches authentication on; the user is root
	Args       []string // further flags of etcd's
}

// Server is an etcd with one member.
type Server struct {
	Endpoint string // http://127.0.0.1:port or https://…

	t      testing.TB
	opts   Options
	binary string
	data   string
	peer   string
	log    *os.File
	cmd    *exec.Cmd
	exited chan struct{}
	paused bool
	auth   bool // is on
}

const startTimeout = 30 * time.Second

// Start runs a server until the test ends. It is ready when Start returns.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{t: t, opts: o, binary: Build(t), data: filepath.Join(t.TempDir(), "data")}
	log, err := os.Create(filepath.Join(t.TempDir(), "etcd.log"))
	require.NoError(t, err)
	s.log = log
	t.Cleanup(func() {
		s.Kill()
		log.Close()
	})
	scheme := "http"
	if o.TLS != nil {
		scheme = "https"
	}
	// Somebody may take a port between here and etcd's own bind.
	for try := range 3 {
		s.Endpoint, s.peer = fmt.Sprintf("%s://127.0.0.1:%d", scheme, freePort(t)), fmt.Sprintf("http://127.0.0.1:%d", freePort(t))
		if err = s.run(); err == nil {
			break
		}
		t.Logf("starting etcd, attempt %d: %v", try+1, err)
		s.Kill()
		require.NoError(t, os.RemoveAll(s.data))
	}
	require.NoError(t, err)
	if o.Password != "" {
		s.enableAuth()
	}
	return s
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// run starts the process and waits until it answers.
func (s *Server) run() error {
	args := []string{
		"--name=test", "--data-dir=" + s.data, "--unsafe-no-fsync", "--logger=zap", "--log-level=warn",
		"--listen-client-urls=" + s.Endpoint, "--advertise-client-urls=" + s.Endpoint,
		"--listen-peer-urls=" + s.peer, "--initial-advertise-peer-urls=" + s.peer, "--initial-cluster=test=" + s.peer,
	}
	if s.opts.TLS != nil {
		args = append(args, "--cert-file="+s.opts.TLS.ServerCert, "--key-file="+s.opts.TLS.ServerKey)
		if s.opts.ClientCert {
			args = append(args, "--client-cert-auth", "--trusted-ca-file="+s.opts.TLS.CA)
		}
	}
	s.cmd = exec.Command(s.binary, append(args, s.opts.Args...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = []string{"GOMAXPROCS=2"}
	// A test binary that is killed takes its servers along.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan<- struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(s.cmd, s.exited)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	client, err := s.client()
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		_, err := client.Status(ctx, s.Endpoint)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("etcd exited: %s", s.tail())
		case <-ctx.Done():
			return fmt.Errorf("etcd is not ready after %s: %w; %s", startTimeout, err, s.tail())
		case <-time.After(20 * time.Millisecond):
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

// Client returns a client with all rights, for what a test does behind the
// back of the code under test. It is closed when the test ends.
func (s *Server) Client(t testing.TB) *clientv3.Client {
	t.Helper()
	client, err := s.client()
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

func (s *Server) client() (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: []string{s.Endpoint}, DialTimeout: startTimeout, Logger: zap.NewNop()}
	if s.auth {
		cfg.Username, cfg.Password = "root", s.opts.Password
	}
	if s.opts.TLS != nil {
		var err error
		if cfg.TLS, err = s.opts.TLS.config(); err != nil {
			return nil, err
		}
	}
	return clientv3.New(cfg)
}

func (s *Server) enableAuth() {
	client, err := s.client()
	require.NoError(s.t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	_, err = client.UserAdd(ctx, "root", s.opts.Password)
	require.NoError(s.t, err)
	_, err = client.UserGrantRole(ctx, "root", "root")
	require.NoError(s.t, err)
	_, err = client.AuthEnable(ctx)
	require.NoError(s.t, err)
	s.auth = true
}

// Log returns what etcd has logged.
func (s *Server) Log() string {
	b, err := os.ReadFile(s.log.Name())
	require.NoError(s.t, err)
	return strings.TrimSpace(string(b))
}
