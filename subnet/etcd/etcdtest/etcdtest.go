// Package etcdtest runs a real etcd for tests: etcd's own program as a process
// on loopback, built from the module that go.mod pins. A test binary does not
// link etcd's server. Only tests may import it.
package etcdtest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
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

// Server is one member of an etcd.
type Server struct {
	Endpoint string // http://127.0.0.1:port or https://…

	t       testing.TB
	opts    Options
	binary  string
	name    string
	data    string
	peer    string
	cluster string // its peers, as --initial-cluster takes them
	log     *os.File
	cmd     *exec.Cmd
	exited  chan struct{}
	paused  bool
	auth    bool // is on
}

const startTimeout = 30 * time.Second

// Start runs an etcd of one member until the test ends. It is ready when Start
// returns.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := StartCluster(t, 1, o)[0]
	if o.Password != "" {
		s.enableAuth()
	}
	return s
}

// StartCluster runs an etcd of several members, without a password.
func StartCluster(t testing.TB, members int, o Options) []*Server {
	t.Helper()
	// Somebody may take a port between its choice and etcd's own bind.
	for try := 1; ; try++ {
		servers := newCluster(t, members, o)
		err := startAll(servers)
		if err == nil {
			return servers
		}
		for _, s := range servers {
			s.Kill()
		}
		require.Less(t, try, 3, "starting etcd: %v", err)
		t.Logf("starting etcd, attempt %d: %v", try, err)
	}
}

func newCluster(t testing.TB, members int, o Options) []*Server {
	t.Helper()
	scheme := "http"
	if o.TLS != nil {
		scheme = "https"
	}
	var servers []*Server
	var peers []string
	for i := range members {
		dir := t.TempDir()
		s := &Server{
			Endpoint: fmt.Sprintf("%s://127.0.0.1:%d", scheme, freePort(t)),
			t:        t, opts: o, binary: Build(t),
			name: fmt.Sprintf("m%d", i), data: filepath.Join(dir, "data"),
			peer: fmt.Sprintf("http://127.0.0.1:%d", freePort(t)),
		}
		log, err := os.Create(filepath.Join(dir, "etcd.log"))
		require.NoError(t, err)
		s.log = log
		t.Cleanup(func() {
			s.Kill()
			log.Close()
		})
		servers, peers = append(servers, s), append(peers, s.name+"="+s.peer)
	}
	for _, s := range servers {
		s.cluster = strings.Join(peers, ",")
	}
	return servers
}

func startAll(servers []*Server) error {
	for _, s := range servers {
		if err := s.exec(); err != nil {
			return err
		}
	}
	for _, s := range servers {
		if err := s.await(); err != nil {
			return err
		}
	}
	return nil
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

// exec starts the process.
func (s *Server) exec() error {
	args := []string{
		"--name=" + s.name, "--data-dir=" + s.data, "--unsafe-no-fsync", "--logger=zap", "--log-level=warn",
		"--listen-client-urls=" + s.Endpoint, "--advertise-client-urls=" + s.Endpoint,
		"--listen-peer-urls=" + s.peer, "--initial-advertise-peer-urls=" + s.peer, "--initial-cluster=" + s.cluster,
	}
	if !strings.Contains(s.cluster, ",") {
		args = append(args, "--heartbeat-interval=20", "--election-timeout=200") // the time of its start
	}
	if s.opts.TLS != nil {
		args = append(args, "--cert-file="+s.opts.TLS.ServerCert, "--key-file="+s.opts.TLS.ServerKey)
		if s.opts.ClientCert {
			args = append(args, "--client-cert-auth", "--trusted-ca-file="+s.opts.TLS.CA)
		}
	}
	cmd := exec.Command(s.binary, append(args, s.opts.Args...)...)
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
	return nil
}

// await waits until the server serves.
func (s *Server) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := s.try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("etcd exited: %s", s.tail())
		case <-ctx.Done():
			return fmt.Errorf("etcd is not ready after %s: %w; %s", startTimeout, err, s.tail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// try asks for a key, once there is somebody to ask: gRPC would wait for a
// second after a connection that is refused.
func (s *Server) try(ctx context.Context) error {
	_, addr, _ := strings.Cut(s.Endpoint, "://")
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	conn.Close()
	client, err := s.client()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err = client.Get(ctx, "/")
	return err
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
