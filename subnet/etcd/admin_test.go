package etcd_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

func subnets(p ...string) (out subnet.PerFamily[netip.Prefix]) {
	for _, s := range p {
		q := netip.MustParsePrefix(s)
		out[subnet.FamilyOf(q.Addr())] = q
	}
	return out
}

var noIPs subnet.PerFamily[netip.Addr]

func TestNetworkConfig(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	s := b.open(t)
	_, revision, err := s.Config(t.Context())
	require.ErrorIs(t, err, etcd.ErrNoConfig)
	require.Zero(t, revision)
	require.NoError(t, s.SetConfig(t.Context(), []byte("{}"), revision))
	require.EqualError(t, s.SetConfig(t.Context(), []byte("[]"), revision),
		"writing /coreos.com/network/config: somebody else has written it meanwhile; look at it with twill config get, then try again")
	raw, revision, err := s.Config(t.Context())
	require.NoError(t, err)
	require.Equal(t, "{}", string(raw))
	require.NoError(t, s.SetConfig(t.Context(), []byte("[]"), revision))
}

func TestList(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	b.Put(t, "10.5.2.0-24", peerA, false)
	b.Put(t, "10.5.1.0-24", peerB, true)
	b.Put(t, "10.5.3.0-24", "rubbish", false)
	records, err := b.open(t).Records(t.Context())
	require.NoError(t, err)
	require.Equal(t, b.Records(t), records)
	entries, err := b.open(t).List(t.Context())
	require.NoError(t, err)
	want := b.Records(t)
	require.Len(t, entries, len(want))
	for i, e := range entries {
		require.Equal(t, want[i], e.Record)
	}
	require.Zero(t, entries[0].Expires)
	require.InDelta(t, 3600, time.Until(entries[1].Expires).Seconds(), 60)
	require.NotEmpty(t, entries[2].Invalid)
}

func TestReserve(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	s := b.open(t)
	require.NoError(t, s.Reserve(t.Context(), "n1", noIPs, subnets("10.5.9.0/24")))
	require.NoError(t, s.Reserve(t.Context(), "n1", noIPs, subnets("10.5.9.0/24")), "twice is once")
	require.Len(t, b.Records(t), 1)
	require.Equal(t, subnet.Lease{Node: "n1", Subnets: subnets("10.5.9.0/24")}, b.Records(t)[0].Lease)
	require.True(t, b.Records(t)[0].Reserved)

	for name, want := range map[string]subnet.PerFamily[netip.Prefix]{
		"the same":      subnets("10.5.9.0/24"),
		"a part of it":  subnets("10.5.9.128/25"),
		"more":          subnets("10.5.8.0/22"),
		"with IPv6 too": subnets("10.5.9.0/24", "fd00:5::/64"),
	} {
		before := b.Records(t)
		err := s.Reserve(t.Context(), "n2", noIPs, want)
		require.EqualError(t, err, "reserving "+subnet.EncodeKey(want)+" for n2: it overlaps 10.5.9.0-24, which node n1 holds; release that first, or choose another subnet", name)
		require.Equal(t, before, b.Records(t))
	}
	b.Put(t, "10.5.10.0-24", "rubbish", false)
	require.EqualError(t, s.Reserve(t.Context(), "n2", noIPs, subnets("10.5.10.0/24")),
		"reserving 10.5.10.0-24 for n2: it overlaps 10.5.10.0-24, which an unreadable record holds; release that first, or choose another subnet")

	// For a flannel node, by its address; and made a named one later.
	ips := subnet.PerFamily[netip.Addr]{netip.MustParseAddr("192.168.64.3")}
	require.NoError(t, s.Reserve(t.Context(), "", ips, subnets("10.5.11.0/24")))
	require.NoError(t, s.Reserve(t.Context(), "", ips, subnets("10.5.11.0/24")))
	b.Put(t, "10.5.12.0-24", `{"PublicIP":"192.168.64.3","BackendType":"vxlan"}`, false)
	require.NoError(t, s.Reserve(t.Context(), "n3", ips, subnets("10.5.12.0/24")))
	r := b.Records(t)[2]
	require.Equal(t, "10.5.12.0-24", r.Key)
	require.True(t, r.Reserved)
	require.Equal(t, "n3", r.Lease.Node)
	require.True(t, r.Lease.Active(), "what its node had announced stays")
}

// A node's lease becomes permanent under it, and a lease again.
func TestReserveARunningNode(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	s := b.open(t)
	h := subnettest.Hold(t, b.open(t), subnettest.Claim(t, "n1"))
	first := h.Next(t)
	id := b.etcdLease(t, first.Key)
	before := b.Records(t)[0]
	require.NoError(t, s.Reserve(t.Context(), "n1", noIPs, first.Lease.Subnets))
	second := h.Next(t)
	require.Equal(t, subnet.Held{Lease: first.Lease, Key: first.Key, Created: first.Created}, second)
	after := b.Records(t)[0]
	before.Reserved, before.Modified = true, after.Modified
	require.Equal(t, before, after, "peers see the same lease")
	subnettest.Eventually(t, "the etcd lease is revoked", func() bool {
		resp, err := b.client.TimeToLive(t.Context(), id)
		require.NoError(t, err)
		return resp.TTL == -1
	})

	removed, err := s.Remove(t.Context(), func(r subnet.Record) bool { return r.Lease.Node == "n1" })
	require.NoError(t, err)
	require.Equal(t, []subnet.Record{after}, removed)
	third := h.Next(t)
	require.Equal(t, first.Key, third.Key)
	require.NotZero(t, third.Expires)
}

func TestRemove(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	s := b.open(t)
	b.Put(t, "10.5.1.0-24", peerA, false)
	b.Put(t, "10.5.2.0-24", peerA, true)
	b.Put(t, "10.5.3.0-24", peerB, false)
	removed, err := s.Remove(t.Context(), func(subnet.Record) bool { return false })
	require.NoError(t, err)
	require.Empty(t, removed)
	before := b.Records(t)
	removed, err = s.Remove(t.Context(), func(r subnet.Record) bool { return r.Lease.Node == "a" })
	require.NoError(t, err)
	require.Equal(t, before[:2], removed)
	require.Equal(t, before[2:], b.Records(t))

	// What has changed since it was looked at stays.
	_, err = s.Remove(t.Context(), func(r subnet.Record) bool {
		b.Put(t, r.Key, peerA, false)
		return true
	})
	require.EqualError(t, err, "deleting lease 10.5.3.0-24: it has changed meanwhile; look at it with twill leases, then try again")
	require.Len(t, b.Records(t), 1)
}

// Ten operators reserve what overlaps at once: one succeeds.
func TestReserveTogether(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	errs := make(chan error)
	for i := range 10 {
		s := b.open(t)
		p := netip.PrefixFrom(netip.MustParseAddr("10.5.8.0"), 20+i%5)
		go func() { errs <- s.Reserve(t.Context(), p.String(), noIPs, subnet.PerFamily[netip.Prefix]{p.Masked()}) }()
	}
	won := 0
	for range 10 {
		if err := <-errs; err == nil {
			won++
		}
	}
	require.Len(t, b.Records(t), 1)
	// Two of one name and subnet are the same reservation.
	require.Contains(t, []int{1, 2}, won)
}
