package etcdserver_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/twill-net/twill/overlay/etcdserver"
)

// serverConfig in the environment makes the test binary a store, to be killed.
const serverConfig = "ETCDSERVER_TEST_CONFIG"

func TestMain(m *testing.M) {
	if text := os.Getenv(serverConfig); text != "" {
		if err := serve(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serve(text string) error {
	var c etcdserver.Config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return etcdserver.Run(ctx, c, func() { fmt.Println("ready") })
}

// patience is how long a busy machine may take for a start or a request.
const patience = 2 * time.Minute

// store is a store as a process of its own.
type store struct {
	cfg  etcdserver.Config
	wrap []string // a command that runs it

	patience time.Duration // it is killed when it is not ready by then

	cmd *exec.Cmd
	log *bytes.Buffer // of all its runs
}

// newStore describes a store in a directory of its own. It does not run yet.
func newStore(t *testing.T) *store {
	t.Helper()
	dir, err := os.MkdirTemp("", "twill-store-test-") // short: a socket's path has 108 bytes
	require.NoError(t, err)
	s := &store{cfg: etcdserver.DefaultConfig(), log: new(bytes.Buffer), patience: patience}
	s.cfg.DataDir = filepath.Join(dir, "data")
	s.cfg.ListenClientURLs = []string{"unix://" + filepath.Join(dir, "s")}
	t.Cleanup(func() {
		s.end(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("the store's log:\n%s", s.log)
		}
		require.NoError(t, os.RemoveAll(dir))
	})
	return s
}

// try starts the store and returns how it ends if it is not ready.
func (s *store) try(t *testing.T) error {
	t.Helper()
	text, err := json.Marshal(s.cfg)
	require.NoError(t, err)
	argv := append(append([]string{}, s.wrap...), os.Args[0])
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Env = append(os.Environ(), serverConfig+"="+string(text), "GORACE=atexit_sleep_ms=0")
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	process := s.cmd.Process
	late := time.AfterFunc(s.patience, func() { _ = process.Kill() })
	defer late.Stop()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line == "ready\n" {
		return nil
	}
	err = s.cmd.Wait()
	s.cmd = nil
	require.Error(t, err, "it has ended, but not failed")
	return err
}

func (s *store) start(t *testing.T) {
	t.Helper()
	if err := s.try(t); err != nil {
		require.FailNow(t, "the store does not start", "%v: %s", err, s.log)
	}
}

// refuses starts the store, which must fail with a text that has each of want.
func (s *store) refuses(t *testing.T, want ...string) {
	t.Helper()
	s.log.Reset()
	require.Error(t, s.try(t), "it runs")
	for _, w := range want {
		require.Contains(t, s.log.String(), w)
	}
	require.NotContains(t, s.log.String(), "goroutine ", "a message, not a crash")
}

// end ends the store, if it runs.
func (s *store) end(sig syscall.Signal) {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(sig)
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *store) clientConfig() clientv3.Config {
	return etcdserver.FailFast(clientv3.Config{Endpoints: s.cfg.ListenClientURLs, DialTimeout: patience, Logger: zap.NewNop()})
}

// client connects until the test ends.
func (s *store) client(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(s.clientConfig())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func put(t *testing.T, c *clientv3.Client, key, value string, opts ...clientv3.OpOption) {
	t.Helper()
	_, err := c.Put(t.Context(), key, value, opts...)
	require.NoError(t, err)
}

// content returns all keys and values.
func content(t *testing.T, c *clientv3.Client) map[string]string {
	t.Helper()
	resp, err := c.Get(t.Context(), "", clientv3.WithPrefix())
	require.NoError(t, err)
	all := map[string]string{}
	for _, kv := range resp.Kvs {
		all[string(kv.Key)] = string(kv.Value)
	}
	return all
}
