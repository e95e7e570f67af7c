package boot

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const envFile = "/run/twill/subnet.env"

// awaitReady waits for READY=1, at which subnet.env must be there already.
func awaitReady(t *testing.T, n *netlab.Node, daemon *netlab.Process, m *manager) {
	t.Helper()
	require.NotContains(t, m.seen, "READY=1")
	m.await(t, daemon, "READY=1", "")
	require.FileExists(t, n.Path(envFile), "told before it was true")
}

// A node boots while the store is down: the manager is told what is awaited,
// and what is ordered after twilld does not start before it can.
func TestStoreLate(t *testing.T) {
	t.Parallel()
	c := netlabtest.New(t, netlab.Options{Nodes: 1})
	n := c.Node(1)
	require.NoError(t, c.Store.Kill(t.Context()))

	m := newManager(t, n)
	p := start(t, c, n, m)
	m.await(t, p, "STATUS=waiting: ", "the store does not answer")
	m.await(t, p, "WATCHDOG=1", "") // who waits is alive
	require.NotContains(t, m.seen, "READY=1")
	require.NoFileExists(t, n.Path(envFile))

	require.NoError(t, c.Store.Restart())
	awaitReady(t, n, p, m)
	for told := "does not answer"; strings.Contains(told, "does not answer"); { // the lease may be there before the last task has its answer
		told = m.await(t, p, "STATUS=ready: ", "ways to 0 peers")
	}

	// From now on the store may come and go: the status says so.
	require.NoError(t, c.Store.Kill(t.Context()))
	m.await(t, p, "STATUS=ready: ", "the store does not answer since")

	require.NoError(t, p.Stop(t.Context()))
	m.await(t, p, "STOPPING=1", "")
	require.FileExists(t, n.Path(envFile), "pods are started without twilld, too")
}

// A node boots before its network card is there and has an address.
func TestNetworkLate(t *testing.T) {
	t.Parallel()
	c := netlabtest.New(t, netlab.Options{Nodes: 2})
	n, peer := c.Node(1), c.Node(2)
	netlabtest.Run(t, &n.Host, "ip link set eth0 down; ip link set eth0 name late; ip addr flush dev late")

	m, peerM := newManager(t, n), newManager(t, peer)
	p, peerP := start(t, c, n, m), start(t, c, peer, peerM)
	m.await(t, p, "STATUS=waiting: ", "no external interface yet")
	awaitReady(t, peer, peerP, peerM)
	require.NotContains(t, m.seen, "READY=1")

	netlabtest.Run(t, &n.Host, "ip link set late name eth0; ip link set eth0 up")
	for f, a := range n.Addrs {
		length := subnet.PerFamily[string]{"/24", "/64"}[f]
		netlabtest.Run(t, &n.Host, `ip addr add "$1" dev eth0 $3; ip route add default via "$2"`, a.String()+length, c.Lan.Addrs[f].String(),
			subnet.PerFamily[string]{"", "nodad"}[f])
	}
	awaitReady(t, n, p, m)
	m.await(t, p, "STATUS=ready: ", "ways to 1 peers")
	requirePings(t, "pod", n, peer)
}

// requirePings adds a pod to each of two nodes and waits until one reaches the
// other, with full-size packets.
func requirePings(t *testing.T, name string, nodes ...*netlab.Node) (pods []*netlab.Pod) {
	t.Helper()
	for _, n := range nodes {
		pod, err := n.AddPod(t.Context(), name)
		require.NoError(t, err)
		pods = append(pods, pod)
	}
	for _, f := range subnet.Families {
		deadline := time.Now().Add(patience)
		_, err := pods[0].Ping(t.Context(), pods[1].Addrs[f], 1430)
		for err != nil && time.Now().Before(deadline) {
			_, err = pods[0].Ping(t.Context(), pods[1].Addrs[f], 1430)
		}
		require.NoError(t, err)
	}
	return pods
}

// ours is what twilld has made on a node, as far as it must be the same after
// a reboot.
func ours(t *testing.T, n *netlab.Node) string {
	t.Helper()
	return netlabtest.Run(t, &n.Host, `
		cat `+envFile+`
		for dev in twill.1 twill-v6.1; do
			ip -br link show $dev
			ip -br addr show $dev
			bridge fdb show dev $dev | sort
			ip neigh show dev $dev nud permanent | sort
		done
		ip -4 route show proto 116 | sort
		ip -6 route show proto 116 | sort
		nft -s list table inet twill`)
}

// The life of a node whose twilld has no more rights than its unit gives it:
// killed, hung, rebooted.
func TestLife(t *testing.T) {
	t.Parallel()
	c := netlabtest.New(t, netlab.Options{Nodes: 2})
	n, peer := c.Node(1), c.Node(2)
	netlabtest.Run(t, &n.Host, ": >/run/xtables.lock") // tmpfiles.d/twill.conf
	m, peerM := newManager(t, n), newManager(t, peer)
	p, peerP := start(t, c, n, m), start(t, c, peer, peerM)
	awaitReady(t, n, p, m)
	awaitReady(t, peer, peerP, peerM)
	m.await(t, p, "STATUS=ready: ", "ways to 1 peers")
	pods := requirePings(t, "pod", n, peer)
	before := ours(t, n)

	traffic := netlabtest.StartTraffic(t, "hanging and crashing", netlabtest.Each(pods...)...)

	// A daemon that hangs is told by the watchdog's silence.
	m.await(t, p, "WATCHDOG=1", "")
	require.NoError(t, p.Signal(syscall.SIGSTOP))
	require.True(t, m.silent(t))
	require.NoError(t, p.Signal(syscall.SIGCONT))
	m.await(t, p, "WATCHDOG=1", "")

	// What systemd does then, and what a crash does: neither costs a packet.
	for _, end := range []syscall.Signal{syscall.SIGABRT, syscall.SIGKILL} {
		require.NoError(t, p.Signal(end))
		require.Error(t, p.Wait(t.Context()))
		require.FileExists(t, n.Path(envFile))
		m.forget()
		require.NoError(t, p.Restart())
		awaitReady(t, n, p, m)
		m.await(t, p, "STATUS=ready: ", "ways to 1 peers")
	}
	traffic.RequireNoLoss(t)
	require.Equal(t, before, ours(t, n))

	// A power cut: of the node only its disk is left.
	require.NoError(t, n.Reboot(t.Context()))
	require.NoFileExists(t, n.Path(envFile))
	netlabtest.Run(t, &n.Host, ": >/run/xtables.lock")
	m = newManager(t, n)
	p = start(t, c, n, m)
	awaitReady(t, n, p, m)
	m.await(t, p, "STATUS=ready: ", "ways to 1 peers")
	require.Equal(t, before, ours(t, n), "the same subnet, the same MAC, nothing else")
	requirePings(t, "later", n, peer)
	require.Empty(t, netlabtest.Run(t, &n.Host, "cd /run/twill; ls -A | grep -vxE 'subnet.env|twilld.sock' || true"))

	log, err := os.ReadFile(p.Log)
	require.NoError(t, err)
	for _, refused := range []string{"permitted", "read-only", "denied"} {
		require.NotContains(t, strings.ToLower(string(log)), refused)
	}
}
