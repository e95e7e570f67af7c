// Package serverprocess controls a real server that tests run as a process on
// loopback: starts it, makes it hang, kills it and starts it again. It knows no
// particular server and must not import one, nor its client. Only packages for
// tests may import it.
package serverprocess

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Process is a server under test. Its methods fail the test by themselves, and
// are not for several goroutines at once.
type Process struct {
	t        testing.TB
	name     string
	patience time.Duration
	ready    func(context.Context) error
	args     []string
	log      *os.File
	cmd      *exec.Cmd     // nil: it does not run
	exited   chan struct{} // closed when cmd has ended
	paused   bool
}

// New returns a server that Start has yet to start, and that ends with the
// test. args are its program and the program's arguments; ready returns nil when
// the server serves, which may take as long as patience.
func New(t testing.TB, patience time.Duration, ready func(context.Context) error, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, name: filepath.Base(args[0]), patience: patience, ready: ready, args: args}
	var err error
	p.log, err = os.Create(filepath.Join(t.TempDir(), p.name+".log"))
	require.NoError(t, err)
	t.Cleanup(func() {
		p.Kill()
		p.log.Close()
	})
	return p
}

// Start starts the servers that prepare makes, which may need each other, and
// returns when all are ready. Where that fails it tries again with others:
// somebody may take a port between its choice and the server's own bind.
func Start(t testing.TB, prepare func() []*Process) {
	t.Helper()
	for try := 1; ; try++ {
		servers := prepare()
		err := startAll(servers)
		if err == nil {
			return
		}
		for _, p := range servers {
			p.Kill()
		}
		require.Less(t, try, 3, "starting %s: %v", servers[0].name, err)
		t.Logf("starting %s, attempt %d: %v", servers[0].name, try, err)
	}
}

func startAll(servers []*Process) error {
	for _, p := range servers {
		if err := p.exec(); err != nil {
			return err
		}
	}
	for _, p := range servers {
		if err := p.await(); err != nil {
			return err
		}
	}
	return nil
}

// FreePort returns a port of 127.0.0.1 that is the test's until it ends,
// for servers that are started there and ended. It chooses below the range from which the kernel gives ports to
// outgoing connections, whose ends would wait there for a minute.
func FreePort(t testing.TB) int {
	t.Helper()
	for {
		port := 20000 + rand.IntN(12000)
		err := reserve(t, port)
		if err == nil {
			return port
		}
		require.ErrorIs(t, err, syscall.EADDRINUSE)
	}
}

// reserve keeps a port of 127.0.0.1 for servers that are started on it, and
// ended, until the test ends: a socket is bound there that does not listen, so that
// connections are refused. It returns EADDRINUSE where anybody has it.
//
// Linux lets a second socket be bound beside one that does not listen if both
// have SO_REUSEADDR, which each listener of Go's has (inet_bind_conflict in
// net/ipv4/inet_connection_sock.c). Ours gets it afterwards, and so finds the
// port taken where another test has reserved it. Whoever asks for any port, or
// connects, is given none that somebody has bound.
func reserve(t testing.TB, port int) error {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		_ = unix.Close(fd)
		return err
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	require.NoError(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	return nil
}

func (p *Process) exec() error {
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
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
	p.cmd, p.exited = cmd, exited
	return nil
}

// await waits until the server is ready.
func (p *Process) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), p.patience)
	defer cancel()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s exited: %s", p.name, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %w; %s", p.name, p.patience, err, p.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *Process) tail() string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-5):], []byte("\n")))
}

// Running reports whether the server was started and not ended since.
func (p *Process) Running() bool { return p.cmd != nil }

// Kill ends the server at once. It does nothing when it is not running.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Stop ends the server cleanly.
func (p *Process) Stop() {
	p.Resume()
	p.end(syscall.SIGTERM)
}

func (p *Process) end(sig syscall.Signal) {
	if !p.Running() {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	<-p.exited
	p.cmd, p.paused = nil, false
}

// Restart starts a server that was ended, on the same port and data.
func (p *Process) Restart() {
	p.t.Helper()
	require.False(p.t, p.Running(), "the server still runs")
	require.NoError(p.t, startAll([]*Process{p}))
}

// Pause makes the server hang: connections stay, nothing is answered.
func (p *Process) Pause() {
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGSTOP))
	p.paused = true
}

// Resume ends a Pause.
func (p *Process) Resume() {
	if p.paused {
		require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGCONT))
		p.paused = false
	}
}
