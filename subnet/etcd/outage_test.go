package etcd_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

const (
	peerA = `{"PublicIP":"192.168.64.3","BackendType":"vxlan","NodeName":"a"}`
	peerB = `{"PublicIP":"192.168.64.4","BackendType":"vxlan","NodeName":"b"}`
)

// through returns the backend with all its stores behind a way that can be
// cut, while the backend's own client goes straight to the server.
func (b backend) through(t *testing.T) (backend, *etcdtest.Proxy) {
	p := b.server.Proxy(t)
	b.change = func(c *etcd.Config) { c.Endpoints = []string{p.Endpoint} }
	return b, p
}

// fulls counts the full lists among the updates after the first.
func fulls(v *subnettest.View) (full, wentBack int) {
	for _, u := range v.Updates()[1:] {
		if u.Full {
			full++
		}
		if u.WentBack {
			wentBack++
		}
	}
	return full, wentBack
}

// What happened while the way was cut is told as changes, not as a list.
func TestWatchResumes(t *testing.T) {
	t.Parallel()
	b, way := newBackend(t, etcdtest.Options{}).through(t)
	b.Put(t, "10.5.1.0-24", peerA, false)
	v := subnettest.Watch(t, b.open(t))
	v.Await(t, b)
	for range 3 {
		way.Cut()
		b.Delete(t, "10.5.1.0-24")
		b.Put(t, "10.5.2.0-24", peerB, false)
		way.Heal()
		v.Await(t, b)
		way.Cut() // the place to go on from is a deletion now
		b.Put(t, "10.5.1.0-24", peerA, false)
		b.Delete(t, "10.5.2.0-24")
		way.Heal()
		v.Await(t, b)
	}
	full, _ := fulls(v)
	require.Zero(t, full)
}

func TestWatchAfterCompaction(t *testing.T) {
	t.Parallel()
	b, way := newBackend(t, etcdtest.Options{}).through(t)
	b.Put(t, "10.5.1.0-24", peerA, false)
	b.Put(t, "10.5.2.0-24", peerB, false)
	v := subnettest.Watch(t, b.open(t))
	v.Await(t, b)
	b.server.Compact() // all of it known: no matter
	b.Delete(t, "10.5.2.0-24")
	v.Await(t, b)
	full, _ := fulls(v)
	require.Zero(t, full)

	way.Cut()
	b.Delete(t, "10.5.1.0-24")
	b.Put(t, "10.5.3.0-24", peerB, false)
	b.Put(t, "10.5.3.0-24", peerA, false)
	b.server.Compact()
	way.Heal()
	v.Await(t, b)
	full, wentBack := fulls(v)
	require.Equal(t, 1, full, "what was missed can only be listed")
	require.Zero(t, wentBack)
	b.Delete(t, "10.5.3.0-24")
	v.Await(t, b)
}

// etcd is killed and comes back, twice, and everything goes on: no method has
// returned, the lease is the same.
func TestOutage(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	var health reports
	b.change = func(c *etcd.Config) { c.Health = health.take }
	s := b.open(t)
	h := hold(t, s, claim(t, "n1", 1))
	first := h.next(t)
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	_, n := health.last()
	require.Zero(t, n, "all is well")
	for range 2 {
		b.server.Kill()
		eventually(t, "the outage is told", func() bool {
			err, _ := health.last()
			return err != nil
		})
		err, _ := health.last()
		require.ErrorContains(t, err, "ing")
		b.server.Restart()
		back := time.Now()
		b.Put(t, "10.5.2.0-24", peerB, false)
		v.Await(t, b)
		t.Logf("the first new peer came %s after etcd", time.Since(back))
		eventually(t, "the end of it is told", func() bool {
			err, _ := health.last()
			return err == nil
		})
		b.Delete(t, "10.5.2.0-24")
		v.Await(t, b)
	}
	full, _ := fulls(v)
	require.Zero(t, full)
	require.Equal(t, first.Key, v.Records()[first.Key].Key)
	require.Empty(t, h.held, "nothing has happened to the lease")
	require.Empty(t, h.done)
}

// A server that hangs keeps its connections: pings find it out.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	var health reports
	b.change = func(c *etcd.Config) { c.Health = health.take }
	s := b.open(t)
	h := hold(t, s, claim(t, "n1", 1))
	h.next(t)
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	b.server.Pause()
	paused := time.Now()
	eventually(t, "it is told", func() bool {
		err, _ := health.last()
		return err != nil
	})
	t.Logf("told after %s", time.Since(paused))
	b.server.Resume()
	b.Put(t, "10.5.2.0-24", peerB, false)
	v.Await(t, b)
	eventually(t, "all is well again", func() bool {
		err, _ := health.last()
		return err == nil
	})
	require.Empty(t, h.held)
}

func TestServerIsNotThereYet(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	b.SetConfig(t, []byte("{}"))
	b.server.Stop()
	var health reports
	b.change = func(c *etcd.Config) { c.Health = health.take }
	s := b.open(t)
	h := hold(t, s, claim(t, "n1", 1))
	v := subnettest.Watch(t, s)
	config := make(chan []byte, 10)
	go func() { _ = s.WatchConfig(t.Context(), func(raw []byte) { config <- raw }) }()
	eventually(t, "it is told", func() bool {
		err, _ := health.last()
		return err != nil
	})
	err, _ := health.last()
	require.ErrorContains(t, err, "connection refused")
	require.Empty(t, v.Updates())
	b.server.Restart()
	require.Equal(t, "{}", string(<-config))
	held := h.next(t)
	v.Await(t, b)
	require.Contains(t, v.Records(), held.Key)
}

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
			h := hold(t, s, claim(t, "n1", 1))
			held := h.next(t)
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
			again := h.next(t)
			require.Equal(t, held.Key, again.Key, "a lost lease is taken again")
			v.Await(t, b)
			require.NotContains(t, v.Records(), "10.5.2.0-24", "it is not in the backup")
			require.Contains(t, v.Records(), held.Key)
			full, wentBack := fulls(v)
			require.Equal(t, 1, wentBack)
			require.Equal(t, 1, full)
		})
	}
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
	_, wentBack := fulls(v)
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
	eventually(t, "it is told", func() bool { _, wentBack := fulls(v); return wentBack == 1 })
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

// A member without a leader must not be believed to have no news.
func TestLeaderLost(t *testing.T) {
	t.Parallel()
	members := etcdtest.StartCluster(t, 3, etcdtest.Options{})
	b := backend{server: members[0], client: members[0].Client(t), prefix: "/x"}
	var health reports
	b.change = func(c *etcd.Config) { c.Health = health.take }
	b.Put(t, "10.5.1.0-24", peerA, false)
	s := b.open(t)
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	h := hold(t, s, claim(t, "n1", 1))
	h.next(t)
	members[1].Kill()
	members[2].Kill()
	eventually(t, "it is told", func() bool {
		err, _ := health.last()
		return err != nil
	})
	err, _ := health.last()
	t.Log(err)
	members[1].Restart()
	eventually(t, "there is a leader again", func() bool {
		_, err := b.client.Put(t.Context(), b.key("10.5.2.0-24"), peerB)
		return err == nil
	})
	v.Await(t, b)
	eventually(t, "all is well again", func() bool {
		err, _ := health.last()
		return err == nil
	})
	full, wentBack := fulls(v)
	require.Zero(t, full)
	require.Zero(t, wentBack, "a member that lags is no backup")
	require.Empty(t, h.held)
}

// One member of three dies: another one serves.
func TestMemberLost(t *testing.T) {
	t.Parallel()
	members := etcdtest.StartCluster(t, 3, etcdtest.Options{})
	b := backend{server: members[0], client: members[0].Client(t), prefix: "/x"}
	b.change = func(c *etcd.Config) {
		c.Endpoints = []string{members[1].Endpoint, members[2].Endpoint, members[0].Endpoint}
	}
	v := subnettest.Watch(t, b.open(t))
	b.Put(t, "10.5.1.0-24", peerA, false)
	v.Await(t, b)
	for _, m := range []int{1, 2} {
		members[m].Kill()
		eventually(t, "another member leads", func() bool { // and so takes this
			_, err := b.client.Put(t.Context(), b.key("10.5.2.0-24"), peerB)
			return err == nil
		})
		v.Await(t, b)
		b.Delete(t, "10.5.2.0-24")
		v.Await(t, b)
		members[m].Restart()
	}
	_, wentBack := fulls(v)
	require.Zero(t, wentBack)
}

// The list is paged, and of one revision.
func TestManyLeases(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	fill(t, b, 9000)
	v := subnettest.Watch(t, b.open(t))
	v.Await(t, b)
	require.Len(t, v.Records(), 9000)
	require.Len(t, v.Updates(), 1)
}

// fill writes leases of n nodes.
func fill(t testing.TB, b backend, n int) {
	t.Helper()
	const perTxn = 100
	for i := 0; i < n; {
		var ops []clientv3.Op
		for range perTxn {
			if i < n {
				ops = append(ops, clientv3.OpPut(b.key(manyKey(i)), manyValue(i)))
			}
			i++
		}
		_, err := b.client.Txn(t.Context()).Then(ops...).Commit()
		require.NoError(t, err)
	}
}
