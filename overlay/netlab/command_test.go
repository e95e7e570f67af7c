package netlab_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// twill runs the command and returns its output and exit code. The tests of
// `twill lab` and `twill store` are here, with the real binary, because a test
// binary of cmd/twill would link etcd's server.
func twill(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), netlabtest.Binaries(t).Twill, args...) // also in a Cleanup
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

func TestLabUpExecDown(t *testing.T) {
	name := "test-" + filepath.Base(t.TempDir()) + "-" + time.Now().Format("150405.000")
	dir := filepath.Join("/run/twill-lab", name)
	before := lookAround(t)
	t.Cleanup(func() { twill(t, "lab", "down", "--name", name) })

	out, code := twill(t, "lab", "down", "--name", name)
	require.Zero(t, code, out)
	require.Equal(t, "no lab is up\n", out)
	out, code = twill(t, "lab", "exec", "--name", name, "node1", "--", "true")
	require.Equal(t, 1, code)
	require.Contains(t, out, "start one with `twill lab up`")

	out, code = twill(t, "lab", "up", "--name", name, "--nodes", "2")
	require.Zero(t, code, out)
	require.Contains(t, out, "twilld: ready on 2 nodes")
	require.Contains(t, out, "twill lab down --name "+name)
	out, code = twill(t, "lab", "up", "--name", name)
	require.Zero(t, code, out)
	require.Contains(t, out, "the lab is up already")

	in := func(want int, place string, args ...string) string {
		t.Helper()
		out, code := twill(t, append([]string{"lab", "exec", "--name", name, place}, args...)...)
		require.Equal(t, want, code, out)
		return out
	}
	require.Equal(t, "node2\n", in(0, "node2", "hostname"))
	in(7, "node1", "--", "sh", "-c", "exit 7")
	require.Contains(t, in(1, "node3", "true"), "it has lan, node1, node1/pod1, node2, node2/pod1, outside")
	addr := regexp.MustCompile(`inet (10\.244\.\S+)/`).FindStringSubmatch(in(0, "node2/pod1", "--", "ip", "addr", "show", "eth0"))
	require.Len(t, addr, 2)
	in(0, "node1/pod1", "ping", "-c1", "-W2", addr[1])
	in(0, "node1", "--", "twill", "status")

	out, code = twill(t, "lab", "down", "--name", name)
	require.Zero(t, code, out)
	require.Equal(t, "the lab is down\n", out)
	require.Empty(t, processesOf(t, dir))
	require.NoDirExists(t, dir)
	require.Equal(t, before, lookAround(t))
}

// A lab whose processes have died, as after a reboot, is cleared away.
func TestLabUpAfterDeath(t *testing.T) {
	b := netlabtest.Binaries(t)
	dir := filepath.Join(t.TempDir(), "lab")
	o := netlab.Options{Nodes: 1, Dir: dir, Binaries: b}
	require.NoError(t, netlab.Up(t.Context(), o, 0))
	t.Cleanup(func() {
		was, err := netlab.Down(context.Background(), dir)
		require.True(t, was)
		require.NoError(t, err)
		require.NoDirExists(t, dir)
	})
	require.ErrorIs(t, netlab.Up(t.Context(), o, 0), netlab.ErrIsUp)
	for _, p := range processesOf(t, dir) {
		pid := regexp.MustCompile(`^/proc/(\d+)/cmdline.*node-init`).FindStringSubmatch(p)
		if pid != nil {
			require.NoError(t, exec.CommandContext(t.Context(), "kill", "-9", pid[1]).Run())
		}
	}
	for _, place := range []string{"node1", "lan", "outside"} {
		require.Eventually(t, func() bool {
			_, _, err := netlab.Command(dir, place, nil, b)
			return err != nil && strings.Contains(err.Error(), place+" is dead")
		}, netlabtest.Patience, 10*time.Millisecond)
	}
	require.NoError(t, netlab.Up(t.Context(), o, 0))
}

// When a daemon does not start, the error shows the end of its log, and
// nothing stays.
func TestLabUpFails(t *testing.T) {
	b := netlabtest.Binaries(t)
	b.Twilld = filepath.Join(t.TempDir(), "twilld")
	require.NoError(t, os.WriteFile(b.Twilld, []byte("#!/bin/sh\necho no luck today\nexit 3\n"), 0o755))
	dir := filepath.Join(t.TempDir(), "lab")
	err := netlab.Up(t.Context(), netlab.Options{Nodes: 2, Dir: dir, Binaries: b}, 1)
	require.ErrorContains(t, err, "twilld has ended: exit status 3")
	require.ErrorContains(t, err, "no luck today")
	require.NoDirExists(t, dir)
	require.Empty(t, processesOf(t, dir))
}

func TestDemo(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"dual stack", nil, []string{"36 of 36 pings answered", "traffic flows again after", "the device is back with the same MAC"}},
		{"IPv6 underlay, IPv4 overlay", []string{"--nodes=2", "--underlay=ipv6", "--overlay=ipv4"}, []string{"4 of 4 pings answered", "MTU 1430", "traffic flows again after"}},
		{"one node", []string{"--nodes=1", "--pods=2"}, []string{"16 of 16 pings answered"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := lookAround(t)
			out, code := twill(t, append([]string{"lab", "demo"}, tt.args...)...)
			require.Zero(t, code, out)
			for _, want := range tt.want {
				require.Contains(t, out, want)
			}
			require.NotContains(t, out, "LOST")
			require.LessOrEqual(t, strings.Count(out, "\n"), 60)
			require.Equal(t, before, lookAround(t))
		})
	}
}

func TestLabRefuses(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"demo", "--nodes=9"}, "9 pods make a table too large to read, must be 8 or less"},
		{[]string{"demo", "--nodes=0"}, "give at least one node"},
		{[]string{"up", "--nodes=201"}, "201 nodes do not fit, must be 1 to 200"},
		{[]string{"up", "--underlay=none"}, `"none" is no stack, must be ipv4, ipv6 or dual`},
		{[]string{"up", "--segments=-1"}, "-1 segments do not fit"},
		{[]string{"up", "--mtu=70000"}, "MTU 70000 is impossible"},
		{[]string{"exec"}, "usage: twill lab exec PLACE"},
		{[]string{"up", "now"}, `unknown command "now"`},
	} {
		out, code := twill(t, append([]string{"lab"}, tt.args...)...)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, tt.want)
	}
}

// ^C and SIGTERM, whenever they come, end the demo with nothing left; and so
// does SIGKILL.
func TestDemoInterrupted(t *testing.T) {
	b := netlabtest.Binaries(t)
	before := lookAround(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		for _, when := range []string{"A lab", "underlay:", "etcd:", "twilld:", "Repair:"} {
			if sig == syscall.SIGKILL && when == "A lab" {
				continue // nobody is there yet to remove the empty directory
			}
			t.Run(sig.String()+" at "+when, func(t *testing.T) {
				tmp := t.TempDir()
				out := &trigger{at: when, reached: make(chan struct{})}
				cmd := exec.CommandContext(t.Context(), b.Twill, "lab", "demo")
				cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
				cmd.Stdout, cmd.Stderr = out, out
				require.NoError(t, cmd.Start())
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				select {
				case <-out.reached:
				case err := <-ended:
					require.FailNow(t, "it has not come so far", "%v\n%s", err, out.text.String())
				}
				require.NoError(t, cmd.Process.Signal(sig))
				require.Error(t, <-ended)
				if sig != syscall.SIGKILL {
					require.Equal(t, 1, cmd.ProcessState.ExitCode(), out.text.String())
					require.Contains(t, out.text.String(), "interrupted")
					entries, err := os.ReadDir(tmp)
					require.NoError(t, err)
					require.Empty(t, entries)
				}
				require.Eventually(t, func() bool {
					entries, err := os.ReadDir(tmp)
					return err == nil && len(entries) == 0 && len(processesOf(t, tmp)) == 0
				}, netlabtest.Patience, 10*time.Millisecond)
			})
		}
	}
	require.Equal(t, before, lookAround(t))
}

// trigger is a writer that tells when a text has been written.
type trigger struct {
	at      string
	reached chan struct{}
	text    bytes.Buffer
}

func (w *trigger) Write(p []byte) (int, error) {
	had := strings.Contains(w.text.String(), w.at)
	w.text.Write(p)
	if !had && strings.Contains(w.text.String(), w.at) {
		close(w.reached)
	}
	return len(p), nil
}
