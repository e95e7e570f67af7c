package subnettest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func reservedByName(t *testing.T, b Backend) {
	b.Put(t, "10.5.9.0-24", `{"NodeName":"n1"}`, true)
	c := claim(t, wide, "n1", 1)
	c.Previous = prefixes("10.5.10.0/24")
	for range 2 { // and after a restart
		h := Hold(t, b.Open(t), c)
		held := h.Next(t)
		require.Equal(t, "10.5.9.0-24", held.Key)
		require.Zero(t, held.Expires)
		require.NoError(t, h.End(t))
		require.Equal(t, c.Announcement(held.Lease.Subnets), only(t, b).Lease)
		require.True(t, only(t, b).Reserved, "it does not become a lease that ends")
	}
}

func reservedByAddress(t *testing.T, b Backend) {
	b.Put(t, "10.5.9.0-24", `{"PublicIP":"192.168.0.1"}`, true)
	require.Equal(t, "10.5.9.0-24", take(t, b, claim(t, wide, "n1", 1)).Key)
	require.True(t, only(t, b).Reserved)
	require.Equal(t, "n1", only(t, b).Lease.Node)
}

// Pools keep their reservations out of what is leased to everybody.
func reservedOutsideRange(t *testing.T, b Backend) {
	b.Put(t, "10.5.9.0-24", `{"NodeName":"n1"}`, true)
	c := claim(t, `{"Network": "10.5.0.0/16", "SubnetMin": "10.5.128.0"}`, "n1", 1)
	require.Equal(t, "10.5.9.0-24", take(t, b, c).Key)
}

func reservedUseless(t *testing.T, b Backend) {
	b.Put(t, "10.99.9.0-24", `{"NodeName":"n1"}`, true)
	first := find(t, b, "10.99.9.0-24")
	held := take(t, b, claim(t, wide, "n1", 1))
	require.NotEqual(t, "10.99.9.0-24", held.Key)
	require.False(t, find(t, b, held.Key).Reserved)
	require.Equal(t, first, find(t, b, "10.99.9.0-24"), "it waits for the network to come back")

	back := take(t, b, claim(t, `{"Network": "10.99.0.0/16"}`, "n1", 1))
	require.Equal(t, "10.99.9.0-24", back.Key)
	require.True(t, only(t, b).Reserved)
	require.True(t, only(t, b).Lease.Active())

	away := take(t, b, claim(t, wide, "n1", 1))
	require.Len(t, b.Records(t), 2)
	require.True(t, find(t, b, away.Key).Lease.Active())
	require.Equal(t, first.Lease, find(t, b, "10.99.9.0-24").Lease, "a node announces itself once")
}

func reservedMove(t *testing.T, b Backend) {
	first := take(t, b, claim(t, wide, "n1", 1))
	b.Put(t, "10.5.0.0-24", `{"NodeName":"n1"}`, true)
	c := claim(t, wide, "n1", 1)
	c.Previous = first.Lease.Subnets
	require.Equal(t, "10.5.0.0-24", take(t, b, c).Key, "who reserves means it")
	require.True(t, only(t, b).Reserved)
}

func reservedWhileHeld(t *testing.T, b Backend) {
	c := claim(t, wide, "n1", 1)
	c.Previous = prefixes("10.5.9.0/24")
	h := Hold(t, b.Open(t), c)
	first := h.Next(t)
	b.Put(t, "10.5.9.0-24", `{"NodeName":"n1"}`, true) // without what it had announced
	second := h.Next(t)
	require.Equal(t, first.Key, second.Key)
	require.Equal(t, first.Created, second.Created)
	require.Zero(t, second.Expires)
	require.Equal(t, first.Lease, only(t, b).Lease, "it announces itself again")
	require.True(t, only(t, b).Reserved)
	require.NoError(t, h.End(t))
}
