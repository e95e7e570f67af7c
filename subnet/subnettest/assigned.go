package subnettest

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// Assigning is a store whose subnets somebody else assigns to the nodes, as a
// test sees it from behind. Its methods fail the test by themselves.
type Assigning interface {
	Open(t *testing.T, node string) Store
	SetConfig(t *testing.T, raw []byte)                  // nil deletes it
	Join(t *testing.T, node string, subnets ...string)   // a node comes, with subnets or without
	Assign(t *testing.T, node string, subnets ...string) // to a node that has none
	Announce(t *testing.T, lease subnet.Lease)           // as that node's own daemon does, for its subnets
	Leave(t *testing.T, node string)
	Records(t *testing.T) []subnet.Record // of nodes that announced themselves, sorted by key
}

// Assigned tests everything that stores without an allocation of their own have
// in common. Each call of new returns an empty store, which need not live
// longer than until the next call.
func Assigned(t *testing.T, new func(*testing.T) Assigning) {
	for name, test := range map[string]func(*testing.T, Assigning){
		"config/waits, follows, keeps":    func(t *testing.T, a Assigning) { configWatch(t, assigned{a}) },
		"watch/full, then changes":        assignedChanges,
		"watch/again begins with full":    assignedAgain,
		"watch/a subnet used again":       assignedReuse,
		"watch/two nodes with one subnet": assignedTwice,
		"watch/a restart is no news":      assignedRestart,
		"hold/a lease":                    assignedLease,
		"hold/dual stack":                 assignedDual,
		"hold/IPv6 alone":                 assignedIPv6,
		"hold/a family that is off":       assignedTooMany,
		"hold/another announcement":       assignedAnnounces,
		"hold/subnets that come late":     assignedLate,
		"hold/a node that comes late":     assignedUnknown,
		"hold/a node that is deleted":     assignedDeleted,
		"hold/a node with other subnets":  assignedAnew,
		"hold/out of the network":         assignedElsewhere,
		"hold/a family is missing":        assignedTooFew,
		"hold/somebody else wrote it":     assignedStolen,
		"hold/duplicate node":             assignedDuplicate,
		"release/a lease":                 assignedRelease,
		"release/what is another's":       assignedReleaseStolen,
	} {
		t.Run(name, func(t *testing.T) { test(t, new(t)) })
	}
}

// Looking returns the store for helpers that only look at it.
func Looking(a Assigning) Backend { return assigned{a} }

type assigned struct{ Assigning }

func (a assigned) Open(t *testing.T) Store { return a.Assigning.Open(t, "n1") }

func (assigned) Put(t *testing.T, _, _ string, _ bool) { require.Fail(t, "subnets are assigned") }

func (assigned) Delete(t *testing.T, _ string) { require.Fail(t, "subnets are assigned") }

// announcement returns the lease of node n, a number up to 250.
func announcement(t *testing.T, node string, n int, subnets ...string) subnet.Lease {
	t.Helper()
	return claim(t, wide, node, n).Announcement(prefixes(subnets...))
}

func assignedChanges(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24")
	a.Join(t, "n2", "10.5.2.0/24")
	a.Announce(t, announcement(t, "n1", 1, "10.5.1.0/24"))
	v := Watch(t, a.Open(t, "n9"))
	v.Await(t, assigned{a})
	first := v.Updates()
	require.Len(t, first, 1)
	require.True(t, first[0].Full)
	require.False(t, first[0].WentBack)
	require.Equal(t, announcement(t, "n1", 1, "10.5.1.0/24"), v.Records()["n1"].Lease)
	require.NotContains(t, v.Records(), "n2", "nobody announced anything there")

	a.Announce(t, announcement(t, "n2", 2, "10.5.2.0/24"))
	v.Await(t, assigned{a})
	before := v.Records()["n2"]
	a.Announce(t, announcement(t, "n2", 22, "10.5.2.0/24"))
	v.Await(t, assigned{a})
	require.Equal(t, announcement(t, "n2", 22, "10.5.2.0/24"), v.Records()["n2"].Lease)
	require.Equal(t, before.Created, v.Records()["n2"].Created, "a change keeps the age")
	require.Greater(t, v.Records()["n2"].Modified, before.Modified)
	a.Leave(t, "n1")
	v.Await(t, assigned{a})
	for _, u := range v.Updates()[1:] {
		require.False(t, u.Full, "changes are told as such")
	}
	require.NoError(t, v.Stop(), "the end of the context is no error")
}

func assignedAgain(t *testing.T, a Assigning) {
	store := a.Open(t, "n9")
	a.Join(t, "n1", "10.5.1.0/24")
	a.Announce(t, announcement(t, "n1", 1, "10.5.1.0/24"))
	for i := range 2 {
		v := Watch(t, store)
		v.Await(t, assigned{a})
		require.True(t, v.Updates()[0].Full)
		require.False(t, v.Updates()[0].WentBack)
		require.NoError(t, v.Stop())
		if i == 0 { // nobody tells of that
			a.Join(t, "n2", "10.5.2.0/24")
			a.Announce(t, announcement(t, "n2", 2, "10.5.2.0/24"))
			a.Leave(t, "n1")
		}
	}
}

// settled awaits who is the peer that has a subnet.
func settled(t *testing.T, a Assigning, v *View, subnets, node string) {
	t.Helper()
	v.Await(t, assigned{a})
	s := subnet.NewSnapshot("n9")
	s.SetOwn(subnet.Lease{}, nil)
	for _, r := range v.Records() {
		s.Put(r)
	}
	var owner []string
	for _, id := range s.Peers() {
		if l, _ := s.Peer(id); l.Subnets == prefixes(subnets) {
			owner = append(owner, id)
		}
	}
	require.Equal(t, []string{node}, owner)
}

func assignedReuse(t *testing.T, a Assigning) {
	v := Watch(t, a.Open(t, "n9"))
	for _, node := range []string{"n1", "n2", "n1"} {
		a.Join(t, node, "10.5.1.0/24")
		a.Announce(t, announcement(t, node, 1, "10.5.1.0/24"))
		settled(t, a, v, "10.5.1.0/24", node)
		a.Leave(t, node)
	}
	a.Join(t, "n2", "10.5.1.0/24")
	a.Announce(t, announcement(t, "n2", 2, "10.5.1.0/24"))
	a.Join(t, "n1", "10.5.2.0/24")
	a.Announce(t, announcement(t, "n1", 1, "10.5.2.0/24"))
	settled(t, a, v, "10.5.1.0/24", "n2")
	settled(t, a, v, "10.5.2.0/24", "n1")
}

// The new owner of a subnet is told before the old one's end.
func assignedTwice(t *testing.T, a Assigning) {
	v := Watch(t, a.Open(t, "n9"))
	a.Join(t, "n1", "10.5.1.0/24")
	a.Announce(t, announcement(t, "n1", 1, "10.5.1.0/24"))
	a.Join(t, "n2", "10.5.1.0/24")
	a.Announce(t, announcement(t, "n2", 2, "10.5.1.0/24"))
	settled(t, a, v, "10.5.1.0/24", "n1")
	a.Leave(t, "n1")
	settled(t, a, v, "10.5.1.0/24", "n2")
}

func assignedRestart(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24")
	Hold(t, a.Open(t, "n1"), claim(t, wide, "n1", 1)).Next(t)
	v := Watch(t, a.Open(t, "n9"))
	v.Await(t, assigned{a})
	before := a.Records(t)
	for range 2 {
		Hold(t, a.Open(t, "n1"), claim(t, wide, "n1", 1)).Next(t)
	}
	require.Equal(t, before, a.Records(t), "nothing was written")
	require.Len(t, v.Updates(), 1)
}

func assignedLease(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24")
	c := claim(t, wide, "n1", 1)
	c.Previous = prefixes("10.5.77.0/24") // is not ours to choose
	c.Sources[subnet.IPv4] = netip.MustParseAddr("192.168.7.7")
	h := Hold(t, a.Open(t, "n1"), c)
	held := h.Next(t)
	require.Equal(t, c.Announcement(prefixes("10.5.1.0/24")), held.Lease)
	require.Zero(t, held.Expires)
	r := only(t, assigned{a})
	require.Equal(t, subnet.Record{Key: held.Key, Lease: held.Lease, Created: held.Created, Modified: r.Modified, Reserved: true}, r)
	require.NoError(t, h.End(t), "the end of the context is no error")
	require.Equal(t, r, only(t, assigned{a}), "the lease outlives Hold")
}

func assignedDual(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24", "fd00:5:0:1::/64")
	c := claim(t, dual, "n1", 1)
	c.PublicIPs[subnet.IPv6] = netip.MustParseAddr("2001:db8::1")
	c.Sources[subnet.IPv6] = netip.MustParseAddr("2001:db8::2")
	c.BackendData[subnet.IPv6] = `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`
	held := Hold(t, a.Open(t, "n1"), c).Next(t)
	require.Equal(t, c.Announcement(prefixes("10.5.1.0/24", "fd00:5:0:1::/64")), held.Lease)
	require.Equal(t, held.Lease, only(t, assigned{a}).Lease)
}

func assignedIPv6(t *testing.T, a Assigning) {
	a.Join(t, "n1", "fd00:5:0:1::/64")
	c := claim(t, onlyIPv6, "n1", 1)
	c.PublicIPs = subnet.PerFamily[netip.Addr]{subnet.IPv6: netip.MustParseAddr("2001:db8::1")}
	c.BackendData = subnet.PerFamily[string]{subnet.IPv6: `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`}
	held := Hold(t, a.Open(t, "n1"), c).Next(t)
	require.Equal(t, c.Announcement(prefixes("fd00:5:0:1::/64")), held.Lease)
	require.Equal(t, held.Lease, only(t, assigned{a}).Lease)
}

func assignedTooMany(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24", "fd00:5:0:1::/64")
	held := Hold(t, a.Open(t, "n1"), claim(t, wide, "n1", 1)).Next(t)
	require.Equal(t, prefixes("10.5.1.0/24"), held.Lease.Subnets)
}

func assignedAnnounces(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24")
	c := claim(t, wide, "n1", 1)
	store := a.Open(t, "n1")
	h := Hold(t, store, c)
	first := h.Next(t)
	require.NoError(t, h.End(t))
	c.BackendData[subnet.IPv4] = `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`
	c.PublicIPs[subnet.IPv4] = netip.MustParseAddr("192.168.0.2")
	second := Hold(t, store, c).Next(t)
	require.Equal(t, c.Announcement(first.Lease.Subnets), second.Lease)
	require.Equal(t, second.Lease, only(t, assigned{a}).Lease)
	require.Equal(t, first.Created, second.Created)
}

// waits checks that Hold has returned for want of a lease, and waits when it is
// called again.
func waits(t *testing.T, store Store, c subnet.Claim, reason string) *Holding {
	t.Helper()
	err := Hold(t, store, c).Err(t)
	require.ErrorIs(t, err, subnet.ErrNoLease)
	require.ErrorContains(t, err, reason)
	h := Hold(t, store, c)
	select {
	case err := <-h.Done:
		require.NoError(t, err, "it shall wait")
	case <-time.After(50 * time.Millisecond):
	}
	return h
}

func assignedLate(t *testing.T, a Assigning) {
	a.Join(t, "n1")
	h := waits(t, a.Open(t, "n1"), claim(t, dual, "n1", 1), "have no IPv4 subnet")
	require.Empty(t, a.Records(t))
	a.Assign(t, "n1", "10.5.1.0/24", "fd00:5:0:1::/64")
	require.Equal(t, prefixes("10.5.1.0/24", "fd00:5:0:1::/64"), h.Next(t).Lease.Subnets)
}

func assignedUnknown(t *testing.T, a Assigning) {
	h := waits(t, a.Open(t, "n1"), claim(t, wide, "n1", 1), "does not exist")
	a.Join(t, "n2", "10.5.2.0/24")
	a.Join(t, "n1", "10.5.1.0/24")
	require.Equal(t, "n1", h.Next(t).Key)
}

func assignedDeleted(t *testing.T, a Assigning) {
	store, c := a.Open(t, "n1"), claim(t, wide, "n1", 1)
	for range 2 { // each loss is told
		a.Join(t, "n1", "10.5.1.0/24")
		h := Hold(t, store, c)
		require.Equal(t, prefixes("10.5.1.0/24"), h.Next(t).Lease.Subnets)
		a.Leave(t, "n1")
		require.ErrorIs(t, h.Err(t), subnet.ErrNoLease)
	}
}

func assignedAnew(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24")
	store, c := a.Open(t, "n1"), claim(t, wide, "n1", 1)
	h := Hold(t, store, c)
	require.Equal(t, prefixes("10.5.1.0/24"), h.Next(t).Lease.Subnets)
	a.Leave(t, "n1")
	require.ErrorIs(t, h.Err(t), subnet.ErrNoLease)
	h = Hold(t, store, c)
	a.Join(t, "n1")
	require.ErrorContains(t, h.Err(t), "no IPv4 subnet", "there it is, without a subnet")
	h = Hold(t, store, c)
	a.Assign(t, "n1", "10.5.7.0/24")
	held := h.Next(t)
	require.Equal(t, prefixes("10.5.7.0/24"), held.Lease.Subnets)
	require.Equal(t, held.Lease, only(t, assigned{a}).Lease, "it announces itself again")
}

func assignedElsewhere(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.99.1.0/24")
	waits(t, a.Open(t, "n1"), claim(t, wide, "n1", 1), "its subnet 10.99.1.0/24 is not in the network 10.5.0.0/16")
	require.Empty(t, a.Records(t))
}

func assignedTooFew(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24")
	waits(t, a.Open(t, "n1"), claim(t, dual, "n1", 1), "have no IPv6 subnet")
}

func assignedStolen(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24")
	h := Hold(t, a.Open(t, "n1"), claim(t, wide, "n1", 1))
	held := h.Next(t)
	for range 2 {
		other := announcement(t, "n1", 9, "10.5.1.0/24")
		other.MachineID = "" // a flannel
		a.Announce(t, other)
		Eventually(t, "it is announced again", func() bool { return only(t, assigned{a}).Lease == held.Lease })
	}
	require.Empty(t, h.Held, "the lease is what it was")
}

// Two machines that were given one name: only one of them can be the node.
func assignedDuplicate(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24") // at 192.168.0.1
	h := Hold(t, a.Open(t, "n1"), claim(t, wide, "n1", 1))
	h.Next(t)
	before := only(t, assigned{a})
	c := claim(t, wide, "n1", 2)
	c.MachineID = "another"
	store := a.Open(t, "n1")
	err := Hold(t, store, c).Err(t)
	require.ErrorIs(t, err, subnet.ErrDuplicate)
	for _, who := range []string{"192.168.0.1", "machine-n1", "192.168.0.2", "another"} {
		require.ErrorContains(t, err, who)
	}
	require.Equal(t, before, only(t, assigned{a}))
	require.NoError(t, h.End(t), "the first does not notice")
	// Once the other is gone, the name is free.
	h = Hold(t, store, c)
	a.Leave(t, "n1")
	require.ErrorIs(t, h.Err(t), subnet.ErrNoLease)
	h = Hold(t, store, c)
	a.Join(t, "n1", "10.5.1.0/24")
	require.Equal(t, "another", h.Next(t).Lease.MachineID)
}

func assignedRelease(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24")
	store := a.Open(t, "n1")
	require.NoError(t, store.Release(t.Context()), "there is nothing yet")
	for range 2 {
		h := Hold(t, store, claim(t, wide, "n1", 1))
		h.Next(t)
		require.Len(t, a.Records(t), 1)
		require.NoError(t, h.End(t))
		require.NoError(t, store.Release(t.Context()))
		require.Empty(t, a.Records(t))
		require.NoError(t, store.Release(t.Context()), "twice is no error")
	}
}

func assignedReleaseStolen(t *testing.T, a Assigning) {
	a.Join(t, "n1", "10.5.1.0/24")
	store := a.Open(t, "n1")
	h := Hold(t, store, claim(t, wide, "n1", 1))
	h.Next(t)
	require.NoError(t, h.End(t))
	a.Announce(t, announcement(t, "n1", 9, "10.5.1.0/24"))
	before := only(t, assigned{a})
	require.NoError(t, store.Release(t.Context()))
	require.Equal(t, before, only(t, assigned{a}), "what is another's stays")
	a.Leave(t, "n1")
	require.NoError(t, store.Release(t.Context()), "and where there is none")
}
