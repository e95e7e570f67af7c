package etcd_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

func ttl(d time.Duration) func(*etcd.Config) {
	return func(c *etcd.Config) { c.LeaseTTL = d }
}

// Leases of these tests are short, to be outlived, and are renewed so often that
// a busy machine is not too late.
const (
	shortTTL    = 15 * time.Second
	shortMargin = 2 * time.Second
)

// A lease is kept alive for longer than its TTL, without the key being written
// and so without a word to the peers.
func TestRenewal(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	b.change = func(c *etcd.Config) { c.LeaseTTL, c.RenewMargin = shortTTL, shortMargin }
	h := subnettest.Hold(t, b.open(t), subnettest.Claim(t, "n1"))
	first := h.Next(t)
	v := subnettest.Watch(t, b.open(t))
	v.Await(t, b)
	before, id := b.Records(t), b.etcdLease(t, first.Key)
	last := first
	for last.Expires.Sub(first.Expires) <= shortTTL {
		renewed := h.Next(t)
		require.Greater(t, renewed.Expires, last.Expires)
		last = renewed
		renewed.Expires = first.Expires
		require.Equal(t, first, renewed)
	}
	require.Equal(t, before, b.Records(t))
	require.Equal(t, id, b.etcdLease(t, first.Key))
	require.Len(t, v.Updates(), 1)

	// Once nobody renews it, it ends by itself.
	require.NoError(t, h.End(t))
	subnettest.Eventually(t, "it has ended", func() bool { return len(b.Records(t)) == 0 })
	v.Await(t, b)
}

func TestRestartUsesTheEtcdLeaseAgain(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	take := func() subnet.Held {
		h := subnettest.Hold(t, b.open(t), subnettest.Claim(t, "n1"))
		held := h.Next(t)
		require.NoError(t, h.End(t))
		return held
	}
	first := take()
	before, id := b.Records(t), b.etcdLease(t, first.Key)
	take()
	require.Equal(t, before, b.Records(t))
	require.Equal(t, id, b.etcdLease(t, first.Key))

	b.change = ttl(time.Hour)
	changed := take()
	require.Equal(t, first.Key, changed.Key)
	require.Equal(t, first.Created, changed.Created)
	resp, err := b.client.TimeToLive(t.Context(), b.etcdLease(t, first.Key), clientv3.WithAttachedKeys())
	require.NoError(t, err)
	require.EqualValues(t, 3600, resp.GrantedTTL)
	require.Equal(t, [][]byte{[]byte(b.key(first.Key))}, resp.Keys)
	require.Less(t, changed.Expires, first.Expires)
}

// An etcd lease with keys of others on it is neither relied on nor revoked.
func TestSharedEtcdLease(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	shared, err := b.client.Grant(t.Context(), 24*3600)
	require.NoError(t, err)
	for _, k := range []string{b.key("10.5.1.0-24"), "/other"} {
		_, err = b.client.Put(t.Context(), k, `{"PublicIP":"192.168.0.1","BackendType":"vxlan"}`, clientv3.WithLease(shared.ID))
		require.NoError(t, err)
	}
	s := b.open(t)
	h := subnettest.Hold(t, s, subnettest.Claim(t, "n1"))
	require.Equal(t, "10.5.1.0-24", h.Next(t).Key)
	ours := b.etcdLease(t, "10.5.1.0-24")
	require.NotEqual(t, shared.ID, ours)
	_, err = b.client.Put(t.Context(), "/other's", "", clientv3.WithLease(ours))
	require.NoError(t, err)
	require.NoError(t, h.End(t))
	require.NoError(t, s.Release(t.Context()))
	require.Empty(t, b.Records(t))
	resp, err := b.client.Get(t.Context(), "/other", clientv3.WithPrefix())
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 2)
}

func TestReleaseRevokesTheEtcdLease(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	s := b.open(t)
	h := subnettest.Hold(t, s, subnettest.Claim(t, "n1"))
	id := b.etcdLease(t, h.Next(t).Key)
	require.NoError(t, h.End(t))
	require.NoError(t, s.Release(t.Context()))
	resp, err := b.client.TimeToLive(t.Context(), id)
	require.NoError(t, err)
	require.EqualValues(t, -1, resp.TTL)
}

// An operator revokes the etcd lease: the key goes with it, and comes back.
func TestEtcdLeaseRevoked(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	h := subnettest.Hold(t, b.open(t), subnettest.Claim(t, "n1"))
	first := h.Next(t)
	for range 2 {
		_, err := b.client.Revoke(t.Context(), b.etcdLease(t, first.Key))
		require.NoError(t, err)
		again := h.Next(t)
		require.Equal(t, first.Key, again.Key)
		resp, err := b.client.TimeToLive(t.Context(), b.etcdLease(t, first.Key))
		require.NoError(t, err)
		require.Positive(t, resp.TTL)
	}
}

// While etcd is cut off the lease ends, and somebody else gets the subnet.
func TestLeaseEndsWhileCutOff(t *testing.T) {
	t.Parallel()
	b, way := newBackend(t, etcdtest.Options{}).through(t)
	var out subnettest.Log
	change := b.change
	b.change = func(c *etcd.Config) {
		change(c)
		c.LeaseTTL, c.Logger = 5*time.Second, out.Entry()
	}
	h := subnettest.Hold(t, b.open(t), subnettest.Claim(t, "n1"))
	first := h.Next(t)
	way.Cut()
	subnettest.Eventually(t, "the lease has ended", func() bool { return len(b.Records(t)) == 0 })
	b.Put(t, first.Key, peerA, false)
	taken := b.Records(t)[0]
	way.Heal()
	second := nextCreated(t, h, first)
	require.NotEqual(t, first.Key, second.Key)
	require.Contains(t, b.Records(t), taken, "what is another's is never overwritten")
	require.Contains(t, out.String(), "The subnet of this node has changed")
}

// Two that write one record each other's way do not burn the store.
func TestContendedLease(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	one, two := subnettest.Claim(t, "n1"), subnettest.Claim(t, "n1")
	two.BackendData[subnet.IPv4] = `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`
	started := time.Now()
	hs := []*subnettest.Holding{subnettest.Hold(t, b.open(t), one), subnettest.Hold(t, b.open(t), two)}
	for range 4 { // twice at once, and then with pauses
		for _, h := range hs {
			h.Next(t)
		}
	}
	require.Len(t, b.Records(t), 1)
	writes := float64(b.Records(t)[0].Modified)
	require.Less(t, writes/time.Since(started).Seconds(), 10.0, "writes a second")
}
