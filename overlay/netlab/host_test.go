package netlab_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

func TestExec(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t, netlab.Options{Nodes: 1})
	n := lab.Node(1)

	out, err := n.ExecInput(t.Context(), "in", "sh", "-c", "cat; echo err >&2; exit 7")
	require.Equal(t, "in", out)
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 7, exit.ExitCode())
	require.ErrorContains(t, err, `on node1: exit status 7: err`)

	_, err = n.Exec(t.Context(), "no-such-command")
	require.ErrorContains(t, err, "no-such-command")

	// A cancelled command is gone, and not only nsenter.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = n.Exec(ctx, "sleep", "4711")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Eventually(t, func() bool { return !runs(t, n, "sleep 4711") }, netlabtest.Patience, 10*time.Millisecond)
}

// runs reports whether a command line runs on the node.
func runs(t *testing.T, n *netlab.Node, line string) bool {
	t.Helper()
	out, err := n.Exec(t.Context(), "sh", "-c", `cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' '`)
	require.True(t, err == nil || out != "", err)
	return strings.Contains(out, line)
}

func TestProcess(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t, netlab.Options{Nodes: 1})
	// A shell that waits for what it has put into the background runs a trap at once;
	// one that is about to start a program may lose it.
	const script = `trap 'echo got TERM; exit 3' TERM; trap 'echo got HUP' HUP; echo started; while :; do sleep 0.1 & wait $!; done`
	p, err := lab.Node(1).Start("daemon", "sh", "-c", script)
	require.NoError(t, err)
	logged := func(n int, want string) {
		t.Helper()
		require.Eventually(t, func() bool {
			log, err := os.ReadFile(p.Log)
			return err == nil && strings.Count(string(log), want) == n
		}, netlabtest.Patience, 5*time.Millisecond, "%d times %q", n, want)
	}
	logged(1, "started")
	require.NoError(t, p.Signal(syscall.SIGHUP))
	logged(1, "got HUP")

	require.NoError(t, p.Signal(syscall.SIGSTOP))
	require.NoError(t, p.Signal(syscall.SIGHUP))
	require.True(t, p.Running())
	require.NoError(t, p.Signal(syscall.SIGCONT))
	logged(2, "got HUP")

	err = p.Stop(t.Context())
	require.ErrorContains(t, err, "got TERM", "the end of the log explains")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 3, exit.ExitCode())
	require.ErrorIs(t, p.Signal(syscall.SIGHUP), os.ErrProcessDone)

	require.NoError(t, p.Restart())
	logged(2, "started")
	require.NoError(t, p.Signal(syscall.SIGSTOP))
	require.NoError(t, p.Kill(t.Context()), "also a stopped one")
	require.False(t, p.Running())

	// It ends with its node, also when it was stopped.
	require.NoError(t, p.Restart())
	logged(3, "started")
	require.NoError(t, p.Signal(syscall.SIGSTOP))
	require.NoError(t, lab.Node(1).Reboot(t.Context()))
	err = p.Wait(t.Context())
	require.ErrorAs(t, err, &exit)
}

// What a cut costs is counted, and what was on its way at the end is not.
func TestFlow(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t, netlab.Options{Nodes: 2})
	for _, f := range subnet.Families {
		flow, err := lab.Node(1).PingContinuously(t.Context(), lab.Node(2).Addrs[f], 5*time.Millisecond)
		require.NoError(t, err)
		require.NoError(t, flow.Await(t.Context(), 20))
		loss, err := flow.Stop()
		require.NoError(t, err)
		require.GreaterOrEqual(t, loss.Received, 20)
		require.Zero(t, loss.Lost(), "%+v", loss)

		flow, err = lab.Node(1).PingContinuously(t.Context(), lab.Node(2).Addrs[f], 5*time.Millisecond)
		require.NoError(t, err)
		require.NoError(t, flow.Await(t.Context(), 1))
		_, err = lab.Lan.Exec(t.Context(), "ip", "link", "set", "node2", "nomaster")
		require.NoError(t, err)
		awaitSent(t, lab, 20)
		_, err = lab.Lan.Exec(t.Context(), "ip", "link", "set", "node2", "master", "br0")
		require.NoError(t, err)
		require.NoError(t, flow.Await(t.Context(), 5))
		loss, err = flow.Stop()
		require.NoError(t, err)
		require.GreaterOrEqual(t, loss.Lost(), 10) // of the 20 packets some are ARP and neighbour discovery
		require.Greater(t, loss.LongestGap, 10*5*time.Millisecond)
		require.Len(t, loss.Missing, loss.Lost())
		require.False(t, loss.Missing[0].After.IsZero(), "%v", loss.Missing)
	}
	flow, err := lab.Node(1).PingContinuously(t.Context(), lab.Outside.Addrs[subnet.IPv4].Next(), 5*time.Millisecond)
	require.NoError(t, err)
	awaitSent(t, lab, 20)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, flow.Await(ctx, 1), context.DeadlineExceeded)
	loss, err := flow.Stop()
	require.NoError(t, err)
	require.Zero(t, loss.Received)
	require.NotZero(t, loss.Lost())
}

// awaitSent waits until node1 has sent so many packets more.
func awaitSent(t *testing.T, lab *netlab.Lab, packets int) {
	t.Helper()
	before, err := sent(t, lab)
	require.NoError(t, err)
	require.Eventually(t, func() bool { now, err := sent(t, lab); return err == nil && now >= before+packets }, netlabtest.Patience, 10*time.Millisecond)
}

// sent returns how many packets node1 has sent.
func sent(t *testing.T, lab *netlab.Lab) (packets int, err error) {
	t.Helper()
	out, err := os.ReadFile(lab.Node(1).Path("/sys/class/net/eth0/statistics/tx_packets"))
	if err != nil {
		return 0, err
	}
	for _, c := range strings.TrimSpace(string(out)) {
		packets = 10*packets + int(c-'0')
	}
	return packets, nil
}

// The outside host sees who really sent, and who is masqueraded.
func TestSourceSeen(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t, netlab.Options{Nodes: 1})
	ctx, cancel := context.WithTimeout(t.Context(), netlabtest.Patience)
	defer cancel()
	for _, f := range subnet.Families {
		source, err := netlab.SourceSeen(ctx, &lab.Node(1).Host, lab.Outside, lab.Outside.Addrs[f])
		require.NoError(t, err)
		require.Equal(t, lab.Node(1).Addrs[f], source)
	}
	const rules = `table inet masq { chain post { type nat hook postrouting priority srcnat; oifname "outside" masquerade; }; }`
	_, err := lab.Lan.Exec(ctx, "nft", rules)
	require.NoError(t, err)
	for _, f := range subnet.Families {
		source, err := netlab.SourceSeen(ctx, &lab.Node(1).Host, lab.Outside, lab.Outside.Addrs[f])
		require.NoError(t, err)
		route, err := lab.Outside.Exec(ctx, "ip", "route", "show", "default")
		require.NoError(t, err)
		require.NotEqual(t, lab.Node(1).Addrs[f], source)
		if f == subnet.IPv4 {
			require.Contains(t, route, "via "+source.String()+" ")
		}
	}
	_, err = lab.Lan.Exec(ctx, "ip", "link", "set", "outside", "down")
	require.NoError(t, err)
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = netlab.SourceSeen(ctx, &lab.Node(1).Host, lab.Outside, lab.Outside.Addrs[subnet.IPv4])
	require.True(t, errors.Is(err, context.DeadlineExceeded), err)
}
