package subnet_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// rec makes a record of a node: its key is its subnets', its VTEP MAC, if
// any, its backend data.
type rec struct {
	node, machine, v4, v6, ip, ip6, mac string
	created, modified                   int64
	key, invalid                        string
	idle                                bool // a reservation that waits
}

func (r rec) record() subnet.Record {
	l := subnet.Lease{Node: r.node, MachineID: r.machine, Subnets: prefixes(r.v4, r.v6), BackendType: "vxlan", BackendData: subnet.PerFamily[string]{r.mac}}
	if r.idle {
		l.BackendType = ""
	}
	for f, ip := range []string{r.ip, r.ip6} {
		if ip != "" {
			l.PublicIPs[f] = addr(ip)
		}
	}
	if r.key == "" {
		r.key = subnet.EncodeKey(l.Subnets)
	}
	if r.modified == 0 {
		r.modified = r.created
	}
	return subnet.Record{Key: r.key, Lease: l, Invalid: r.invalid, Created: r.created, Modified: r.modified}
}

// macCheck takes what is in 10.0.0.0/8 or has no IPv4 subnet; the backend data
// is the MAC that a lease claims.
func macCheck(l subnet.Lease) ([]string, error) {
	if p := l.Subnets[subnet.IPv4]; p.IsValid() && !prefix("10.0.0.0/8").Contains(p.Addr()) {
		return nil, errors.New("its subnet is not in the network")
	}
	if mac := l.BackendData[subnet.IPv4]; mac != "" {
		return []string{"VTEP MAC " + mac}, nil
	}
	return nil, nil
}

var self = rec{node: "self", v4: "10.5.0.0/24", v6: "fd00:5::/64", ip: "192.168.0.100", ip6: "fd99::100", mac: "self", created: 50}

// snapshot returns one that knows our own lease and the records.
func snapshot(records ...rec) *subnet.Snapshot {
	s := subnet.NewSnapshot("self")
	s.SetOwn(self.record().Lease, macCheck)
	for _, r := range records {
		s.Put(r.record())
	}
	return s
}

func reasons(s *subnet.Snapshot) map[string]string {
	out := map[string]string{}
	for _, r := range s.Refused() {
		out[r.Key] = r.Node + ": " + r.Reason
	}
	return out
}

// The subnet of a node that went is taken by another, and the store tells of
// the new one first.
func TestSnapshotSubnetUsedAgain(t *testing.T) {
	t.Parallel()
	// In etcd it is the same key: the later value stands.
	old := rec{node: "old", v4: "10.1.0.0/24", ip: "192.168.0.1", mac: "m1", created: 1}
	young := rec{node: "young", v4: "10.1.0.0/24", ip: "192.168.0.2", mac: "m2", created: 9}
	s := snapshot(old)
	require.Equal(t, []string{"old", "young"}, s.Put(young.record()))
	require.Equal(t, []string{"young"}, s.Peers())

	// With Node objects the keys differ: for a moment both hold it.
	old.key, young.key = "old", "young"
	s = snapshot(old)
	require.Empty(t, s.Put(young.record()))
	require.Equal(t, []string{"old"}, s.Peers())
	require.Equal(t, []string{"old", "young"}, s.Delete("old"))
	require.Equal(t, []string{"young"}, s.Peers())
	require.Empty(t, s.Refused())

	// The other order.
	s = snapshot(old)
	require.Equal(t, []string{"old"}, s.Delete("old"))
	require.Equal(t, []string{"young"}, s.Put(young.record()))
}

// A machine that ran flannel runs Twill now, and takes its record over.
func TestSnapshotFlannelNodeBecomesTwill(t *testing.T) {
	t.Parallel()
	r := rec{v4: "10.1.0.0/24", ip: "192.168.0.1", mac: "m1", created: 1}
	s := snapshot(r)
	require.Equal(t, []string{"192.168.0.1"}, s.Peers())
	r.node, r.modified = "n1", 2
	require.Equal(t, []string{"192.168.0.1", "n1"}, s.Put(r.record()))
	require.Equal(t, []string{"n1"}, s.Peers())
	r.node, r.modified = "", 3 // and back
	require.Equal(t, []string{"192.168.0.1", "n1"}, s.Put(r.record()))
	require.Equal(t, []string{"192.168.0.1"}, s.Peers())
}

func TestSnapshotTellsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	a := rec{node: "a", v4: "10.1.0.0/24", ip: "192.168.0.1", mac: "a", created: 1}
	b := rec{node: "b", v4: "10.2.0.0/24", ip: "192.168.0.2", mac: "b", created: 2}
	s := snapshot(self, a, b)

	require.Empty(t, s.Put(a.record()), "nothing new")
	a.modified = 7
	require.Empty(t, s.Put(a.record()), "written again, as flannel renews")
	require.Equal(t, a.record(), s.Records()[0], "but noted")
	require.Empty(t, s.Delete("10.99.0.0-24"), "unknown")
	require.Empty(t, s.Replace([]subnet.Record{self.record(), b.record(), a.record()}), "the same list")
	require.Empty(t, s.Put(rec{node: "self", v4: "10.77.0.0/24", created: 3}.record()), "our own")
	require.Empty(t, s.Put(rec{node: "r", v4: "10.78.0.0/24", created: 3, idle: true}.record()), "a reservation")
	require.Empty(t, s.Put(rec{node: "x", v4: "10.79.0.0/24", created: 3, invalid: "cut"}.record()), "a broken one")
	require.Empty(t, s.Put(rec{node: "y", v4: "10.1.0.0/28", ip: "192.168.0.9", created: 3}.record()), "refused at once")
	require.Empty(t, s.Delete("10.1.0.0-28"), "was refused")

	a.mac = "a2"
	require.Equal(t, []string{"a"}, s.Put(a.record()))
	require.Equal(t, []string{"b"}, s.Delete("10.2.0.0-24"))
	require.Equal(t, []string{"a"}, s.Replace(nil))
	require.Empty(t, s.Records())
	require.Empty(t, s.Peers())

	// The full list names what went, what came and what changed.
	s = snapshot(a, b)
	b.mac = "b2"
	c := rec{node: "c", v4: "10.3.0.0/24", ip: "192.168.0.3", created: 3}
	require.Equal(t, []string{"a", "b", "c"}, s.Replace([]subnet.Record{b.record(), c.record()}))
	require.Equal(t, []string{"b", "c"}, s.Peers())

	// A new lease of ours, or another check, is for all.
	require.Equal(t, []string{"b", "c"}, s.SetOwn(self.record().Lease, macCheck))
}

func TestSnapshotOwnLeaseChanges(t *testing.T) {
	t.Parallel()
	a := rec{node: "a", v4: "10.5.0.0/24", ip: "192.168.0.1", mac: "a", created: 1}
	s := subnet.NewSnapshot("self")
	require.Empty(t, s.Put(a.record()))
	require.Empty(t, s.Peers(), "nothing is settled before we have a lease")
	require.Empty(t, s.Refused())
	require.Equal(t, []subnet.Record{a.record()}, s.Records())
	require.Equal(t, []string{"a"}, s.SetOwn(self.record().Lease, macCheck))
	require.Empty(t, s.Peers())
	_, ok := s.Peer("a")
	require.False(t, ok)
	moved := self
	moved.v4 = "10.6.0.0/24"
	require.Equal(t, []string{"a"}, s.SetOwn(moved.record().Lease, macCheck))
	require.Equal(t, []string{"a"}, s.Peers())
	none := func(subnet.Lease) ([]string, error) { return nil, errors.New("the backend changed") }
	require.Equal(t, []string{"a"}, s.SetOwn(moved.record().Lease, none))
	require.Equal(t, map[string]string{"10.5.0.0-24": "a: the backend changed"}, reasons(s))
}

// Of a full list that names a key twice the last stands.
func TestSnapshotReplaceWithAKeyTwice(t *testing.T) {
	t.Parallel()
	a := rec{node: "a", v4: "10.1.0.0/24", ip: "192.168.0.1", created: 1, key: "k"}
	b := rec{node: "b", v4: "10.1.0.0/24", ip: "192.168.0.2", created: 2, key: "k"}
	s := snapshot(a)
	require.Equal(t, []string{"a", "b"}, s.Replace([]subnet.Record{a.record(), b.record(), a.record(), b.record()}))
	require.Equal(t, []string{"b"}, s.Peers())
}

func TestSnapshotOfNamelessNodes(t *testing.T) {
	t.Parallel()
	s := subnet.NewSnapshot("")
	s.SetOwn(subnet.Lease{}, nil)
	s.Put(rec{v4: "10.1.0.0/24", ip: "192.168.0.1", created: 1}.record())
	require.Equal(t, []string{"192.168.0.1"}, s.Peers(), "no name is not our name")
	l, ok := s.Peer("192.168.0.1")
	require.True(t, ok)
	require.Equal(t, netip.MustParsePrefix("10.1.0.0/24"), l.Subnets[subnet.IPv4])
}
