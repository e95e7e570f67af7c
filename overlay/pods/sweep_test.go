package pods_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/overlay/pods"
)

// ipam is a directory of host-local as it leaves it, for network cbr0.
type ipam struct {
	t *testing.T
	pods.Network
}

func newIPAM(t *testing.T) ipam {
	t.Helper()
	n := pods.Network{Name: "cbr0", Dir: filepath.Join(t.TempDir(), "cbr0"), Bridge: "cni0", VethFirst: true}
	require.NoError(t, os.Mkdir(n.Dir, 0o755))
	i := ipam{t, n}
	i.write("lock", "", 0)
	i.write("last_reserved_ip.0", "10.5.1.9", time.Hour)
	return i
}

// write makes a file of that age.
func (i ipam) write(name, content string, age time.Duration) {
	i.t.Helper()
	path := filepath.Join(i.Dir, name)
	require.NoError(i.t, os.WriteFile(path, []byte(content), 0o600))
	at := time.Now().Add(-age)
	require.NoError(i.t, os.Chtimes(path, at, at))
}

// left returns the addresses that are still reserved.
func (i ipam) left() (names []string) {
	i.t.Helper()
	entries, err := os.ReadDir(i.Dir)
	require.NoError(i.t, err)
	for _, e := range entries {
		if e.Name() != "lock" && !strings.HasPrefix(e.Name(), "last_reserved_ip.") {
			names = append(names, e.Name())
		}
	}
	return names
}

// known is an inventory that does not change.
func known(inv pods.Inventory) func(context.Context) (pods.Inventory, error) {
	return func(context.Context) (pods.Inventory, error) { return inv, nil }
}

func (i ipam) sweep(s *pods.Sweeper) pods.Swept {
	i.t.Helper()
	done, err := s.Sweep(i.t.Context(), []pods.Network{i.Network})
	require.NoError(i.t, err)
	return done
}

func addresses(rs []pods.Reservation) (all []string) {
	for _, r := range rs {
		all = append(all, r.Address.String())
	}
	return all
}

func TestSweep(t *testing.T) {
	t.Parallel()
	i := newIPAM(t)
	const old = 11 * time.Minute
	long := strings.Repeat("c", 200)
	i.write("10.5.1.2", "live\r\neth0", old)
	i.write("fd00::2", "live\r\neth0", old)
	i.write("10.5.1.3", "live\r\nnet1", old) // its second attachment has gone
	i.write("10.5.1.4", "gone\r\neth0", old)
	i.write("fd00::4", "gone\r\neth0", old)
	i.write("10.5.1.5", "young\r\neth0", 9*time.Minute)
	i.write("10.5.1.6", "", old) // power loss
	i.write("10.5.1.7", "", time.Minute)
	i.write("10.5.1.8", "live", old) // an early host-local
	i.write("10.5.1.9", "gone", old)
	i.write("10.5.1.10", "\x00\xff garbage", old)
	i.write("10.5.1.11", "", old) // cut off, but a pod has the address
	i.write("10.5.1.12", long+"\r\neth0", old)
	i.write("10.5.1.13", "flannels\r\neth0", old)
	i.write("fd00::d", "flannels\r\neth0", old) // found by its other address
	i.write("10.5.1.14", strings.Repeat("x", 1<<16), old)
	i.write("10.5.1.15", "live\neth0", old)
	i.write("10.5.01.1", "gone\r\neth0", old)
	i.write("FD00::7", "gone\r\neth0", old)
	i.write("notes.txt", "gone\r\neth0", old)
	require.NoError(t, os.Mkdir(filepath.Join(i.Dir, "10.5.1.20"), 0o755))
	require.NoError(t, os.Symlink("10.5.1.2", filepath.Join(i.Dir, "10.5.1.21")))
	longPod := pods.Named("cbr0", long, "eth0")
	s := &pods.Sweeper{Inventory: known(pods.Inventory{
		Pods: []pods.Pod{
			pod("cbr0", "live", "eth0", "10.5.1.2", "fd00::2", "v1", "cni0"),
			pod("blue", "other", "eth0", "10.5.1.11", "", "v2", "cni0"), longPod,
		},
		InUse: []netip.Addr{addr("10.5.1.13")},
	})}
	done := i.sweep(s)
	require.Equal(t, []string{"10.5.1.3", "10.5.1.4", "10.5.1.6", "10.5.1.9", "10.5.1.10", "10.5.1.14", "10.5.1.15", "fd00::4"}, addresses(done.Released))
	require.Empty(t, done.Unknown)
	require.Equal(t, "gone", done.Released[1].Container)
	require.Equal(t, "eth0", done.Released[1].IfName)
	require.Equal(t, "cbr0", done.Released[1].Network)
	require.ElementsMatch(t, []string{
		"10.5.1.2", "fd00::2", "10.5.1.5", "10.5.1.7", "10.5.1.8", "10.5.1.11", "10.5.1.12", "10.5.1.13", "fd00::d",
		"10.5.01.1", "FD00::7", "notes.txt", "10.5.1.20", "10.5.1.21",
	}, i.left())
	require.Empty(t, i.sweep(s).Released)
}

// A veth that nobody knows keeps the reservations that may be its pod's, and
// not those that were there without a pod before it came.
func TestUnknownVeths(t *testing.T) {
	t.Parallel()
	i := newIPAM(t)
	i.write("10.5.1.4", "gone\r\neth0", time.Hour)
	inv := pods.Inventory{Unknown: []pods.Veth{{"veth7", 7}, {"veth1", 8}}}
	s := &pods.Sweeper{Inventory: func(context.Context) (pods.Inventory, error) { return inv, nil }}
	keeps := func(suspects ...pods.Veth) {
		t.Helper()
		require.Equal(t, pods.Swept{Kept: min(1, len(suspects)), Unknown: suspects}, i.sweep(s))
		require.Equal(t, []string{"10.5.1.4"}, i.left())
	}
	keeps(pods.Veth{"veth1", 8}, pods.Veth{"veth7", 7})
	inv.Unknown = []pods.Veth{{"veth7", 7}, {"veth1", 9}, {"veth2", 10}}
	keeps(pods.Veth{"veth7", 7})
	inv = pods.Inventory{InUse: []netip.Addr{addr("10.5.1.4")}}
	keeps()
	inv = pods.Inventory{Unknown: []pods.Veth{{"veth2", 10}}} // its pod has lost its address
	keeps(pods.Veth{"veth2", 10})
	inv.Unknown = []pods.Veth{{"veth3", 11}}
	require.Equal(t, []string{"10.5.1.4"}, addresses(i.sweep(s).Released))

	i.VethFirst = false // the veth comes later
	now := time.Now()
	s.Now = func() time.Time { return now }
	i.write("10.5.1.4", "gone\r\neth0", time.Hour)
	keeps()
	now = now.Add(time.Hour)
	keeps(pods.Veth{"veth3", 11})
	inv.Unknown = []pods.Veth{{"veth4", 12}}
	keeps(pods.Veth{"veth4", 12})
}

// What is kept is counted once, though a sweep that releases something looks
// twice.
func TestKept(t *testing.T) {
	t.Parallel()
	i := newIPAM(t)
	i.write("10.5.1.4", "gone\r\neth0", time.Hour)
	i.write("10.5.1.5", "gone too\r\neth0", time.Hour)
	inv := pods.Inventory{Unknown: []pods.Veth{{"veth7", 7}}}
	s := &pods.Sweeper{Inventory: func(context.Context) (pods.Inventory, error) { return inv, nil }}
	require.Equal(t, 2, i.sweep(s).Kept)
	inv.Unknown = append(inv.Unknown, pods.Veth{"veth8", 8})
	i.write("10.5.1.6", "later\r\neth0", time.Hour)
	require.Equal(t, pods.Swept{Kept: 3, Unknown: inv.Unknown}, i.sweep(s))
	inv.Unknown = inv.Unknown[1:]
	done := i.sweep(s)
	require.Equal(t, []string{"10.5.1.4", "10.5.1.5"}, addresses(done.Released))
	require.Equal(t, 1, done.Kept)
}

// Only what the kernel tells under the lock counts: a veth that came after the
// first look keeps the address.
func TestInventoryIsReadUnderTheLock(t *testing.T) {
	t.Parallel()
	i := newIPAM(t)
	i.write("10.5.1.4", "late\r\neth0", time.Hour)
	for _, second := range []pods.Inventory{
		{Pods: []pods.Pod{pod("cbr0", "late", "eth0", "10.5.1.4", "", "v", "cni0")}},
		{InUse: []netip.Addr{addr("10.5.1.4")}},
	} {
		calls := 0
		s := &pods.Sweeper{Inventory: func(context.Context) (pods.Inventory, error) {
			calls++
			locked := func() bool { return tryLock(t, filepath.Join(i.Dir, "lock")) }
			if calls == 1 {
				// A program that another test starts shares the last sweep's lock until its exec.
				require.Eventually(t, func() bool { return !locked() }, patience, time.Millisecond, "most of the time nothing is stale, and nobody waits")
				return pods.Inventory{}, nil
			}
			require.True(t, locked())
			return second, nil
		}}
		require.Empty(t, i.sweep(s).Released)
		require.Equal(t, 2, calls)
	}
	require.Equal(t, []string{"10.5.1.4"}, i.left())
}

// tryLock reports whether somebody has the lock.
func tryLock(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true
	}
	require.NoError(t, err)
	return false
}

// Where the address comes before the veth, a clock that jumps, or a machine
// that slept, must not make a reservation old.
func TestAgeWithoutVethFirst(t *testing.T) {
	t.Parallel()
	i := newIPAM(t)
	i.VethFirst = false
	now := time.Now()
	s := &pods.Sweeper{Inventory: known(pods.Inventory{}), Now: func() time.Time { return now }}
	i.write("10.5.1.4", "gone\r\neth0", 24*time.Hour)
	require.Empty(t, i.sweep(s).Released)
	now = now.Add(9 * time.Minute)
	require.Empty(t, i.sweep(s).Released)
	i.write("10.5.1.4", "again\r\neth0", 24*time.Hour) // another one: its time begins anew
	now = now.Add(2 * time.Minute)
	require.Empty(t, i.sweep(s).Released)
	now = now.Add(9 * time.Minute)
	require.Empty(t, i.sweep(s).Released)
	now = now.Add(time.Minute)
	require.Equal(t, []string{"10.5.1.4"}, addresses(i.sweep(s).Released))
}

// A file from the future, of a boot with a wrong clock, goes too in the end.
func TestFutureReservation(t *testing.T) {
	t.Parallel()
	i := newIPAM(t)
	i.write("10.5.1.4", "gone\r\neth0", -365*24*time.Hour)
	now := time.Now()
	s := &pods.Sweeper{Inventory: known(pods.Inventory{}), Now: func() time.Time { return now }}
	require.Empty(t, i.sweep(s).Released)
	now = now.Add(pods.DefaultMinAge)
	require.Equal(t, []string{"10.5.1.4"}, addresses(i.sweep(s).Released))
}

func TestSweepErrors(t *testing.T) {
	t.Parallel()
	i, other := newIPAM(t), newIPAM(t)
	i.write("10.5.1.4", "gone\r\neth0", time.Hour)
	other.write("10.5.1.4", "gone\r\neth0", time.Hour)
	held, err := os.Open(filepath.Join(i.Dir, "lock"))
	require.NoError(t, err)
	defer held.Close()
	require.NoError(t, unix.Flock(int(held.Fd()), unix.LOCK_EX))
	nowhere := pods.Network{Name: "new", Dir: filepath.Join(i.Dir, "new")}
	file := pods.Network{Name: "file", Dir: filepath.Join(i.Dir, "lock")}

	s := &pods.Sweeper{Inventory: known(pods.Inventory{}), Wait: 20 * time.Millisecond}
	done, err := s.Sweep(t.Context(), []pods.Network{i.Network, nowhere, file, other.Network})
	require.ErrorContains(t, err, "sweeping the reservations of network cbr0 in "+i.Dir+": waiting for host-local's lock "+i.Dir+"/lock: context deadline exceeded")
	require.ErrorContains(t, err, "sweeping the reservations of network file")
	require.NotContains(t, err.Error(), "network new")
	require.Equal(t, []string{"10.5.1.4"}, addresses(done.Released), "one network does not keep us from the other")
	require.Equal(t, []string{"10.5.1.4"}, i.left())
	require.NoDirExists(t, nowhere.Dir)

	ctx, cancel := context.WithCancel(t.Context())
	s.Wait, s.Inventory = time.Hour, func(context.Context) (pods.Inventory, error) {
		cancel()
		return pods.Inventory{}, nil
	}
	_, err = s.Sweep(ctx, []pods.Network{i.Network})
	require.ErrorIs(t, err, context.Canceled)

	s.Inventory = func(context.Context) (pods.Inventory, error) { return pods.Inventory{}, unix.EPERM }
	_, err = s.Sweep(t.Context(), []pods.Network{i.Network})
	require.ErrorIs(t, err, unix.EPERM)

	require.NoError(t, held.Close())
	s.Inventory = known(pods.Inventory{})
	require.NoError(t, os.Remove(filepath.Join(i.Dir, "lock"))) // made anew
	require.Equal(t, []string{"10.5.1.4"}, addresses(i.sweep(s).Released))
	require.FileExists(t, filepath.Join(i.Dir, "lock"))
}

// FuzzReservation: whatever a power loss leaves in a file, a pod's address and
// a pod's container are never released, and nothing but addresses is.
func FuzzReservation(f *testing.F) {
	f.Add("10.5.1.2", []byte("live\r\neth0"))
	f.Add("fd00::2", []byte(""))
	f.Add("10.5.1.4", []byte("gone\r\neth0"))
	f.Add("last_reserved_ip.0", []byte("10.5.1.4"))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		if name == "lock" || strings.ContainsAny(name, "/\x00") || len(name) > 200 || name == "" || name[0] == '.' {
			return
		}
		i := newIPAM(t)
		i.write(name, string(content), time.Hour)
		s := &pods.Sweeper{Inventory: known(pods.Inventory{
			Pods: []pods.Pod{pod("cbr0", "live", "eth0", "10.5.1.2", "fd00::2", "v", "cni0")},
		})}
		done := i.sweep(s)
		_, err := os.Stat(filepath.Join(i.Dir, name))
		if len(done.Released) == 0 {
			require.NoError(t, err)
			return
		}
		require.ErrorIs(t, err, os.ErrNotExist)
		require.Equal(t, name, done.Released[0].Address.String())
		require.NotContains(t, []string{"10.5.1.2", "fd00::2"}, name)
		require.NotEqual(t, "live\r\neth0", strings.TrimSpace(string(content)))
	})
}
