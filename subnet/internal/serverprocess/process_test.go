package serverprocess

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// state is that of a process as /proc/PID/stat has it, such as S or T; proc(5).
func state(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return "gone"
	}
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(b), ") ")
	return after[:1]
}

func always(context.Context) error { return nil }

// The first server is one whose port somebody else took.
func TestStartTriesAgain(t *testing.T) {
	t.Parallel()
	var p *Process
	tries := 0
	Start(t, func() []*Process {
		tries++
		if tries == 1 {
			p = New(t, time.Minute, func(context.Context) error { return errors.New("refused") }, "false")
		} else {
			p = New(t, time.Minute, always, "sleep", "infinity")
		}
		return []*Process{p}
	})
	require.Equal(t, 2, tries)
	for range 2 {
		pid := p.cmd.Process.Pid
		p.Pause()
		require.Eventually(t, func() bool { return state(t, pid) == "T" }, time.Minute, time.Millisecond)
		p.Resume()
		require.Eventually(t, func() bool { return state(t, pid) == "S" }, time.Minute, time.Millisecond)
		p.Pause()
		p.Stop()
		require.False(t, p.Running())
		require.Equal(t, "gone", state(t, pid))
		p.Kill() // does nothing
		p.Restart()
	}
}

func TestWhyItIsNotReady(t *testing.T) {
	t.Parallel()
	exits := New(t, time.Minute, func(context.Context) error { return errors.New("refused") }, "sh", "-c", "echo no space left >&2; exit 1")
	require.EqualError(t, startAll([]*Process{exits}), "sh exited: no space left")
	down := errors.New("refused")
	hangs := New(t, time.Millisecond, func(context.Context) error { return down }, "sleep", "infinity")
	err := startAll([]*Process{hangs})
	require.ErrorIs(t, err, down)
	require.ErrorContains(t, err, "sleep is not ready after 1ms")
}

// Between two runs of a server its port is nobody else's, and refuses.
func TestPortIsKept(t *testing.T) {
	t.Parallel()
	port := FreePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	for range 2 {
		require.ErrorIs(t, reserve(t, port), syscall.EADDRINUSE, "for another test")
		_, err := net.Dial("tcp", address)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		_, err = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}}).Dial("tcp", "127.0.0.1:1")
		require.ErrorIs(t, err, syscall.EADDRINUSE, "for a connection")
		l, err := net.Listen("tcp", address)
		require.NoError(t, err, "for its server")
		c, err := net.Dial("tcp", address)
		require.NoError(t, err)
		served, err := l.Accept()
		require.NoError(t, err)
		require.NoError(t, served.Close()) // first, as a server that ends: its port stays in TIME_WAIT
		require.NoError(t, c.Close())
		require.NoError(t, l.Close())
	}
}

const childEnv = "TWILL_TEST_SERVERPROCESS_CHILD"

// A test binary that is killed leaves no server.
func TestKilledTestLeavesNoServer(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		p := New(t, time.Minute, always, "sleep", "infinity")
		require.NoError(t, startAll([]*Process{p}))
		fmt.Println("server", p.cmd.Process.Pid)
		<-p.exited
		return
	}
	t.Parallel()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), childEnv+"=1")
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "server ")))
	require.NoError(t, err)
	require.NotEqual(t, "gone", state(t, pid))
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())
	require.Eventually(t, func() bool { s := state(t, pid); return s == "gone" || s == "Z" }, time.Minute, time.Millisecond)
}
