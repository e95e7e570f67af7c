// Package rulestest is what the tests of the firewalls' adapters share: network
// namespaces, a node in a small topology, and one body of tests which proves by
// packets that an adapter means what package masq says.
//
// It is for tests only, and imports none of the adapters.
package rulestest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace without a name: it ends with the last file
// descriptor or socket in it, however the test ends.
type Namespace struct {
	file *os.File
	port *atomic.Uint32 // that was used last, see Seen
}

// NewNamespace makes one, with lo up, for the time of a test.
func NewNamespace(t testing.TB) Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	ns := Namespace{port: new(atomic.Uint32)}
	require.NoError(t, OnOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	}), "making a network namespace")
	t.Cleanup(func() { _ = ns.file.Close() })
	ns.Run(t, "ip", "link", "set", "lo", "up")
	return ns
}

// OnOwnThread runs f on a thread that ends with it, so that no other goroutine
// ever runs in the namespace in which f leaves it.
func OnOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// Do runs f in the namespace; sockets and processes made by f stay there.
func (ns Namespace) Do(f func() error) error {
	return OnOwnThread(func() error {
		if err := unix.Setns(ns.FD(), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// FD returns a file descriptor of the namespace, open as long as the test runs.
func (ns Namespace) FD() int { return int(ns.file.Fd()) }

// Path names the namespace for `ip link set … netns`.
func (ns Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD()) }

// Run runs a command in the namespace and returns its standard output.
func (ns Namespace) Run(t testing.TB, command ...string) string {
	t.Helper()
	return ns.Pipe(t, "", command...)
}

// Pipe is run with standard input.
func (ns Namespace) Pipe(t testing.TB, input string, command ...string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	err := ns.Do(func() error {
		c := exec.Command(command[0], command[1:]...)
		c.Stdin, c.Stdout, c.Stderr = strings.NewReader(input), &stdout, &stderr
		return c.Run()
	})
	require.NoError(t, err, "%s: %s", strings.Join(command, " "), stderr.String())
	return stdout.String()
}

// IP runs each line as arguments of ip(8), in one process.
func (ns Namespace) IP(t testing.TB, lines ...string) {
	t.Helper()
	ns.Pipe(t, strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
}

// NeedNFT skips a test where there is no nft.
func NeedNFT(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs the nft command (package nftables), as an independent reader of the kernel's rules")
	}
}
