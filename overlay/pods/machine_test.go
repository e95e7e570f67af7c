package pods_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/pods"
)

// The tests of this file run the real bridge and host-local on the real kernel.

const (
	subnet1 = "10.5.1.0/24"
	subnet2 = "10.5.2.0/24"
	six1    = "fd00:5:0:1::/64"
	six2    = "fd00:5:0:2::/64"
)

func TestAliasInTheKernel(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nil)
	longest := pod(strings.Repeat("n", 64), strings.Repeat("c", 112), "abcdefghijklmno", "255.255.255.254", "fd00:1111:2222:3333:4444:5555:6666:7777", "veth1", "cni0")
	long, err := pods.Format(longest)
	require.NoError(t, err)
	require.Len(t, long, pods.AliasSize)
	run(t, "ip -n "+m.ns+" link add cni0 type bridge")
	run(t, "ip -n "+m.ns+" link add veth1 type veth peer name peer1")
	run(t, "ip -n "+m.ns+" link set veth1 master cni0 alias "+long)
	all, err := m.Interfaces(t.Context())
	require.NoError(t, err)
	require.Equal(t, []pods.Pod{longest}, pods.From(all))
	require.Error(t, exec.Command("ip", "-n", m.ns, "link", "set", "veth1", "alias", long+"x").Run(), "AliasSize is the kernel's limit")
}

// Nothing protects an ADD here but the order of things: the sweeps run without
// a pause and hold no reservation for too young.
func TestSweepBesideADDs(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nil)
	const n, workers = 16, 4
	podNS := make([]string, n)
	for i := range podNS {
		podNS[i] = netns(t)
	}
	_, err := binaries()
	require.NoError(t, err)
	stop := sweepOn(t, m)
	var wg sync.WaitGroup
	got, errs := make([]string, n), make([]error, n)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				r, err := m.add(fmt.Sprintf("pod-%d", i), podNS[i], subnet1, six1)
				if errs[i] = err; err == nil {
					got[i] = ipsOf(r)
				}
			}
		})
	}
	wg.Wait()
	released, sweeps := stop()
	for i, err := range errs {
		require.NoError(t, err, i)
	}
	require.Empty(t, released, "in %d sweeps", sweeps)
	require.ElementsMatch(t, strings.Fields(strings.Join(got, " ")), m.left())
	require.Len(t, m.left(), 2*n)

	// Now half of them crash.
	for _, ns := range podNS[:n/2] {
		run(t, "ip netns del "+ns)
	}
	require.Eventually(t, func() bool {
		all, err := m.Interfaces(t.Context())
		return err == nil && len(pods.From(all)) == n/2
	}, patience, 10*time.Millisecond)
	done := m.sweep(m.sweeper())
	require.Empty(t, done.Unknown)
	require.ElementsMatch(t, strings.Fields(strings.Join(got[:n/2], " ")), addresses(done.Released))
	require.ElementsMatch(t, strings.Fields(strings.Join(got[n/2:], " ")), m.left())
}

// sweepOn sweeps until stop is called, which returns what was released.
func sweepOn(t *testing.T, m machine) (stop func() (released []string, sweeps int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	finished := make(chan error, 1)
	var released []string
	sweeps := 0
	go func() {
		s := m.sweeper()
		for ctx.Err() == nil {
			done, err := s.Sweep(ctx, []pods.Network{m.Network})
			released = append(released, addresses(done.Released)...)
			if err != nil && ctx.Err() == nil {
				finished <- err
				return
			}
			sweeps++
		}
		finished <- nil
	}()
	return func() ([]string, int) {
		cancel()
		require.NoError(t, <-finished)
		return released, sweeps
	}
}

// Without veths only the age tells; host-local and the sweep share the lock.
func TestSweepBesideHostLocal(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nil)
	require.NoError(t, os.Mkdir(m.Dir, 0o755))
	var stale, fresh []string
	for i := range 100 {
		a := fmt.Sprintf("10.5.1.%d", 150+i)
		m.write(a, "gone\r\neth0", time.Hour)
		stale = append(stale, a)
	}
	_, err := binaries()
	require.NoError(t, err)
	s := m.sweeper()
	s.MinAge = pods.DefaultMinAge
	const n, workers = 50, 5
	var wg sync.WaitGroup
	got, errs := make([]string, n), make([]error, n)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				r, err := m.plugin("host-local", "ADD", fmt.Sprintf("pod-%d", i), "none", subnet1)
				if errs[i] = err; err == nil {
					got[i] = ipsOf(r)
				}
			}
		})
	}
	added := make(chan struct{})
	go func() { wg.Wait(); close(added) }()
	released := map[string]int{}
	for running := true; running; {
		select {
		case <-added:
			running = false
		default:
		}
		done := m.sweep(s)
		for _, a := range addresses(done.Released) {
			released[a]++
		}
		if len(done.Released) > 0 { // another crash, so that the lock is wanted again
			m.write("10.5.1.149", "gone\r\neth0", time.Hour)
		}
	}
	for i, err := range errs {
		require.NoError(t, err, i)
		fresh = append(fresh, got[i])
	}
	for _, a := range stale {
		require.Equal(t, 1, released[a], a)
	}
	m.sweep(s)
	require.ElementsMatch(t, fresh, m.left())
}

// A pod whose veth has no alias keeps its address: it was made by flannel, or
// the plugin was killed before it wrote one.
func TestPodsWithoutAlias(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nil)
	flannel, crashed, empty := netns(t), netns(t), netns(t)
	_, err := m.plugin("bridge", "ADD", "flannel", flannel, subnet1, six1)
	require.NoError(t, err)
	gone, err := m.plugin("bridge", "ADD", "crashed", crashed, subnet1, six1)
	require.NoError(t, err)
	run(t, "ip netns del "+crashed)
	require.Eventually(t, func() bool {
		all, err := m.Interfaces(t.Context())
		_, there := backend.Host{Interfaces: all}.Interface(gone.Interfaces[1].Name)
		return err == nil && !there
	}, patience, 10*time.Millisecond)

	// An ADD that has just made its veth keeps everything as it is.
	run(t, fmt.Sprintf("ip -n %s link add vethnew master cni0 type veth peer name eth0 netns %s", m.ns, empty))
	done := m.sweep(m.sweeper())
	require.Len(t, done.Unknown, 1)
	require.Equal(t, "vethnew", done.Unknown[0].Name)
	require.Empty(t, done.Released)
	run(t, "ip -n "+m.ns+" link del vethnew")

	// Docker's containers do not.
	run(t, fmt.Sprintf("ip -n %s link add docker0 type bridge", m.ns))
	run(t, fmt.Sprintf("ip -n %s address add 172.17.0.1/16 dev docker0", m.ns))
	run(t, fmt.Sprintf("ip -n %s link add vethdocker master docker0 type veth peer name eth0 netns %s", m.ns, empty))
	// Nor does a container with an address of its own that is not ours, be it
	// on no bridge (systemd-nspawn) or on one without addresses.
	other := netns(t)
	run(t, fmt.Sprintf("ip -n %s link add ve-web type veth peer name host0 netns %s", m.ns, other))
	run(t, "ip -n "+other+" address add 169.254.3.3/16 scope link dev host0")
	require.Equal(t, "ve-web", m.sweep(m.sweeper()).Unknown[0].Name)
	run(t, "ip -n "+other+" address add 192.168.7.2/28 dev host0")
	done = m.sweep(m.sweeper())
	require.Empty(t, done.Unknown)
	require.ElementsMatch(t, strings.Fields(ipsOf(gone)), addresses(done.Released))
	require.Len(t, m.left(), 2)
}

// After a reboot the disk is full of addresses, and the first pods need them.
func TestReboot(t *testing.T) {
	t.Parallel()
	const small = "10.5.1.0/29" // five pods
	before := newMachine(t, nil)
	var crashed []string
	for i := range 5 {
		ns := netns(t)
		_, err := before.add(fmt.Sprintf("pod-%d", i), ns, small)
		require.NoError(t, err)
		crashed = append(crashed, ns)
	}
	for _, ns := range append(crashed, before.ns) {
		run(t, "ip netns del "+ns)
	}
	after := newMachine(t, &before.ipam)
	ns := netns(t)
	_, err := after.add("new", ns, small)
	require.ErrorContains(t, err, "no IP addresses available")
	hourAgo := time.Now().Add(-time.Hour)
	for _, a := range after.left() {
		require.NoError(t, os.Chtimes(filepath.Join(after.Dir, a), hourAgo, hourAgo))
	}
	s := &pods.Sweeper{Inventory: after.inventory}
	require.Len(t, after.sweep(s).Unknown, 1, "the plugin has left its veth")
	_, err = after.add("more", netns(t), small)
	require.ErrorContains(t, err, "no IP addresses available")
	_, err = after.plugin("bridge", "DEL", "new", ns, small)
	require.NoError(t, err)
	done := after.sweep(s)
	require.Empty(t, done.Unknown, "another ADD that fails does not keep them")
	require.Len(t, done.Released, 5)
	require.Empty(t, after.left())
	_, err = after.add("new", ns, small)
	require.NoError(t, err)
	require.Empty(t, after.sweep(after.sweeper()).Released)
	require.Len(t, after.left(), 1)
}

// A sweep that is killed with the lock in its hands leaves it to the others.
func TestKilledSweep(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nil)
	require.NoError(t, os.Mkdir(m.Dir, 0o755))
	m.write("10.5.1.200", "gone\r\neth0", time.Hour)
	_, err := binaries()
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), holdEnv+"="+m.Dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { // also when it fails; twice does no harm
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "locked\n", line)

	added := make(chan error, 1)
	go func() {
		_, err := m.plugin("host-local", "ADD", "pod", "none", subnet1)
		added <- err
	}()
	info, err := os.Stat(filepath.Join(m.Dir, "lock"))
	require.NoError(t, err)
	inode := fmt.Sprintf(":%d 0 EOF", info.Sys().(*syscall.Stat_t).Ino)
	require.Eventually(t, func() bool { // proc_locks(5): "->" is one who waits
		for line := range strings.Lines(run(t, "cat /proc/locks")) {
			if strings.Contains(line, "-> FLOCK") && strings.Contains(line, inode) {
				return true
			}
		}
		return false
	}, patience, 10*time.Millisecond, "host-local waits for us")
	require.Empty(t, added)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NoError(t, <-added)
	require.Equal(t, []string{"10.5.1.200"}, addresses(m.sweep(&pods.Sweeper{Inventory: m.inventory}).Released))
	require.Equal(t, []string{"10.5.1.2"}, m.left())
}
