package vxlan_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/vxlan"
	"github.com/twill-net/twill/subnet"
)

// TestNoTwoWantOneKey draws clusters in which the records contradict each other
// in every way, and looks at those which the snapshot accepts: in the kernel
// each object must have one owner, or the repair of one is the damage of
// another.
func TestNoTwoWantOneKey(t *testing.T) {
	t.Parallel()
	const clusters = 2000
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	u := universe{rand.New(rand.NewPCG(seed, 0))}
	peers, several, failed, refused := 0, 0, 0, 0
	for range clusters {
		overlay := pick(u, overlayV4, overlayV6, overlayDual)
		cfg := config(t, overlay, pick(u, "", `"DirectRouting": true`))
		under := underlay(pick(u, []string{"192.0.2.1"}, []string{"2001:db8::1"}, []string{"192.0.2.1", "2001:db8::1"})...)
		under.OnLink = pick(u, nil, []backend.HostRoute{hostRoute("192.0.2.0/29", "", "eth0"), hostRoute("2001:db8::/125", "", "eth0")})
		a := newNode(t, cfg, under, "a", 1)
		s := subnet.NewSnapshot("a")
		s.SetOwn(a.lease, a.Check)
		s.Replace(u.records(t, cfg))
		refused += len(s.Refused())

		owner := map[backend.Key]string{}
		host := append(backend.HostObjects(cfg, a.lease, backend.Underlay{}, backend.HostOptions{Blackhole: true}), a.Host(a.lease)...)
		for k := range distinct(t, "a", host) {
			owner[k] = "a"
		}
		ids := s.Peers()
		if len(ids) > 1 {
			several++
		}
		for _, id := range ids {
			peer, ok := s.Peer(id)
			require.True(t, ok)
			objects, err := a.Peer(a.lease, peer)
			peers++
			if err != nil {
				failed++
			}
			for k := range distinct(t, id, objects) {
				require.NotContains(t, owner, k, "%s is wanted for %s and for %s:\n%s", k, owner[k], id, text(objects))
				owner[k] = id
			}
		}
	}
	t.Logf("%d peers, of which %d lack a family, in %d clusters, %d with several; %d records refused", peers, failed, clusters, several, refused)
	require.Greater(t, several, clusters/4, "the universe refuses too much to say anything")
	require.Greater(t, refused, clusters)
	require.Positive(t, failed)
	require.Less(t, failed, peers)
}

// distinct requires that no two different objects have one key.
func distinct(t *testing.T, of string, objects []backend.Object) backend.State {
	t.Helper()
	state := backend.State{}
	for _, o := range objects {
		if other, twice := state[o.Key()]; twice {
			require.Equal(t, other, o, "both for %s", of)
		}
		state[o.Key()] = o
	}
	return state
}

// universe draws from pools so small that records clash.
type universe struct{ *rand.Rand }

func pick[T any](u universe, from ...T) T { return from[u.IntN(len(from))] }

func (u universe) records(t *testing.T, cfg subnet.Config) []subnet.Record {
	t.Helper()
	var records []subnet.Record
	for i := range 1 + u.IntN(8) {
		var l subnet.Lease
		if u.IntN(2) == 0 {
			l = u.flannel()
		} else {
			l = u.twill(t, cfg)
		}
		records = append(records, subnet.Record{Key: fmt.Sprint(i), Lease: l, Created: int64(u.IntN(4))})
	}
	return records
}

// twill is a sound node that may have what another has.
func (u universe) twill(t *testing.T, cfg subnet.Config) subnet.Lease {
	t.Helper()
	n := 1 + u.IntN(6)
	families := pick(u, []int{4}, []int{6}, []int{4, 6})
	l := newNode(t, cfg, underlay(addresses(n, families)...), pick(u, "a", "b", "c", "d"), byte(1+u.IntN(6))).lease
	return l
}

// flannel is a record of which every part may be wrong.
func (u universe) flannel() subnet.Lease {
	l := subnet.Lease{Node: pick(u, "", "", "", "b"), BackendType: pick(u, "vxlan", "vxlan", "vxlan", "vxlan", "alloc", "")}
	n := byte(1 + u.IntN(6))
	for _, f := range subnet.Families {
		if u.IntN(4) > 0 {
			p := subnets(n)[f]
			p = netip.PrefixFrom(p.Addr(), p.Bits()+pick(u, 0, 0, 0, -1, 1, -8, -16, f.Bits()-p.Bits())).Masked()
			l.Subnets[f] = p
		}
		if u.IntN(4) > 0 {
			l.PublicIPs[f] = pick(u,
				netip.MustParseAddr(addresses(int(n), []int{4, 6})[f]),
				netip.MustParseAddr(addresses(1+u.IntN(12), []int{4, 6})[f]),
				subnets(n)[f].Addr().Next())
		}
		switch u.IntN(8) {
		case 0:
		case 1:
			l.BackendData[f] = pick(u, "{}", "null", `{"VNI":2,"VtepMAC":"aa:bb:cc:00:00:01"}`, `{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}`)
		default:
			l.BackendData[f] = vxlan.Data{VNI: 1, VtepMAC: subnet.MAC{0xaa, 0xbb, 0xcc, 0, 0, pick(u, n, byte(1+u.IntN(6)))}}.Encode()
		}
	}
	return l
}
