package subnet_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// model settles records by the rules as they are written at Snapshot, without
// an index, and tells which node's peer is which record.
func model(own subnet.Lease, check subnet.Check, records map[string]subnet.Record) (peers map[string]subnet.Lease, refused map[string]bool) {
	type contender struct {
		subnet.Record
		claims []string
	}
	conflict := func(a, b contender) bool {
		for _, f := range subnet.Families {
			if p, q := a.Lease.Subnets[f], b.Lease.Subnets[f]; p.IsValid() && q.IsValid() && p.Overlaps(q) {
				return true
			}
			if a.Lease.PublicIPs[f].IsValid() && a.Lease.PublicIPs[f] == b.Lease.PublicIPs[f] {
				return true
			}
		}
		return slices.ContainsFunc(a.claims, func(c string) bool { return slices.Contains(b.claims, c) })
	}
	ours := contender{Record: subnet.Record{Lease: own}}
	ours.claims, _ = check(own)

	peers, refused = map[string]subnet.Lease{}, map[string]bool{}
	latest := map[string]contender{}
	for key, r := range records {
		id := r.Lease.ID()
		claims, err := check(r.Lease)
		e := contender{r, claims}
		switch {
		case r.Invalid != "":
			refused[key] = true
		case !r.Lease.Active() || id == "self":
		case id == "" || err != nil || conflict(e, ours):
			refused[key] = true
		case latest[id].Key == "":
			latest[id] = e
		case cmp.Or(cmp.Compare(r.Modified, latest[id].Modified), cmp.Compare(r.Created, latest[id].Created), cmp.Compare(key, latest[id].Key)) > 0:
			refused[latest[id].Key] = true
			latest[id] = e
		default:
			refused[key] = true
		}
	}
	bySeniority := slices.SortedFunc(maps.Values(latest), func(a, b contender) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Key, b.Key))
	})
	var accepted []contender
	for _, e := range bySeniority {
		if slices.ContainsFunc(accepted, func(o contender) bool { return conflict(e, o) }) {
			refused[e.Key] = true
			continue
		}
		accepted = append(accepted, e)
		peers[e.Lease.ID()] = e.Lease
	}
	return peers, refused
}

// universe makes records that get into each other's way.
type universe struct{ *rand.Rand }

func (u universe) pick(of ...string) string { return of[u.IntN(len(of))] }

func (u universe) record() subnet.Record {
	r := rec{
		node: u.pick("a", "b", "c", "d", "e", "", "", "self"),
		key:  u.key(), created: u.Int64N(12), modified: u.Int64N(12),
		v4:   u.pick("10.1.0.0/24", "10.1.0.0/25", "10.1.0.128/25", "10.1.0.0/23", "10.2.0.0/24", "10.2.0.0/16", "10.3.0.0/24", "10.4.0.0/24", "10.5.0.0/24", "172.16.0.0/24", ""),
		v6:   u.pick("fd00:1::/64", "fd00:1::/60", "fd00:2::/64", "fd00:5::/64", "", "", "", ""),
		ip:   u.pick("192.168.0.1", "192.168.0.2", "192.168.0.3", "192.168.0.4", "192.168.0.5", "192.168.0.6", "192.168.0.100", ""),
		ip6:  u.pick("fd99::1", "fd99::2", "fd99::3", "", "", "", "", ""),
		mac:  u.pick("m1", "m2", "m3", "m4", "m5", "m6", "self", "", ""),
		idle: u.IntN(10) == 0,
	}
	if u.IntN(15) == 0 {
		r.invalid = "broken"
	}
	made := r.record()
	made.Lease.Extra = made.Key // no two leases are the same
	return made
}

func (u universe) key() string { return fmt.Sprintf("k%d", u.IntN(10)) }

func (u universe) own() subnet.Lease {
	if u.IntN(4) == 0 {
		return subnet.Lease{} // not leased yet
	}
	r := self
	r.v4 = u.pick("10.5.0.0/24", "10.1.0.0/25")
	r.ip = u.pick("192.168.0.100", "192.168.0.1", "")
	return r.record().Lease
}

// After each of many random changes the snapshot is what the rules say, and
// what a snapshot is that never saw anything else; every node whose lease changed
// was named, and none in vain.
func TestSnapshotAgreesWithTheRules(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	u := universe{rand.New(rand.NewPCG(seed, 0))}
	checks := []subnet.Check{
		macCheck,
		func(subnet.Lease) ([]string, error) { return nil, nil },
	}

	const steps = 4000
	var own subnet.Lease
	check := checks[0]
	s := subnet.NewSnapshot("self")
	s.SetOwn(own, check)
	records := map[string]subnet.Record{}
	peers := map[string]subnet.Lease{}
	for step := range steps {
		var dirty []string
		var did string
		put := "" // the node of a record that was put
		exact := true
		switch n := u.IntN(100); {
		case n < 70:
			r := u.record()
			if old, ok := records[r.Key]; ok && u.IntN(3) == 0 { // little about it changes
				old.Modified, old.Created = r.Modified, r.Created
				r = old
			}
			dirty, did, put = s.Put(r), fmt.Sprintf("put %+v", r), r.Lease.ID()
			records[r.Key] = r
		case n < 94:
			key := u.key()
			dirty, did = s.Delete(key), "delete "+key
			delete(records, key)
		case n < 98:
			next := map[string]subnet.Record{}
			for key, r := range records {
				if u.IntN(3) > 0 {
					next[key] = r
				}
			}
			for range u.IntN(6) {
				r := u.record()
				next[r.Key] = r
			}
			records = next
			dirty, did, exact = s.Replace(slices.Collect(maps.Values(records))), "replace", false
		default:
			own, check = u.own(), checks[u.IntN(len(checks))]
			dirty, did, exact = s.SetOwn(own, check), fmt.Sprintf("own %+v", own), false
		}
		at := fmt.Sprintf("seed %d, step %d: %s", seed, step, did)

		wantPeers, wantRefused := model(own, check, records)
		gotPeers := map[string]subnet.Lease{}
		for _, id := range s.Peers() {
			gotPeers[id], _ = s.Peer(id)
		}
		require.Equal(t, wantPeers, gotPeers, at)
		refused := map[string]bool{}
		for _, r := range s.Refused() {
			require.NotContains(t, r.Reason, "settled", at)
			refused[r.Key] = true
		}
		require.Equal(t, wantRefused, refused, at)

		fresh := subnet.NewSnapshot("self")
		fresh.SetOwn(own, check)
		for _, r := range records {
			fresh.Put(r)
		}
		require.Equal(t, fresh.Peers(), s.Peers(), at)
		require.Equal(t, fresh.Refused(), s.Refused(), at)
		require.Equal(t, fresh.Records(), s.Records(), at)

		require.True(t, slices.IsSorted(dirty), at)
		require.Equal(t, slices.Compact(slices.Clone(dirty)), dirty, at)
		for id := range union(peers, gotPeers) {
			if peers[id] != gotPeers[id] {
				require.Contains(t, dirty, id, at)
			}
		}
		for _, id := range dirty {
			require.True(t, !exact || id == put || peers[id] != gotPeers[id], "%s named, %s", id, at)
		}
		peers = gotPeers
	}
}

func union[V any](a, b map[string]V) map[string]V {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}
