package guard_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/nftables/guard"
	"github.com/twill-net/twill/subnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// namespace is a network namespace without a name: it ends with the last file
// descriptor or socket in it, however the test ends.
type namespace struct {
	file *os.File
}

func newNamespace(t testing.TB) namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs the nft command (package nftables), as an independent reader and writer of the kernel's rules")
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
func (ns namespace) run(t testing.TB, command ...string) string {
	t.Helper()
	return ns.pipe(t, "", command...)
}

// pipe is run with standard input.
func (ns namespace) pipe(t testing.TB, input string, command ...string) string {
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
func (ns namespace) ip(t testing.TB, lines ...string) {
	t.Helper()
	ns.pipe(t, strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
}

func (ns namespace) tables() *guard.Tables { return guard.New(guard.Config{NetNS: ns.fd()}) }

func (ns namespace) observe(t testing.TB) backend.State {
	t.Helper()
	s, err := ns.tables().Observe(t.Context())
	require.NoError(t, err)
	return s
}

// reach makes the kernel's state the one wanted.
func (ns namespace) reach(t testing.TB, want backend.State) {
	t.Helper()
	changes := backend.Diff(want, ns.observe(t))
	for i, err := range ns.tables().Apply(t.Context(), changes) {
		require.NoError(t, err, changes[i])
	}
	require.Equal(t, want, ns.observe(t))
}

func state(objects ...backend.Object) backend.State { return backend.NewState(objects...) }

func permit(outer string, inner ...string) backend.Object {
	p := hygiene.Permit{Outer: addr(outer)}
	for _, i := range inner {
		p.Inner = prefix(i)
	}
	return p
}

func pod(link string, addresses ...string) backend.Object {
	p := hygiene.Pod{Link: link}
	for _, a := range addresses {
		p.Addresses[subnet.FamilyOf(addr(a))] = addr(a)
	}
	return p
}

var dual = hygiene.Guard{
	VNI: 1, Port: 8472, Networks: subnet.PerFamily[netip.Prefix]{prefix("10.244.0.0/16"), prefix("fd00:244::/48")},
}

// whole is a state with something of everything.
func whole() backend.State {
	return state(dual,
		permit("192.0.2.2"), permit("192.0.2.2", "10.244.2.0/24"), permit("192.0.2.2", "fd00:244:0:2::/64"),
		permit("2001:db8::2"), permit("2001:db8::2", "10.244.2.0/24"), permit("2001:db8::2", "fd00:244:0:2::/64"),
		pod("veth1", "10.244.1.2", "fd00:244:0:1::2"), pod("veth2", "10.244.1.3"),
	)
}
