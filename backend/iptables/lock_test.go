package iptables_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/rulestest"
)

// ownLock gives the test a lock of its own, and returns it held. The binaries
// take it by flock(2) from this variable (iptables.8, -w, since 1.8.6).
func ownLock(t *testing.T) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "xtables.lock")
	t.Setenv("XTABLES_LOCKFILE", path)
	f, err := os.Create(path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	return f
}

// A lock that another holds is waited for, a while.
func TestLockHeldByAnother(t *testing.T) {
	c := newChains(t, iptables.Legacy, rulestest.NewNamespace(t))
	c.hasty = true
	lock := ownLock(t)

	_, err := c.Sync(t.Context(), masq.Plan(rulestest.Dual()))
	require.ErrorContains(t, err, "Another app is currently holding the xtables lock")
	require.ErrorContains(t, err, "find who holds it")
	require.NotContains(t, err.Error(), "ip6tables", "one wait is enough")

	done := make(chan error, 1)
	go func() {
		for { // a slow machine may not let go of it within one wait
			_, err := c.Sync(context.Background(), masq.Plan(rulestest.Dual()))
			if err == nil || !strings.Contains(err.Error(), "xtables lock") {
				done <- err
				return
			}
		}
	}()
	require.Eventually(t, func() bool { return waitsFor(t, lock) }, time.Minute, 5*time.Millisecond)
	require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_UN))
	require.NoError(t, <-done)
	require.Len(t, ours(c.save(t)), 2*(2+10))
}

// A look waits once, and not as long as a write may: it is repeated anyway, and
// others wait for who looks.
func TestForwardDropsLockHeldByAnother(t *testing.T) {
	c, l := logging(t, iptables.Legacy)
	c.hasty = true
	c.sh(t, `ipt -P FORWARD DROP`)
	l.take(t)
	ownLock(t)
	drops, err := c.ForwardDrops(t.Context())
	require.ErrorContains(t, err, "Another app is currently holding the xtables lock")
	require.Zero(t, drops)
	runs := l.take(t)
	require.Equal(t, 1, strings.Count(runs, "\n"), runs)
	require.Contains(t, runs, "--wait 1\n")
}

// A listing that takes long, as while it waits for the lock, ends with ctx.
func TestCancelledWhileListing(t *testing.T) {
	for _, v := range iptables.Variants {
		t.Run(v.String(), func(t *testing.T) {
			dir := t.TempDir()
			pid := filepath.Join(dir, "pid")
			for _, name := range []string{"iptables", "ip6tables"} {
				says := "[ \"$1\" != --version ] || { echo 'iptables v1.8.9 (" + v.String() + ")'; exit; }\n"
				script(t, dir, name, says+"echo $$ >"+pid+".new; /bin/mv "+pid+".new "+pid+"; exec /usr/bin/tail -f /dev/null")
				script(t, dir, name+"-restore", says+"exit 1")
			}
			h, err := detectIn(t, dir)
			require.NoError(t, err)
			c := chains{Chains: iptables.New(h, v), ns: rulestest.NewNamespace(t)}
			c.sh(t, `ipt -P FORWARD DROP`)
			calls := map[string]func(context.Context) error{
				"Sync": func(ctx context.Context) error { _, err := c.Sync(ctx, masq.Plan(rulestest.Dual())); return err },
			}
			if v == iptables.Legacy { // the other one needs no process
				calls["ForwardDrops"] = func(ctx context.Context) error { _, err := c.ForwardDrops(ctx); return err }
			}
			for name, call := range calls {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- call(ctx) }()
				require.Eventually(t, func() bool { _, err := os.Stat(pid); return err == nil }, time.Minute, 5*time.Millisecond)
				cancel()
				select {
				case err := <-done:
					require.ErrorIs(t, err, context.Canceled, name)
				case <-time.After(time.Minute):
					endProcess(t, pid)
					require.Fail(t, "the listing goes on", "%s: %v", name, <-done)
				}
				require.NoError(t, os.Remove(pid))
			}
		})
	}
}

// endProcess kills the process that a file names.
func endProcess(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
}

// waitsFor reports whether another process has the file of the lock open.
func waitsFor(t *testing.T, lock *os.File) bool {
	t.Helper()
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	require.NoError(t, err)
	self, err := os.Readlink("/proc/self")
	require.NoError(t, err)
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == lock.Name() && filepath.Base(filepath.Dir(filepath.Dir(fd))) != self {
			return true
		}
	}
	return false
}

// A cancelled Sync ends, and says so.
func TestCancelled(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.Sync(ctx, masq.Plan(rulestest.Dual()))
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, ours(c.save(t)))
	})
}

// While others write to the same tables all the time, ours come to be right,
// and theirs all stay.
func TestWritingTogether(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		c.sh(t, busyHost)
		before := c.save(t)
		done := make(chan error, 1)
		go func() {
			done <- c.ns.Do(func() error {
				return c.shell(`for i in 1 2 3 4 5 6 7 8; do
					ipt -I FORWARD -i eth$i -j ACCEPT; ipt -t nat -A POSTROUTING -o eth$i -j ACCEPT
				done`)
			})
		}()
		writing := true
		for i := 0; writing; i++ {
			config := rulestest.Dual()
			config.RandomFully = i%2 == 0
			_, _ = c.Sync(t.Context(), masq.Plan(config)) // may lose a race; it is tried again
			select {
			case err := <-done:
				require.NoError(t, err)
				writing = false
			default:
			}
		}
		rulestest.Sync(t, c, rulestest.Dual())
		require.Len(t, ours(c.save(t)), 2*(2+10))
		require.NoError(t, c.Remove(t.Context()))
		c.sh(t, `for i in 1 2 3 4 5 6 7 8; do
			ipt -D FORWARD -i eth$i -j ACCEPT; ipt -t nat -D POSTROUTING -o eth$i -j ACCEPT
		done`)
		require.Equal(t, before, c.save(t))
	})
}
