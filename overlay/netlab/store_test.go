package netlab_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
)

// store is a running `twill store`.
type store struct {
	cmd   *exec.Cmd
	ready string // the line it says when it is
	log   *strings.Builder
}

func startStore(t *testing.T, args ...string) *store {
	t.Helper()
	s := &store{log: new(strings.Builder)}
	s.cmd = exec.CommandContext(context.Background(), netlabtest.Binaries(t).Twill, append([]string{"store"}, args...)...)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	})
	s.ready, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = s.cmd.Wait()
		t.Fatalf("twill store is not ready: %s", s.log)
	}
	return s
}

func dialStore(t *testing.T, cfg clientv3.Config) *clientv3.Client {
	t.Helper()
	cfg.Logger, cfg.DialTimeout = zap.NewNop(), 10*time.Second
	client, err := clientv3.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// A stop, even with a watch open, is clean and quick; a kill loses nothing
// that was acknowledged; clients resume.
func TestStoreKeepsData(t *testing.T) {
	t.Parallel()
	data, socket := filepath.Join(t.TempDir(), "data"), "unix://"+filepath.Join(t.TempDir(), "etcd.sock")
	args := []string{"--data-dir", data, "--listen-client-urls", socket}
	s := startStore(t, args...)
	require.Equal(t, "ready: etcd serves ["+socket+"] from "+data+"\n", s.ready)
	info, err := os.Stat(data)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	client := dialStore(t, clientv3.Config{Endpoints: []string{socket}})
	_, err = client.Put(t.Context(), "k", "1")
	require.NoError(t, err)
	watch := client.Watch(t.Context(), "k", clientv3.WithRev(1))
	require.Len(t, (<-watch).Events, 1)

	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	stopping := time.Now()
	require.NoError(t, s.cmd.Wait())
	t.Logf("stopped in %v with a watch open", time.Since(stopping))
	for line := range strings.Lines(s.log.String()) {
		require.Regexp(t, "took too long|slow fdatasync", line, "a healthy store is silent, but for what a busy machine does to it")
	}

	s = startStore(t, args...)
	_, err = client.Put(t.Context(), "k", "2")
	require.NoError(t, err)
	events := (<-watch).Events
	require.Len(t, events, 1, "the watch goes on")
	require.Equal(t, "2", string(events[0].Kv.Value))
	require.NoError(t, s.cmd.Process.Kill())
	require.Error(t, s.cmd.Wait())

	startStore(t, args...)
	got, err := client.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "2", string(got.Kvs[0].Value))
}

// A store that was made anew is another cluster, by which clients know that
// what they remember is void.
func TestStoreAnewIsAnotherCluster(t *testing.T) {
	t.Parallel()
	var ids []uint64
	for range 2 {
		socket := "unix://" + filepath.Join(t.TempDir(), "etcd.sock")
		startStore(t, "--data-dir", t.TempDir(), "--listen-client-urls", socket)
		got, err := dialStore(t, clientv3.Config{Endpoints: []string{socket}}).Get(t.Context(), "k")
		require.NoError(t, err)
		ids = append(ids, got.Header.ClusterId)
	}
	require.NotEqual(t, ids[0], ids[1])
}

// The peer port has no password: there is none.
func TestStoreListensForClientsOnly(t *testing.T) {
	t.Parallel()
	socket := "unix://" + filepath.Join(t.TempDir(), "etcd.sock")
	s := startStore(t, "--data-dir", t.TempDir(), "--listen-client-urls", socket)
	inodes := map[string]bool{}
	fds, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(s.cmd.Process.Pid), "fd/*"))
	require.NoError(t, err)
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			inodes[strings.Trim(strings.TrimPrefix(target, "socket:"), "[]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, err := os.ReadFile("/proc/net/" + table)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 {
				require.False(t, inodes[f[9]], "it has a %s socket: %s", table, line)
			}
		}
	}
}

// Certificates are checked on both sides, and passwords can be switched on.
func TestStoreTLSAndPassword(t *testing.T) {
	t.Parallel()
	pki := etcdtest.NewTLS(t)
	socket := filepath.Join(t.TempDir(), "etcd.sock")
	startStore(t, "--data-dir", t.TempDir(), "--listen-client-urls", "unixs://"+socket,
		"--cert-file", pki.ServerCert, "--key-file", pki.ServerKey, "--trusted-ca-file", pki.CA, "--client-cert-auth")
	ca, err := os.ReadFile(pki.CA)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(ca))
	cert, err := tls.LoadX509KeyPair(pki.ClientCert, pki.ClientKey)
	require.NoError(t, err)
	// The name in the certificate is 127.0.0.1; etcd's client takes a
	// socket's path for the server's name.
	with := clientv3.Config{
		Endpoints: []string{"https://127.0.0.1:2379"},
		TLS:       &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		})},
	}
	without := with
	without.TLS = &tls.Config{RootCAs: pool}

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = dialStore(t, without).Get(ctx, "k")
	require.Error(t, err, "no client certificate")
	client := dialStore(t, with)
	_, err = client.Put(t.Context(), "k", "1")
	require.NoError(t, err)

	_, err = client.UserAdd(t.Context(), "root", "secret")
	require.NoError(t, err)
	_, err = client.UserGrantRole(t.Context(), "root", "root")
	require.NoError(t, err)
	_, err = client.AuthEnable(t.Context())
	require.NoError(t, err)
	_, err = dialStore(t, with).Get(t.Context(), "k")
	require.ErrorContains(t, err, "permission denied") // for "client", which the certificate says
	with.Username, with.Password = "root", "secret"
	_, err = dialStore(t, with).Get(t.Context(), "k")
	require.NoError(t, err)
}

// What cannot be is refused with exit code 1 and a word on what to do.
func TestStoreRefuses(t *testing.T) {
	t.Parallel()
	taken := t.TempDir()
	socket := "unix://" + filepath.Join(t.TempDir(), "etcd.sock")
	startStore(t, "--data-dir", taken, "--listen-client-urls", socket)
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"directory in use", []string{"--data-dir", taken}, "another process serves it; stop that or choose another data-dir"},
		{"foreign address", []string{"--listen-client-urls=http://192.0.2.1:2379"}, "this host has no such address; choose other listen-client-urls"},
		{"no URL", []string{"--listen-client-urls=127.0.0.1:2379"}, `listen-client-urls: "127.0.0.1:2379" is no URL such as http://127.0.0.1:2379`},
		{"empty URL", []string{"--listen-client-urls="}, "listen-client-urls is empty"},
		{"advertised", []string{"--advertise-client-urls=x"}, `advertise-client-urls: "x" is no URL`},
		{"host name", []string{"--listen-client-urls=http://etcd:2379"}, "expected IP in URL for binding"},
		{"half a key pair", []string{"--cert-file=x"}, "cert-file and key-file belong together"},
		{"CA alone", []string{"--trusted-ca-file=x"}, "trusted-ca-file has no effect without cert-file and key-file"},
		{"client certificates without CA", []string{"--client-cert-auth"}, "client-cert-auth needs trusted-ca-file"},
		{"https without certificate", []string{"--listen-client-urls=https://127.0.0.1:0"}, "TLS key/cert (--cert-file, --key-file) must be provided"},
		{"compaction", []string{"--auto-compaction-mode=never"}, `unknown auto-compaction-mode "never"`},
		{"log level", []string{"--log-level=loud"}, `log-level is "loud", must be debug, info, warn or error`},
		{"argument", []string{"here"}, `unknown command "here"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"store", "--data-dir", filepath.Join(t.TempDir(), "data")}, tt.args...)
			if !strings.Contains(strings.Join(args, " "), "--listen") {
				args = append(args, "--listen-client-urls=unix://"+t.TempDir()+"/etcd.sock")
			}
			out, code := twill(t, args...)
			require.Equal(t, 1, code, out)
			require.Contains(t, out, tt.want)
		})
	}
}
