package sdnotify

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a failing test costs.
const patience = time.Minute

// manager is the service manager's end.
type manager struct{ conn *net.UnixConn }

// listen makes a manager the one that this process is to tell.
func listen(t *testing.T, socket string) manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", socket)
	return manager{conn}
}

// next returns the next datagram.
func (m manager) next(t *testing.T) string {
	t.Helper()
	require.NoError(t, m.conn.SetReadDeadline(time.Now().Add(patience)))
	buffer := make([]byte, 8192)
	size, err := m.conn.Read(buffer)
	require.NoError(t, err)
	return string(buffer[:size])
}

// start runs n until the test ends or stop is called.
func start(t *testing.T, n *Notifier, live func() bool) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx, live) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func quiet() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}

func always() bool { return true }

// The life of a service, on both kinds of sockets that systemd uses.
func TestLife(t *testing.T) {
	for name, socket := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": "@twill-notify-" + rand.Text(),
	} {
		t.Run(name, func(t *testing.T) {
			m := listen(t, socket)
			n := New(quiet())
			n.Status("waiting for\nthe store")
			stop := start(t, n, always)
			require.Equal(t, "STATUS=waiting for the store", m.next(t))
			n.Status("waiting for the store") // no news
			n.Status("waiting for a lease")
			require.Equal(t, "STATUS=waiting for a lease", m.next(t))
			n.Ready()
			require.Equal(t, "READY=1", m.next(t))
			n.Ready()
			n.Status("2 peers")
			require.Equal(t, "STATUS=2 peers", m.next(t), "ready is told once")
			stop()
			require.Equal(t, "STOPPING=1", m.next(t))
		})
	}
}

// What was set before Run is told in one datagram, so that the manager never
// shows a ready service which still waits.
func TestTogether(t *testing.T) {
	m := listen(t, filepath.Join(t.TempDir(), "notify"))
	n := New(quiet())
	n.Status("2 peers")
	n.Ready()
	start(t, n, always)
	require.Equal(t, "READY=1\nSTATUS=2 peers", m.next(t))
}

// The watchdog is fed exactly as often as the daemon was found alive.
func TestWatchdog(t *testing.T) {
	m := listen(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	asked := 0
	enough := make(chan struct{})
	stop := start(t, New(quiet()), func() bool {
		if asked++; asked == 6 {
			close(enough)
		}
		return asked <= 3
	})
	select {
	case <-enough:
	case <-time.After(patience):
		require.FailNow(t, "the watchdog does not ask")
	}
	stop()
	for range 3 {
		require.Equal(t, "WATCHDOG=1", m.next(t))
	}
	require.Equal(t, "STOPPING=1", m.next(t))
}

// The watchdog of another process, as a child inherits the variables, is not
// ours to feed; and a broken variable breaks nothing else.
func TestWatchdogOfOthers(t *testing.T) {
	for _, tt := range []struct{ name, usec, pid string }{
		{"another process", "1000", "1"},
		{"no time", "soon", strconv.Itoa(os.Getpid())},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := listen(t, filepath.Join(t.TempDir(), "notify"))
			t.Setenv("WATCHDOG_USEC", tt.usec)
			t.Setenv("WATCHDOG_PID", tt.pid)
			n := New(quiet())
			stop := start(t, n, func() bool { panic("nobody asked") })
			n.Ready()
			require.Equal(t, "READY=1", m.next(t))
			stop()
			require.Equal(t, "STOPPING=1", m.next(t))
		})
	}
}

// A manager that cannot be reached for a while, as when it is replaced, is
// told later; meanwhile nobody who sets something waits.
func TestManagerIsAway(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	t.Setenv("NOTIFY_SOCKET", socket)
	var told strings.Builder
	log := logrus.New()
	log.SetOutput(&told)
	n := New(logrus.NewEntry(log))
	n.Ready()
	n.Status("2 peers")
	s := sender{log: n.log}
	s.tell(n.told())
	s.tell(n.told())
	require.True(t, s.behind)
	require.Equal(t, 1, strings.Count(told.String(), "could not be told"), "logged once")

	stop := start(t, n, always)
	m := listen(t, socket)
	require.Equal(t, "READY=1\nSTATUS=2 peers", m.next(t))
	stop()
	require.Equal(t, "STOPPING=1", m.next(t))
}

func TestWithoutManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := New(quiet())
	stop := start(t, n, always)
	n.Ready()
	n.Status("nobody listens")
	stop()
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		"as it is":                     "as it is",
		" a\n\tb\r\nREADY=1\x00 c ":    "a b READY=1 c",
		"bad \xff UTF-8":               "bad  UTF-8",
		strings.Repeat("x", 501):       strings.Repeat("x", 500) + "…",
		strings.Repeat("x", 499) + "é": strings.Repeat("x", 499) + "…",
	} {
		require.Equal(t, want, oneLine(in), "%q", in)
	}
}
