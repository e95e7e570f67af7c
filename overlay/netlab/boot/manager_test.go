package boot

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// patience is how long a condition may take to come true. It bounds what a
// failing test costs and says nothing of how fast anything is.
const patience = netlabtest.Patience

// watchdog is the interval that the tests ask for.
const watchdog = 200 * time.Millisecond

// manager is what a node's daemon takes for its service manager.
type manager struct {
	socket string // its path on the node
	conn   *net.UnixConn
	seen   []string // all that was told, line by line
	read   int      // how many of them await has looked at
}

func newManager(t *testing.T, n *netlab.Node) *manager {
	t.Helper()
	m := &manager{socket: "/run/notify"}
	path := n.Path(m.socket)
	require.NoError(t, os.RemoveAll(path))
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	// The path is another node's by the end, or nobody's.
	t.Cleanup(func() { conn.Close() })
	m.conn = conn
	return m
}

// receive takes the next datagram, and reports whether there was one before
// the deadline.
func (m *manager) receive(t *testing.T, deadline time.Time) bool {
	t.Helper()
	require.NoError(t, m.conn.SetReadDeadline(deadline))
	buffer := make([]byte, 8192)
	size, err := m.conn.Read(buffer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	require.NoError(t, err)
	m.seen = append(m.seen, strings.Split(strings.TrimSpace(string(buffer[:size])), "\n")...)
	return true
}

// await waits for a line, after the last one awaited, that starts with prefix
// and holds text.
func (m *manager) await(t *testing.T, daemon *netlab.Process, prefix, text string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		for m.read < len(m.seen) {
			line := m.seen[m.read]
			m.read++
			if strings.HasPrefix(line, prefix) && strings.Contains(line, text) {
				return line
			}
		}
		ended := !daemon.Running() // what it told before is read still
		if !m.receive(t, time.Now().Add(time.Second)) && ended {
			break
		}
	}
	require.FailNow(t, "never told: "+prefix+"…"+text, "told was: %q", m.told())
	return ""
}

// told returns what was told beside the watchdog.
func (m *manager) told() (lines []string) {
	for _, line := range m.seen {
		if line != "WATCHDOG=1" {
			lines = append(lines, line)
		}
	}
	return lines
}

// silent reports whether nothing more comes: what is on its way is taken, and
// then there is nothing for some intervals of the watchdog.
func (m *manager) silent(t *testing.T) bool {
	t.Helper()
	for range 100 {
		if !m.receive(t, time.Now().Add(watchdog/10)) {
			break
		}
	}
	return !m.receive(t, time.Now().Add(4*watchdog))
}

// forget is for a daemon that starts anew.
func (m *manager) forget() { m.seen, m.read = nil, 0 }
