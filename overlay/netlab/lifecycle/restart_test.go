package lifecycle

import (
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// Whatever happens to the daemon, the packets flow on; and where nothing has
// changed meanwhile, a start writes nothing.
func TestRestart(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 3}, "--log-level=debug")
	n := c.Node(1)
	before, file := ours(t, n), statEnv(t, n)

	for _, tt := range []struct {
		name string
		end  func(*testing.T, *netlab.Node)
	}{
		{"SIGKILL", c.kill},
		{"SIGTERM", c.stop},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changes := 0
			unharmed(t, pods, func() {
				m := startMonitor(t, n)
				tt.end(t, n)
				changes = logged(t, c.daemon(n), "msg=applied")
				require.Equal(t, file, statEnv(t, n), "subnet.env stays when the daemon ends")
				c.restart(t, n)
				s := awaitStatus(t, n, "two peers", func(s overlay.Status) bool { return len(s.Peers) == 2 })
				require.Zero(t, s.Repairs.Total)
				require.Empty(t, m.stop(t))
			})
			require.Equal(t, changes, logged(t, c.daemon(n), "msg=applied"))
			require.Equal(t, 1, logged(t, c.daemon(n), `msg="rules written"`), "at the first start only")
			require.Equal(t, file, statEnv(t, n), "it is not written again")
			c.awaitWays(t, n)
			awaitOurs(t, n, before)
		})
	}

	t.Run("SIGSTOP", func(t *testing.T) {
		unharmed(t, pods, func() {
			require.NoError(t, c.daemon(n).Signal(syscall.SIGSTOP))
			// A peer that comes meanwhile is learned of later.
			c.put(t, "10.244.250.0-24&fd00:244:0:fa::-64", peer(250))
			c.awaitWays(t, c.Node(2))
			require.NoError(t, c.daemon(n).Signal(syscall.SIGCONT))
			c.awaitWays(t, n)
			c.delete(t, "10.244.250.0-24&fd00:244:0:fa::-64")
			c.awaitWays(t, n)
		})
		require.Zero(t, status(t, n).Repairs.Total)
	})

	t.Run("while the store is down", func(t *testing.T) {
		unharmed(t, pods, func() {
			require.NoError(t, c.Store.Kill(t.Context()))
			c.kill(t, n)
			m := startMonitor(t, n)
			require.NoError(t, c.daemon(n).Restart())
			s := awaitStatus(t, n, "degraded", func(s overlay.Status) bool { return s.Store.Degraded != nil })
			require.False(t, s.Ready)
			require.False(t, s.Store.InSync)
			require.NotEmpty(t, s.NotReady)
			code, body := health(t, n, "/readyz")
			require.Equal(t, http.StatusServiceUnavailable, code)
			require.Contains(t, body, "not ready: ")
			code, _ = health(t, n, "/healthz")
			require.Equal(t, http.StatusOK, code, "waiting for a store is alive")
			c.restartStore(t)
			c.awaitReady(t, n)
			require.Empty(t, m.stop(t), "nothing was pruned, nothing is missing")
		})
		c.awaitWays(t, n)
		awaitOurs(t, n, before)
	})
}

// envFile is what subnet.env is, as far as a rewrite would change it.
type envFile struct {
	inode, modified int64
	mode            os.FileMode
	content         string
}

func statEnv(t *testing.T, n *netlab.Node) envFile {
	t.Helper()
	path := n.Path("/run/twill/subnet.env")
	info, err := os.Stat(path)
	require.NoError(t, err)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return envFile{int64(info.Sys().(*syscall.Stat_t).Ino), info.ModTime().UnixNano(), info.Mode(), string(text)}
}

// Of two daemons for one state directory the second gives up at once, and so
// does a clean-up: with a message, and without harm.
func TestOneDaemonForAStateDirectory(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 2})
	n := c.Node(1)
	unharmed(t, pods, func() {
		m := startMonitor(t, n)
		for _, flags := range []string{"", "--cleanup", "--cleanup --node-name=other"} {
			_, err := n.Exec(t.Context(), "sh", "-c", "twilld "+flags)
			require.ErrorContains(t, err, "exit status 1")
			require.ErrorContains(t, err, "another twilld works in /var/lib/twill: stop it first")
		}
		require.Empty(t, m.stop(t))
	})
	require.True(t, status(t, n).Ready)

	// The lock is on the directory, not on the host. (The port of the health
	// checks and the socket are the first one's still.)
	_, err := n.Exec(t.Context(), "sh", "-c", "twilld --state-dir=/run/other-state --healthz-ip=127.0.0.1 --healthz-port=8471")
	require.ErrorContains(t, err, "listening for health checks on 127.0.0.1:8471 (--healthz-ip, --healthz-port)")
	require.NotContains(t, err.Error(), "another twilld")
	require.FileExists(t, n.Path("/run/other-state/lock"))
	require.True(t, status(t, n).Ready)
}

// subnet.env is there when all of it is true, and not before; it is replaced
// as a whole.
func TestSubnetEnv(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 1})
	n := c.Node(1)
	path := n.Path("/run/twill/subnet.env")

	// Another VXLAN device has our VNI and port: there is a lease, and no way
	// for a pod to use it.
	netlabtest.Run(t, &n.Host, "ip link add other type vxlan id 1 dstport 8472 local 192.168.77.11 dev eth0 nolearning")
	c.launch(t, n)
	s := awaitStatus(t, n, "a lease and a failing device", func(s overlay.Status) bool { return s.Lease != nil && len(s.Failing) > 0 })
	require.False(t, s.Ready)
	require.NoFileExists(t, path)
	netlabtest.Run(t, &n.Host, "ip link del other")
	c.awaitReady(t, n)

	r := c.record(t, "node1")
	gateway := func(p string) string { return strings.Replace(p, "/", "1/", 1) }
	v4 := strings.Replace(r.Subnets[0].String(), ".0/", ".1/", 1)
	require.Equal(t, "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET="+v4+
		"\nFLANNEL_IPV6_NETWORK=fd00:244::/48\nFLANNEL_IPV6_SUBNET="+gateway(r.Subnets[1].String())+
		"\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n", statEnv(t, n).content)
	require.EqualValues(t, 0o644, statEnv(t, n).mode)

	// Whoever has the old file open goes on to read it: it was not written
	// into.
	was := statEnv(t, n)
	old, err := os.Open(path)
	require.NoError(t, err)
	defer old.Close()
	netlabtest.Run(t, &n.Host, "ip link set eth0 mtu 1400")
	netlabtest.Eventually(t, "subnet.env has the new MTU", func() error {
		return equalLines([]string{"FLANNEL_MTU=1330"}, grep(statEnv(t, n).content, "FLANNEL_MTU="))
	})
	text := make([]byte, 1000)
	read, err := old.Read(text)
	require.NoError(t, err)
	require.Equal(t, was.content, string(text[:read]))
	require.NotEqual(t, was.inode, statEnv(t, n).inode)
	require.Equal(t, "subnet.env", strings.TrimSpace(netlabtest.Run(t, &n.Host, "ls -A /run/twill | grep -v twilld.sock")), "no temporary file stays")
}

func grep(text, prefix string) (lines []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}
