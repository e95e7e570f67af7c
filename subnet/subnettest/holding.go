package subnettest

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd/acquire"
)

func prefixes(p ...string) (out subnet.PerFamily[netip.Prefix]) {
	for _, s := range p {
		q := netip.MustParsePrefix(s)
		out[subnet.FamilyOf(q.Addr())] = q
	}
	return out
}

func holdLease(t *testing.T, b Backend) {
	c := claim(t, wide, "n1", 1)
	h := Hold(t, b.Open(t), c)
	held := h.Next(t)
	require.True(t, c.Config.Networks[subnet.IPv4].Contains(held.Lease.Subnets[subnet.IPv4]))
	require.False(t, held.Lease.Subnets[subnet.IPv6].IsValid())
	require.Equal(t, c.Announcement(held.Lease.Subnets), held.Lease)
	require.Greater(t, held.Expires, time.Now())
	r := only(t, b)
	require.Equal(t, subnet.Record{Key: held.Key, Lease: held.Lease, Created: held.Created, Modified: r.Modified}, r)
	require.NoError(t, h.End(t), "the end of the context is no error")
	require.Equal(t, r, only(t, b), "the lease outlives Hold")
}

func holdAgain(t *testing.T, b Backend) {
	first := take(t, b, claim(t, wide, "n1", 1))
	before := only(t, b)
	second := take(t, b, claim(t, wide, "n1", 1))
	require.Equal(t, first.Key, second.Key)
	require.Equal(t, first.Created, second.Created)
	require.Equal(t, before, only(t, b), "nothing was written")
}

func holdAnnounces(t *testing.T, b Backend) {
	c := claim(t, wide, "n1", 1)
	first := take(t, b, c)
	before := only(t, b)
	c.BackendData[subnet.IPv4] = `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`
	second := take(t, b, c)
	after := only(t, b)
	require.Equal(t, first.Key, second.Key)
	require.Equal(t, c.BackendData, after.Lease.BackendData)
	require.Equal(t, before.Created, after.Created)
	require.Greater(t, after.Modified, before.Modified)
	require.False(t, after.Reserved)
}

func holdReinstalled(t *testing.T, b Backend) {
	c := claim(t, wide, "n1", 1)
	first := take(t, b, c)
	c.MachineID = "another"
	require.Equal(t, first.Key, take(t, b, c).Key)
	require.Equal(t, "another", only(t, b).Lease.MachineID)
}

func holdMoved(t *testing.T, b Backend) {
	first := take(t, b, claim(t, wide, "n1", 1))
	moved := claim(t, wide, "n1", 2)
	require.Equal(t, first.Key, take(t, b, moved).Key)
	require.Equal(t, moved.PublicIPs, only(t, b).Lease.PublicIPs)
}

// A node that was given another name must not stand beside its former self,
// which has the same address.
func holdRenamed(t *testing.T, b Backend) {
	first := take(t, b, claim(t, wide, "n1", 1))
	c := claim(t, wide, "n2", 1)
	c.MachineID = "machine-n1"
	require.Equal(t, first.Key, take(t, b, c).Key)
	require.Equal(t, "n2", only(t, b).Lease.Node)
	// A clone has the machine ID, but an address of its own.
	c = claim(t, wide, "n3", 3)
	c.MachineID = "machine-n1"
	require.NotEqual(t, first.Key, take(t, b, c).Key)
	require.Len(t, b.Records(t), 2)
}

func holdPrevious(t *testing.T, b Backend) {
	c := claim(t, wide, "n1", 1)
	c.Previous = prefixes("10.5.77.0/24")
	require.Equal(t, "10.5.77.0-24", take(t, b, c).Key)
	c = claim(t, wide, "n2", 2)
	c.Previous = prefixes("10.5.77.0/24")
	require.NotEqual(t, "10.5.77.0-24", take(t, b, c).Key, "it is held")
	c = claim(t, wide, "n3", 3)
	c.Previous = prefixes("10.99.0.0/24")
	require.NotEqual(t, "10.99.0.0-24", take(t, b, c).Key, "it is not in the network")
}

// All of a small network but one subnet is taken, in every form there is.
func holdAvoids(t *testing.T, b Backend) {
	b.Put(t, "10.5.0.0-22", flannelValue, false)
	b.Put(t, "10.5.4.0-24", "rubbish", false)
	b.Put(t, "10.5.5.0-24", `{"NodeName":"other"}`, true)
	b.Put(t, "10.5.6.0-24&fd00:5:0:6::-64", `{"NodeName":"dual"}`, false)
	b.Put(t, "10.5.7.128-25", `{"NodeName":"small"}`, false)
	b.Put(t, "10.5.8.0-23", `{"PublicIP":"192.168.64.9"}`, true)
	b.Put(t, "10.5.11.0-24", `{"NodeName":"other"}`, false)
	b.Put(t, "10.5.12.0-22", `{"NodeName":"other"}`, false)
	b.Put(t, "10.0.0.0-8", `{"NodeName":"hostile"}`, false) // out of the network: refused by all
	before := b.Records(t)
	require.Equal(t, "10.5.10.0-24", take(t, b, claim(t, tight, "n1", 1)).Key)
	for _, r := range before {
		require.Equal(t, r, find(t, b, r.Key), "what others have stays")
	}
}

func holdFlannel(t *testing.T, b Backend) {
	const value = `{"PublicIP":"192.168.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"},"Later":{"a":1}}`
	b.Put(t, "10.5.52.0-24", value, false)
	before := only(t, b)
	c := claim(t, wide, "n1", 1)
	held := take(t, b, c)
	require.Equal(t, "10.5.52.0-24", held.Key)
	require.Equal(t, before.Created, held.Created)
	want := c.Announcement(prefixes("10.5.52.0/24"))
	want.Extra = `{"Later":{"a":1}}`
	require.Equal(t, want, only(t, b).Lease, "members that we do not know are kept")
	require.False(t, only(t, b).Reserved)
}

// Leases left from earlier lives of the node go with the one that stays.
func holdTidies(t *testing.T, b Backend) {
	b.Put(t, "10.5.1.0-24", `{"PublicIP":"192.168.0.1","BackendType":"vxlan"}`, false)
	b.Put(t, "10.5.2.0-24", `{"PublicIP":"192.168.0.7","BackendType":"vxlan","NodeName":"n1"}`, false)
	b.Put(t, "10.5.3.0-24", `{"PublicIP":"192.168.0.3","BackendType":"vxlan","NodeName":"n3"}`, false)
	c := claim(t, wide, "n1", 1)
	c.Previous = prefixes("10.5.1.0/24")
	require.Equal(t, "10.5.1.0-24", take(t, b, c).Key)
	records := b.Records(t)
	require.Len(t, records, 2)
	require.Equal(t, "n1", records[0].Lease.Node)
	require.Equal(t, "n3", records[1].Lease.Node)
}

func holdDuplicate(t *testing.T, b Backend) {
	h := Hold(t, b.Open(t), claim(t, wide, "n1", 1))
	first := h.Next(t)
	before := only(t, b)
	c := claim(t, wide, "n1", 2)
	c.MachineID = "another"
	err := Hold(t, b.Open(t), c).Err(t)
	var duplicate *acquire.DuplicateError
	require.ErrorAs(t, err, &duplicate)
	require.EqualError(t, duplicate, `the node name "n1" belongs to two machines: this one (public IP 192.168.0.2, machine ID another) `+
		`and the holder of lease `+first.Key+` (public IP 192.168.0.1, machine ID machine-n1); give one of them another --node-name, `+
		`or, if that machine is gone for good, run: twill release n1`)
	require.Equal(t, before, only(t, b))
	require.NoError(t, h.End(t), "the first does not notice")
	require.Empty(t, h.Held)
	// Once the other is gone, the name is free.
	b.Delete(t, first.Key)
	take(t, b, c)
}

func holdExhausted(t *testing.T, b Backend) {
	b.Put(t, "10.5.0.0-20", `{"NodeName":"all"}`, false)
	err := Hold(t, b.Open(t), claim(t, tight, "n1", 1)).Err(t)
	require.ErrorIs(t, err, subnet.ErrExhausted)
	b.Delete(t, "10.5.0.0-20")
	take(t, b, claim(t, tight, "n1", 1))
}

func holdLost(t *testing.T, b Backend) {
	h := Hold(t, b.Open(t), claim(t, wide, "n1", 1))
	first := h.Next(t)
	b.Delete(t, first.Key)
	second := h.Next(t)
	require.Equal(t, first.Key, second.Key)
	require.Greater(t, second.Created, first.Created)
	require.Equal(t, first.Lease, only(t, b).Lease)
	require.False(t, only(t, b).Reserved)
}

func holdStolen(t *testing.T, b Backend) {
	h := Hold(t, b.Open(t), claim(t, wide, "n1", 1))
	first := h.Next(t)
	b.Put(t, first.Key, flannelValue, false)
	stolen := find(t, b, first.Key)
	second := h.Next(t)
	require.NotEqual(t, first.Key, second.Key)
	require.Equal(t, stolen, find(t, b, first.Key), "what is another's stays")
	require.Equal(t, second.Lease, find(t, b, second.Key).Lease)
}

func holdNetworkChanged(t *testing.T, b Backend) {
	take(t, b, claim(t, wide, "n1", 1))
	second := take(t, b, claim(t, `{"Network": "10.6.0.0/16"}`, "n1", 1))
	require.Equal(t, second.Key, only(t, b).Key)
	require.True(t, netip.MustParsePrefix("10.6.0.0/16").Contains(second.Lease.Subnets[subnet.IPv4].Addr()))
}

func holdFamilyAdded(t *testing.T, b Backend) {
	first := take(t, b, claim(t, wide, "n1", 1))
	second := take(t, b, claim(t, dual, "n1", 1))
	require.Equal(t, first.Lease.Subnets[subnet.IPv4], second.Lease.Subnets[subnet.IPv4], "that of the other family stays")
	require.True(t, second.Lease.Subnets[subnet.IPv6].IsValid())
	require.Equal(t, second.Key, only(t, b).Key)
	third := take(t, b, claim(t, onlyIPv6, "n1", 1))
	require.Equal(t, second.Lease.Subnets[subnet.IPv6], third.Lease.Subnets[subnet.IPv6])
	require.Equal(t, third.Key, only(t, b).Key)
}

func releaseLease(t *testing.T, b Backend) {
	store := b.Open(t)
	require.NoError(t, store.Release(t.Context()), "there is nothing yet")
	h := Hold(t, store, claim(t, wide, "n1", 1))
	h.Next(t)
	require.NoError(t, h.End(t))
	require.NoError(t, store.Release(t.Context()))
	require.Empty(t, b.Records(t))
	require.NoError(t, store.Release(t.Context()), "twice is no error")
}

func releaseReservation(t *testing.T, b Backend) {
	b.Put(t, "10.5.9.0-24", `{"NodeName":"n1"}`, true)
	before := only(t, b)
	store := b.Open(t)
	h := Hold(t, store, claim(t, wide, "n1", 1))
	h.Next(t)
	require.NoError(t, h.End(t))
	require.NoError(t, store.Release(t.Context()))
	after := only(t, b)
	require.False(t, after.Lease.Active(), "peers forget the node")
	require.Equal(t, before.Lease, after.Lease)
	require.True(t, after.Reserved)
}

func releaseStolen(t *testing.T, b Backend) {
	store := b.Open(t)
	h := Hold(t, store, claim(t, wide, "n1", 1))
	held := h.Next(t)
	require.NoError(t, h.End(t))
	b.Delete(t, held.Key)
	b.Put(t, held.Key, flannelValue, false)
	stolen := only(t, b)
	require.NoError(t, store.Release(t.Context()))
	require.Equal(t, stolen, only(t, b))
}
