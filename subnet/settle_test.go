package subnet_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// Each case holds in whichever order its records come.
func TestSnapshotSettles(t *testing.T) {
	t.Parallel()
	const lease1, lease2 = "10.1.0.0-24", "10.2.0.0-24"
	a := rec{node: "a", v4: "10.1.0.0/24", ip: "192.168.0.1", mac: "a", created: 1}
	b := rec{node: "b", v4: "10.2.0.0/24", ip: "192.168.0.2", mac: "b", created: 2}
	with := func(r rec, edit func(*rec)) rec {
		edit(&r)
		return r
	}
	for _, c := range []struct {
		name    string
		records []rec
		peers   map[string]string // node to key
		refused map[string]string // key to node and reason
	}{
		{name: "nothing"},
		{name: "two that agree", records: []rec{a, b}, peers: map[string]string{"a": lease1, "b": lease2}},
		{
			name:    "one subnet, spelled differently",
			records: []rec{a, with(b, func(r *rec) { r.v4, r.key = "10.1.0.0/24", "other" })},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{"other": "b: its subnet 10.1.0.0/24 overlaps 10.1.0.0/24 of node a, whose lease is older"},
		},
		{
			name:    "a subnet within an older one",
			records: []rec{a, with(b, func(r *rec) { r.v4 = "10.1.0.64/26" })},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{"10.1.0.64-26": "b: its subnet 10.1.0.64/26 overlaps 10.1.0.0/24 of node a, whose lease is older"},
		},
		{
			name:    "a subnet about an older one",
			records: []rec{a, with(b, func(r *rec) { r.v4 = "10.0.0.0/15" })},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{"10.0.0.0-15": "b: its subnet 10.0.0.0/15 overlaps 10.1.0.0/24 of node a, whose lease is older"},
		},
		{
			name: "IPv6 subnets",
			records: []rec{
				with(a, func(r *rec) { r.v6, r.key = "fd00:1::/56", "a" }),
				with(b, func(r *rec) { r.v6, r.key = "fd00:1:0:3::/64", "b" }),
			},
			peers:   map[string]string{"a": "a"},
			refused: map[string]string{"b": "b: its subnet fd00:1:0:3::/64 overlaps fd00:1::/56 of node a, whose lease is older"},
		},
		{
			name:    "one public IP",
			records: []rec{a, with(b, func(r *rec) { r.ip = "192.168.0.1" })},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{lease2: "b: its public IP 192.168.0.1 is also that of node a, whose lease is older"},
		},
		{
			name: "one IPv6 public IP",
			records: []rec{
				with(a, func(r *rec) { r.ip6 = "fd99::1" }),
				with(b, func(r *rec) { r.ip6 = "fd99::1" }),
			},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{lease2: "b: its public IP fd99::1 is also that of node a, whose lease is older"},
		},
		{
			name:    "one VTEP MAC",
			records: []rec{a, with(b, func(r *rec) { r.mac = "a" })},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{lease2: "b: its VTEP MAC a is also that of node a, whose lease is older"},
		},
		{
			name:    "of one age the key decides",
			records: []rec{a, with(b, func(r *rec) { r.mac, r.created = "a", 1 })},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{lease2: "b: its VTEP MAC a is also that of node a, whose lease is older"},
		},
		{
			name: "one that is refused stands in nobody's way",
			records: []rec{
				a,
				with(b, func(r *rec) { r.v4, r.v6, r.key = "10.1.0.0/25", "fd00:2::/64", "b" }),
				{node: "c", v4: "10.3.0.0/24", v6: "fd00:2::/64", ip: "192.168.0.3", created: 3, key: "c"},
			},
			peers:   map[string]string{"a": lease1, "c": "c"},
			refused: map[string]string{"b": "b: its subnet 10.1.0.0/25 overlaps 10.1.0.0/24 of node a, whose lease is older"},
		},
		{
			name: "a chain: every other one",
			records: []rec{
				{node: "a", v4: "10.1.0.0/24", ip: "192.168.0.1", created: 1},
				{node: "b", v4: "10.1.0.0/25", v6: "fd00:2::/64", ip: "192.168.0.2", created: 2, key: "b"},
				{node: "c", v4: "10.3.0.0/24", v6: "fd00:2::/96", ip: "192.168.0.3", created: 3, key: "c"},
				{node: "d", v4: "10.4.0.0/24", ip: "192.168.0.3", created: 4, key: "d"},
				{node: "e", v4: "10.4.0.0/25", ip: "192.168.0.5", created: 5, key: "e"},
			},
			peers: map[string]string{"a": lease1, "c": "c", "e": "e"},
			refused: map[string]string{
				"b": "b: its subnet 10.1.0.0/25 overlaps 10.1.0.0/24 of node a, whose lease is older",
				"d": "d: its public IP 192.168.0.3 is also that of node c, whose lease is older",
			},
		},

		// Our own.
		{
			name:    "our own record",
			records: []rec{self, a},
			peers:   map[string]string{"a": lease1},
		},
		{
			name:    "an earlier record of ours stands in nobody's way",
			records: []rec{{node: "self", v4: "10.1.0.0/25", ip: "192.168.0.1", mac: "a", created: 0}, a},
			peers:   map[string]string{"a": lease1},
		},
		{
			name:    "our subnet, though older",
			records: []rec{with(a, func(r *rec) { r.v4 = "10.5.0.0/25" }), b},
			peers:   map[string]string{"b": lease2},
			refused: map[string]string{"10.5.0.0-25": "a: its subnet 10.5.0.0/25 overlaps 10.5.0.0/24 of this node"},
		},
		{
			name:    "our public IP, though older",
			records: []rec{with(a, func(r *rec) { r.ip = "192.168.0.100" }), b},
			peers:   map[string]string{"b": lease2},
			refused: map[string]string{lease1: "a: its public IP 192.168.0.100 is also that of this node"},
		},
		{
			name:    "our public IP in a flannel's record",
			records: []rec{with(a, func(r *rec) { r.node, r.ip = "", "192.168.0.100" }), b},
			peers:   map[string]string{"b": lease2},
			refused: map[string]string{lease1: "192.168.0.100: its public IP 192.168.0.100 is also that of this node"},
		},
		{
			name:    "our IPv6 public IP",
			records: []rec{with(a, func(r *rec) { r.ip6 = "fd99::100" })},
			refused: map[string]string{lease1: "a: its public IP fd99::100 is also that of this node"},
		},
		{
			name:    "our VTEP MAC, though older",
			records: []rec{with(a, func(r *rec) { r.mac = "self" })},
			refused: map[string]string{lease1: "a: its VTEP MAC self is also that of this node"},
		},

		// What cannot be used hurts nobody.
		{
			name: "broken, though older",
			records: []rec{with(b, func(r *rec) {
				r.v4, r.key, r.created, r.invalid = "10.1.0.0/24", "b", 0, "lease value, PublicIP: 5 is not a string"
			}), a},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{"b": "b: lease value, PublicIP: 5 is not a string"},
		},
		{
			name:    "broken, younger, of the same node",
			records: []rec{a, {node: "a", v4: "10.9.0.0/24", created: 9, invalid: "cut"}},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{"10.9.0.0-24": "a: cut"},
		},
		{
			name:    "broken, of no node that could be read",
			records: []rec{a, {v4: "10.1.0.0/24", key: "x", created: 0, invalid: "no JSON"}},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{"x": ": no JSON"},
		},
		{
			name:    "broken, under our name",
			records: []rec{{node: "self", v4: "10.9.0.0/24", invalid: "cut"}},
			refused: map[string]string{"10.9.0.0-24": "self: cut"},
		},
		{
			name:    "unfit, though older",
			records: []rec{with(b, func(r *rec) { r.v4, r.mac, r.created = "172.16.0.0/24", "a", 0 }), a},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{"172.16.0.0-24": "b: its subnet is not in the network"},
		},
		{
			name:    "nobody's",
			records: []rec{a, {v4: "10.1.0.0/24", key: "x", created: 0}},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{"x": ": it has neither a node name nor a public IP"},
		},

		// Reservations.
		{
			name:    "a reservation waits for its node",
			records: []rec{{node: "a", v4: "10.1.0.0/24", idle: true, created: 1}, {v4: "10.2.0.0/24", idle: true, created: 1}},
		},
		{
			name:    "a reservation, older or younger, takes nothing from its node or another",
			records: []rec{a, {node: "a", v4: "10.7.0.0/24", idle: true, created: 9}, {node: "b", v4: "10.1.0.0/16", idle: true, created: 0}},
			peers:   map[string]string{"a": lease1},
		},

		// One node's records.
		{
			name:    "a node that moved",
			records: []rec{a, with(a, func(r *rec) { r.v4, r.created = "10.2.0.0/24", 2 })},
			peers:   map[string]string{"a": lease2},
			refused: map[string]string{lease1: "a: node a has a newer lease, 10.2.0.0-24"},
		},
		{
			name:    "a node that took up an old reservation",
			records: []rec{with(a, func(r *rec) { r.modified = 9 }), with(a, func(r *rec) { r.v4, r.created = "10.2.0.0/24", 2 })},
			peers:   map[string]string{"a": lease1},
			refused: map[string]string{lease2: "a: node a has a newer lease, 10.1.0.0-24"},
		},
		{
			name: "two machines of one name",
			records: []rec{
				with(a, func(r *rec) { r.machine = "m1" }),
				with(b, func(r *rec) { r.node, r.machine = "a", "m2" }),
			},
			peers:   map[string]string{"a": lease2},
			refused: map[string]string{lease1: "a: node a has a newer lease, 10.2.0.0-24, from another machine"},
		},
		{
			name: "three",
			records: []rec{
				a,
				with(a, func(r *rec) { r.v4, r.created = "10.2.0.0/24", 2 }),
				with(a, func(r *rec) { r.v4, r.created = "10.3.0.0/24", 3 }),
			},
			peers: map[string]string{"a": "10.3.0.0-24"},
			refused: map[string]string{
				lease1: "a: node a has a newer lease, 10.3.0.0-24",
				lease2: "a: node a has a newer lease, 10.3.0.0-24",
			},
		},
		{
			name: "an outlived record stands in nobody's way",
			records: []rec{
				a,
				with(a, func(r *rec) { r.v4, r.created = "10.3.0.0/24", 3 }),
				with(b, func(r *rec) { r.v4, r.key, r.created = "10.1.0.0/24", "b", 2 }),
			},
			peers:   map[string]string{"a": "10.3.0.0-24", "b": "b"},
			refused: map[string]string{lease1: "a: node a has a newer lease, 10.3.0.0-24"},
		},
		{
			name: "an older record does not come back while the newer is refused",
			records: []rec{
				a, b,
				with(a, func(r *rec) { r.v4, r.key, r.created = "10.2.0.0/25", "a2", 3 }),
			},
			peers: map[string]string{"b": lease2},
			refused: map[string]string{
				lease1: "a: node a has a newer lease, a2",
				"a2":   "a: its subnet 10.2.0.0/25 overlaps 10.2.0.0/24 of node b, whose lease is older",
			},
		},

		// Flannel's.
		{
			name:    "flannel nodes go by their public IP",
			records: []rec{with(a, func(r *rec) { r.node = "" }), {v6: "fd00:9::/64", ip6: "fd99::9", created: 3}},
			peers:   map[string]string{"192.168.0.1": lease1, "fd99::9": "0.0.0.0-0&fd00:9::-64"},
		},
		{
			name:    "a flannel node that moved",
			records: []rec{with(a, func(r *rec) { r.node = "" }), with(b, func(r *rec) { r.node, r.ip = "", "192.168.0.1" })},
			peers:   map[string]string{"192.168.0.1": lease2},
			refused: map[string]string{lease1: "192.168.0.1: node 192.168.0.1 has a newer lease, 10.2.0.0-24"},
		},
		{
			name:    "an address that a flannel node holds",
			records: []rec{with(a, func(r *rec) { r.node = "" }), with(b, func(r *rec) { r.ip = "192.168.0.1" })},
			peers:   map[string]string{"192.168.0.1": lease1},
			refused: map[string]string{lease2: "b: its public IP 192.168.0.1 is also that of node 192.168.0.1, whose lease is older"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			check := func(s *subnet.Snapshot, how string) {
				t.Helper()
				var ids []string
				byKey := map[string]subnet.Lease{}
				for _, r := range c.records {
					byKey[r.record().Key] = r.record().Lease
				}
				for _, id := range s.Peers() {
					ids = append(ids, id)
					l, ok := s.Peer(id)
					require.True(t, ok)
					require.Equal(t, byKey[c.peers[id]], l, how)
				}
				require.Len(t, ids, len(c.peers), how)
				if c.refused == nil {
					c.refused = map[string]string{}
				}
				require.Equal(t, c.refused, reasons(s), how)
			}
			permute(c.records, func(records []rec) {
				check(snapshot(records...), "one by one")

				s := subnet.NewSnapshot("self")
				var list []subnet.Record
				for _, r := range records {
					list = append(list, r.record())
				}
				s.Replace(list)
				s.SetOwn(self.record().Lease, macCheck)
				check(s, "as a list, our own lease last")

				// Each one once more away and back.
				for _, r := range list {
					s.Delete(r.Key)
					s.Put(r)
					check(s, "away and back")
				}
			})
		})
	}
}

// permute calls do with every order of the list; of more than four only with
// the rotations.
func permute[T any](list []T, do func([]T)) {
	if len(list) > 4 {
		for i := range list {
			do(append(append([]T{}, list[i:]...), list[:i]...))
		}
		return
	}
	var step func(done, rest []T)
	step = func(done, rest []T) {
		if len(rest) == 0 {
			do(done)
			return
		}
		for i := range rest {
			step(append(append([]T{}, done...), rest[i]), append(append([]T{}, rest[:i]...), rest[i+1:]...))
		}
	}
	step(nil, list)
}
