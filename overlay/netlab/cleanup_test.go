package netlab_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// machine is what a lab must leave as it found it.
type machine struct {
	Links, Mounts, Routes, Etc, VarLib, Opt, NetNS, Hostname string
}

func lookAround(t *testing.T) machine {
	t.Helper()
	run := func(script string) string {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	return machine{
		Links:    run("ip -o link | cut -d: -f2"),
		Mounts:   run("cut -d' ' -f5 /proc/self/mountinfo"),
		Routes:   run("ip route show table all; ip -6 route show table all | sed 's/ expires [0-9]*sec//'"),
		Etc:      run("ls /etc; cat /etc/hostname; cat /etc/machine-id || :"),
		VarLib:   run("ls /var/lib"),
		Opt:      run("ls /opt"),
		NetNS:    run("ls /run/netns 2>/dev/null || :"),
		Hostname: run("cat /proc/sys/kernel/hostname"),
	}
}

// processesOf lists the processes that have dir in their command line.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var found []string
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err == nil && bytes.Contains(line, []byte(dir)) {
			found = append(found, fmt.Sprintf("%s: %q", f, line))
		}
	}
	return found
}

func requireGone(t *testing.T, dir string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := os.Lstat(dir)
		return len(processesOf(t, dir)) == 0 && os.IsNotExist(err)
	}, netlabtest.Patience, 10*time.Millisecond, "%s is there, or %v", dir, processesOf(t, dir))
}

func TestCloseLeavesNothing(t *testing.T) {
	b := netlabtest.Binaries(t)
	before := lookAround(t)
	dir := filepath.Join(t.TempDir(), "lab")
	lab, err := netlab.New(t.Context(), netlab.Options{Nodes: 2, Dir: dir, Binaries: b})
	require.NoError(t, err)
	_, err = lab.Node(1).Start("leftover", "sh", "-c", "trap '' TERM HUP; (setsid sleep 1000 "+dir+" &); sleep 1000 "+dir)
	require.NoError(t, err)
	halted, err := lab.Node(2).Start("halted", "sleep", "1000")
	require.NoError(t, err)
	require.NoError(t, halted.Signal(syscall.SIGSTOP))
	_, err = lab.Node(1).PingContinuously(t.Context(), lab.Node(2).Addrs[0], 10*time.Millisecond)
	require.NoError(t, err)
	require.NotEmpty(t, processesOf(t, dir))
	require.NoError(t, lab.Close())
	require.Empty(t, processesOf(t, dir))
	require.NoDirExists(t, dir)
	require.Equal(t, before, lookAround(t))
	require.NoError(t, lab.Close(), "twice")
}

func TestFailedStartLeavesNothing(t *testing.T) {
	b := netlabtest.Binaries(t)
	before := lookAround(t)
	broken := filepath.Join(t.TempDir(), "twill")
	require.NoError(t, os.WriteFile(broken, []byte("#!/bin/sh\necho broken >&3\n"), 0o755))
	for _, tt := range []struct {
		name string
		opts netlab.Options
		want string
	}{
		{"first process", netlab.Options{Binaries: netlab.Binaries{Twill: broken}}, "furnishing the namespaces of"},
		{"links", netlab.Options{Binaries: b, MTU: 600}, "connecting hosts to the lan"}, // IPv6 needs 1280
		{"etcd", netlab.Options{Binaries: b, NetConf: string(make([]byte, 2<<20))}, "putting the network config into etcd"},
		{"options", netlab.Options{Binaries: b, Nodes: 201}, "201 nodes do not fit"},
		{"no binary", netlab.Options{}, "run `make build`"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.Dir = filepath.Join(t.TempDir(), "lab")
			_, err := netlab.New(t.Context(), tt.opts)
			require.ErrorContains(t, err, tt.want)
			require.Empty(t, processesOf(t, tt.opts.Dir))
			require.NoDirExists(t, tt.opts.Dir)
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "lab")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := netlab.New(ctx, netlab.Options{Dir: dir, Binaries: b})
		require.ErrorIs(t, err, context.Canceled)
		require.NoDirExists(t, dir)
	})
	require.Equal(t, before, lookAround(t))
}

// A lab whose owner is killed ends by itself and takes its directory with it,
// also one that hides in the /run that nodes do not see.
func TestKilledOwnerLeavesNothing(t *testing.T) {
	b := netlabtest.Binaries(t)
	before := lookAround(t)
	for _, above := range []string{t.TempDir(), runDir(t)} {
		dir := filepath.Join(above, "lab")
		owner := exec.CommandContext(t.Context(), os.Args[0])
		owner.Env = append(os.Environ(), ownerDir+"="+dir, ownerBinaries+"="+b.Twill)
		out, err := owner.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, owner.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "up\n", line)
		require.DirExists(t, dir)
		require.NoError(t, owner.Process.Kill())
		require.Error(t, owner.Wait())
		requireGone(t, dir)
	}
	require.Equal(t, before, lookAround(t))
}

func runDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "netlab-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}
