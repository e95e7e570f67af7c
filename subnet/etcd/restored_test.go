package etcd_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

// What happens while one does not look must not be lost, even when the store
// has caught up with the revision at which one stopped looking.
func TestRestoredFromBackup(t *testing.T) {
	t.Parallel()
	for name, further := range map[string]int{"behind": 0, "caught up": 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, way := newBackend(t, etcdtest.Options{}).through(t)
			b.Put(t, "10.5.1.0-24", peerA, false)
			b.server.Stop()
			old := b.server.Backup()
			b.server.Restart()
			s := b.open(t)
			v := subnettest.Watch(t, s)
			v.Await(t, b)
			h := subnettest.Hold(t, s, subnettest.Claim(t, "n1"))
			held := h.Next(t)
			for range 5 {
				b.Put(t, "10.5.2.0-24", peerB, false)
			}
			v.Await(t, b)

			way.Cut()
			b.server.Stop()
			b.server.Restore(old)
			b.server.Restart()
			for range further {
				b.Put(t, "10.5.3.0-24", peerB, false)
			}
			way.Heal()
			again := h.Next(t)
			require.Equal(t, held.Key, again.Key, "a lost lease is taken again")
			v.Await(t, b)
			require.NotContains(t, v.Records(), "10.5.2.0-24", "it is not in the backup")
			require.Contains(t, v.Records(), held.Key)
			full, wentBack := v.Fulls()
			require.Equal(t, 1, wentBack)
			require.Equal(t, 1, full)
		})
	}
}

// The backup is from when another node had the subnet that is ours since, and
// both are alive: each keeps what its pods use.
func TestRestoredFromBeforeTheSubnetWasOurs(t *testing.T) {
	t.Parallel()
	b, way := newBackend(t, etcdtest.Options{}).through(t)
	s, other := b.open(t), b.open(t)
	theirs := subnettest.Hold(t, other, subnettest.Claim(t, "n2"))
	first := theirs.Next(t)
	b.server.Stop()
	old := b.server.Backup()
	b.server.Restart()
	b.Put(t, first.Key, peerA, false) // stolen: n2 has to go elsewhere
	moved := theirs.Next(t)
	require.NotEqual(t, first.Key, moved.Key)
	b.Delete(t, first.Key)
	claim := subnettest.Claim(t, "n1")
	claim.Previous = first.Lease.Subnets
	ours := subnettest.Hold(t, s, claim)
	held := ours.Next(t)
	require.Equal(t, first.Key, held.Key)

	way.Cut()
	b.server.Stop()
	b.server.Restore(old)
	b.server.Restart()
	way.Heal()
	require.Equal(t, held.Key, ours.Next(t).Key)
	require.Equal(t, moved.Key, theirs.Next(t).Key)
	v := subnettest.Watch(t, s)
	subnettest.Eventually(t, "each has its own", func() bool {
		records := v.Records()
		return len(records) == 2 && records[held.Key].Lease.Node == "n1" && records[moved.Key].Lease.Node == "n2"
	})
}

// Behind the same address there is another cluster, with a larger revision.
func TestAnotherCluster(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	other := newBackend(t, etcdtest.Options{})
	for range 50 {
		other.Put(t, "10.5.9.0-24", peerB, false)
	}
	b.Put(t, "10.5.1.0-24", peerA, false)
	b, way := b.through(t)
	v := subnettest.Watch(t, b.open(t))
	v.Await(t, b)
	way.Cut()
	way.Retarget(other.server)
	way.Heal()
	v.Await(t, other)
	_, wentBack := v.Fulls()
	require.Equal(t, 1, wentBack)
	// And it is told although there is nothing by which to know the history.
	b, other = newBackend(t, etcdtest.Options{}), newBackend(t, etcdtest.Options{})
	b, way = b.through(t)
	v = subnettest.Watch(t, b.open(t))
	v.Await(t, b)
	other.SetConfig(t, []byte("{}"))
	way.Cut()
	way.Retarget(other.server)
	way.Heal()
	subnettest.Eventually(t, "it is told", func() bool { _, wentBack := v.Fulls(); return wentBack == 1 })
}

// The store went back while nobody watched it: between two calls.
func TestWentBackBetweenCalls(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	b.server.Stop()
	old := b.server.Backup()
	b.server.Restart()
	b.Put(t, "10.5.1.0-24", peerA, false)
	s := b.open(t)
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	require.NoError(t, v.Stop())
	b.server.Stop()
	b.server.Restore(old)
	b.server.Restart()
	v = subnettest.Watch(t, s)
	v.Await(t, b)
	require.True(t, v.Updates()[0].WentBack)
}

// What happens between two runs must not be lost either: the next one takes up
// the position of the last.
func TestWentBackBetweenRuns(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		restore  bool // to when it was empty
		further  int  // writes
		compact  bool
		wentBack bool
	}{
		"as it was":               {},
		"continued":               {further: 20},
		"continued and compacted": {further: 20, compact: true},
		"emptied":                 {restore: true, wentBack: true},
		"emptied and caught up":   {restore: true, further: 20, wentBack: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend(t, etcdtest.Options{})
			b.server.Stop()
			empty := b.server.Backup()
			b.server.Restart()
			s := b.open(t)
			require.Empty(t, s.Position())
			v := subnettest.Watch(t, s)
			b.Put(t, "10.5.1.0-24", peerA, false)
			b.Delete(t, "10.5.1.0-24")
			b.Put(t, "10.5.2.0-24", peerA, false) // by which the history is known again
			v.Await(t, b)
			require.NoError(t, v.Stop())
			at := s.Position()
			require.NotEmpty(t, at)
			require.NoError(t, s.Close())

			b.server.Stop()
			if c.restore {
				b.server.Restore(empty)
			}
			b.server.Restart()
			for range c.further {
				b.Put(t, "10.5.3.0-24", peerB, false)
			}
			if c.compact {
				b.server.Compact()
			}
			s = b.open(t)
			require.NoError(t, s.Resume(at))
			require.Equal(t, at, s.Position())
			v = subnettest.Watch(t, s)
			v.Await(t, b)
			subnettest.Eventually(t, "the list is told", func() bool { return len(v.Updates()) > 0 })
			require.Equal(t, c.wentBack, v.Updates()[0].WentBack)
			_, again := v.Fulls()
			require.Zero(t, again)
		})
	}
}

func TestAnotherClusterBetweenRuns(t *testing.T) {
	t.Parallel()
	b, other := newBackend(t, etcdtest.Options{}), newBackend(t, etcdtest.Options{})
	s := b.open(t)
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	require.NoError(t, v.Stop())
	other.SetConfig(t, []byte("{}"))
	there := other.open(t)
	require.NoError(t, there.Resume(s.Position()))
	v = subnettest.Watch(t, there)
	subnettest.Eventually(t, "the list is told", func() bool { return len(v.Updates()) > 0 })
	require.True(t, v.Updates()[0].WentBack)
}

func TestResumeRefusesWhatIsNoPosition(t *testing.T) {
	t.Parallel()
	s, err := etcd.New(etcd.DefaultConfig())
	require.NoError(t, err)
	defer s.Close()
	for _, at := range []string{"", "here", "1f 0 0 \"\"", "1f 7 6", "1f 7 6 key", "x 7 6 \"key\""} {
		require.EqualError(t, s.Resume(at), fmt.Sprintf("taking up position %q in etcd's history: it is not one that Position returned", at))
		require.Empty(t, s.Position())
	}
	const odd = `1f 7 6 "/network/subnets/a \"key\" of \xff"`
	require.NoError(t, s.Resume(odd))
	require.Equal(t, odd, s.Position())
}
