package subnettest

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// Store is what a node needs of a store.
type Store interface {
	WatchConfig(ctx context.Context, on func(raw []byte)) error
	WatchLeases(ctx context.Context, on func(subnet.Update)) error
	Hold(ctx context.Context, claim subnet.Claim, held func(subnet.Held)) error
	Release(ctx context.Context) error
	Close() error
}

// Backend is one store as a test sees it from behind. Its methods fail the
// test by themselves.
type Backend interface {
	Open(t *testing.T) Store            // as one node does
	SetConfig(t *testing.T, raw []byte) // nil deletes it
	// Put writes a record as somebody else would, over whatever is there.
	Put(t *testing.T, key, value string, reserved bool)
	Delete(t *testing.T, key string)
	Records(t *testing.T) []subnet.Record // sorted by key
}

// Contract tests everything that stores with an allocation of their own have
// in common. Each call of new returns an empty store.
func Contract(t *testing.T, new func(*testing.T) Backend) {
	for name, test := range map[string]func(*testing.T, Backend){
		"config/waits, follows, keeps": configWatch,

		"watch/full, then changes":       watchChanges,
		"watch/again begins with full":   watchAgain,
		"watch/a subnet used again":      watchReuse,
		"watch/records that are no good": watchInvalid,
		"watch/a renewal is no news":     watchRenewal,
		"hold/a lease":                   holdLease,
		"hold/again, nothing is written": holdAgain,
		"hold/another announcement":      holdAnnounces,
		"hold/installed anew":            holdReinstalled,
		"hold/another address":           holdMoved,
		"hold/renamed":                   holdRenamed,
		"hold/previous subnets":          holdPrevious,
		"hold/avoids what others have":   holdAvoids,
		"hold/flannel's lease":           holdFlannel,
		"hold/further leases of ours":    holdTidies,
		"hold/duplicate node":            holdDuplicate,
		"hold/exhausted":                 holdExhausted,
		"hold/key lost":                  holdLost,
		"hold/key stolen":                holdStolen,
		"hold/network changed":           holdNetworkChanged,
		"hold/family added":              holdFamilyAdded,
		"reservation/by name":            reservedByName,
		"reservation/by public IP":       reservedByAddress,
		"reservation/outside the range":  reservedOutsideRange,
		"reservation/that cannot serve":  reservedUseless,
		"reservation/of another subnet":  reservedMove,
		"reservation/of a running node":  reservedWhileHeld,
		"release/a lease":                releaseLease,
		"release/a reservation":          releaseReservation,
		"release/what is another's":      releaseStolen,
		"together/one name, one lease":   oneName,
		"together/IPv4, just enough":     togetherIPv4,
		"together/dual stack":            togetherDual,
		"together/IPv6 alone":            togetherIPv6,
		"together/what overlaps unseen":  togetherOverlapping,
		"together/nodes come and go":     togetherChurn,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, new(t))
		})
	}
}

// The networks of the tests. Of tight, there are 16 subnets, and the first is
// left out unless SubnetMin says otherwise.
const (
	wide     = `{"Network": "10.5.0.0/16"}`
	tight    = `{"Network": "10.5.0.0/20", "SubnetMin": "10.5.0.0"}`
	dual     = `{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:5::/48"}`
	onlyIPv6 = `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:5::/48"}`
)

func config(t *testing.T, raw string) subnet.Config {
	t.Helper()
	c, err := subnet.ParseConfig([]byte(raw))
	require.NoError(t, err)
	return c
}

// claim returns that of node n, a number up to 250.
func claim(t *testing.T, raw string, node string, n int) subnet.Claim {
	t.Helper()
	return subnet.Claim{
		Node: node, MachineID: "machine-" + node, Config: config(t, raw),
		PublicIPs:   subnet.PerFamily[netip.Addr]{netip.AddrFrom4([4]byte{192, 168, 0, byte(n)})},
		BackendType: subnet.BackendVXLAN,
		BackendData: subnet.PerFamily[string]{`{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`},
	}
}

// take holds a lease, and ends Hold as a node does that restarts.
func take(t *testing.T, b Backend, c subnet.Claim) subnet.Held {
	t.Helper()
	h := Hold(t, b.Open(t), c)
	held := h.Next(t)
	require.NoError(t, h.End(t), "the end of the context is no error")
	return held
}

// only returns the one record that the store holds.
func only(t *testing.T, b Backend) subnet.Record {
	t.Helper()
	records := b.Records(t)
	require.Len(t, records, 1)
	return records[0]
}

// find returns the record under key.
func find(t *testing.T, b Backend, key string) subnet.Record {
	t.Helper()
	for _, r := range b.Records(t) {
		if r.Key == key {
			return r
		}
	}
	require.Fail(t, "no record "+key)
	return subnet.Record{}
}
