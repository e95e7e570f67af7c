// Package etcdtest runs a real etcd for tests: etcd's own program as a process
// on loopback, built from the module that go.mod pins. A test binary does not
// link etcd's server. Only tests may import it.
package etcdtest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/twill-net/twill/subnet/internal/serverprocess"
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
	*serverprocess.Process

	Endpoint string // http://127.0.0.1:port or https://…

	t    testing.TB
	opts Options
	data string
	auth bool // is on
}

// A busy machine takes its time.
const startTimeout = 2 * time.Minute

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
func StartCluster(t testing.TB, members int, o Options) (servers []*Server) {
	t.Helper()
	serverprocess.Start(t, func() (processes []*serverprocess.Process) {
		servers = newCluster(t, members, o)
		for _, s := range servers {
			processes = append(processes, s.Process)
		}
		return processes
	})
	return servers
}

func newCluster(t testing.TB, members int, o Options) (servers []*Server) {
	t.Helper()
	scheme := "http"
	if o.TLS != nil {
		scheme = "https"
	}
	var names, urls, peers []string
	for i := range members {
		name, url := fmt.Sprintf("m%d", i), fmt.Sprintf("http://127.0.0.1:%d", serverprocess.FreePort(t))
		names, urls, peers = append(names, name), append(urls, url), append(peers, name+"="+url)
	}
	for i, name := range names {
		s := &Server{
			Endpoint: fmt.Sprintf("%s://127.0.0.1:%d", scheme, serverprocess.FreePort(t)),
			t:        t, opts: o, data: filepath.Join(t.TempDir(), "data"),
		}
		s.Process = serverprocess.New(t, startTimeout, s.try, s.command(name, urls[i], peers)...)
		servers = append(servers, s)
	}
	return servers
}

// command returns the program and the arguments of a member, url being where
// its peers reach it.
func (s *Server) command(name, url string, peers []string) []string {
	args := []string{
		Build(s.t),
		"--name=" + name, "--data-dir=" + s.data, "--unsafe-no-fsync", "--logger=zap", "--log-level=warn",
		"--listen-client-urls=" + s.Endpoint, "--advertise-client-urls=" + s.Endpoint,
		"--listen-peer-urls=" + url, "--initial-advertise-peer-urls=" + url, "--initial-cluster=" + strings.Join(peers, ","),
	}
	if len(peers) == 1 {
		args = append(args, "--heartbeat-interval=20", "--election-timeout=200") // the time of its start
	} else {
		args = append(args, "--heartbeat-interval=100", "--election-timeout=3000") // a busy machine's leader is not dead
	}
	if s.opts.TLS != nil {
		args = append(args, "--cert-file="+s.opts.TLS.ServerCert, "--key-file="+s.opts.TLS.ServerKey)
		if s.opts.ClientCert {
			args = append(args, "--client-cert-auth", "--trusted-ca-file="+s.opts.TLS.CA)
		}
	}
	return append(args, s.opts.Args...)
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
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = client.Get(ctx, "/")
	return err
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
