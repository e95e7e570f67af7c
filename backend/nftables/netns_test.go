package nftables_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// namespace is a network namespace without a name: it ends with the last file
// descriptor or socket in it, however the test ends.
type namespace struct {
	file *os.File
}

func newNamespace(t *testing.T) namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	var ns namespace
	require.NoError(t, onOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	}), "making a network namespace")
	t.Cleanup(func() { _ = ns.file.Close() })
	ns.run(t, "ip", "link", "set", "lo", "up")
	return ns
}

// onOwnThread runs f on a thread that ends with it, so that no other goroutine
// ever runs in the namespace in which f leaves it.
func onOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// do runs f in the namespace; sockets and processes made by f stay there.
func (ns namespace) do(f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(ns.fd(), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func (ns namespace) fd() int { return int(ns.file.Fd()) }

// path names the namespace for `ip link set … netns`.
func (ns namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.fd()) }

// run runs a command in the namespace and returns its standard output.
func (ns namespace) run(t *testing.T, command ...string) string {
	t.Helper()
	return ns.pipe(t, "", command...)
}

// pipe is run with standard input.
func (ns namespace) pipe(t *testing.T, input string, command ...string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	err := ns.do(func() error {
		c := exec.Command(command[0], command[1:]...)
		c.Stdin, c.Stdout, c.Stderr = strings.NewReader(input), &stdout, &stderr
		return c.Run()
	})
	require.NoError(t, err, "%s: %s", strings.Join(command, " "), stderr.String())
	return stdout.String()
}

// ip runs each line as arguments of ip(8), in one process.
func (ns namespace) ip(t *testing.T, lines ...string) {
	t.Helper()
	ns.pipe(t, strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
}

func needNFT(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs the nft command (package nftables), as an independent reader of the kernel's rules")
	}
}
