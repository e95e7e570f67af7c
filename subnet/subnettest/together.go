package subnettest

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd/acquire"
)

// many is how many nodes start at once.
const many = 50

// together lets nodes acquire at once and checks that none fails, that no two
// overlap, and that each is told what the store holds.
func together(t *testing.T, b Backend, claims []subnet.Claim) []subnet.Held {
	t.Helper()
	holders := make([]*Holding, len(claims))
	stores := make([]Store, len(claims))
	for i := range claims {
		stores[i] = b.Open(t)
	}
	for i, c := range claims {
		holders[i] = Hold(t, stores[i], c)
	}
	held := make([]subnet.Held, len(claims))
	for i, h := range holders {
		held[i] = h.Next(t)
		require.NoError(t, h.End(t))
		require.Empty(t, h.Held, "a lease once told stays")
	}
	for i, a := range held {
		r := find(t, b, a.Key)
		require.Equal(t, a.Lease, r.Lease)
		require.Equal(t, a.Created, r.Created)
		for _, b := range held[:i] {
			require.False(t, acquire.Overlap(a.Lease, b.Lease), "%s of %s and %s of %s", a.Key, a.Lease.Node, b.Key, b.Lease.Node)
		}
	}
	return held
}

func claims(t *testing.T, n int, raw string) []subnet.Claim {
	out := make([]subnet.Claim, n)
	for i := range out {
		out[i] = claim(t, raw, fmt.Sprintf("n%d", i), i+1)
	}
	return out
}

func togetherIPv4(t *testing.T, b Backend) {
	// As many subnets as nodes: 10.5.0.0 to 10.5.49.0.
	together(t, b, claims(t, many, `{"Network": "10.5.0.0/18", "SubnetMin": "10.5.0.0", "SubnetMax": "10.5.49.0"}`))
	require.Len(t, b.Records(t), many)
	err := Hold(t, b.Open(t), claim(t, `{"Network": "10.5.0.0/18", "SubnetMin": "10.5.0.0", "SubnetMax": "10.5.49.0"}`, "late", 200)).Err(t)
	require.ErrorIs(t, err, subnet.ErrExhausted)
}

func togetherDual(t *testing.T, b Backend) {
	// The families' subnets run out together, but pair up in any way.
	cs := claims(t, many, `{"Network": "10.5.0.0/18", "SubnetMin": "10.5.0.0", "SubnetMax": "10.5.49.0",
		"EnableIPv6": true, "IPv6Network": "fd00:5::/58", "IPv6SubnetMin": "fd00:5::", "IPv6SubnetMax": "fd00:5:0:31::"}`)
	for i := range cs {
		// Wanted by all in each family, by no two in both.
		cs[i].Previous = subnet.PerFamily[netip.Prefix]{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(i / 7), 0}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 5, 7: byte(i % 7)}), 64),
		}
	}
	together(t, b, cs)
	require.Len(t, b.Records(t), many)
}

func togetherIPv6(t *testing.T, b Backend) {
	together(t, b, claims(t, many, `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:5::/58", "IPv6SubnetMin": "fd00:5::", "IPv6SubnetMax": "fd00:5:0:31::"}`))
	require.Len(t, b.Records(t), many)
}

// Nodes that have not the same config yet write keys which do not show that
// they overlap.
func togetherOverlapping(t *testing.T, b Backend) {
	var cs []subnet.Claim
	for i := range 20 {
		raw := fmt.Sprintf(`{"Network": "10.5.0.0/20", "SubnetMin": "10.5.0.0", "SubnetLen": %d}`, 25+i%3)
		if i%2 == 1 {
			raw = dual
		}
		c := claim(t, raw, fmt.Sprintf("n%d", i), i+1)
		c.Previous[subnet.IPv6] = netip.MustParsePrefix("fd00:5:0:1::/64")
		c.Previous[subnet.IPv4] = netip.MustParsePrefix(fmt.Sprintf("10.5.1.0/%d", c.Config.Networks[subnet.IPv4].SubnetLen))
		cs = append(cs, c)
	}
	together(t, b, cs)
}

// Two processes of one node, as while one is replaced by the next.
func oneName(t *testing.T, b Backend) {
	for _, raw := range []string{wide, dual} {
		var wg sync.WaitGroup
		for range 8 {
			store := b.Open(t)
			wg.Go(func() {
				h := Hold(t, store, claim(t, raw, "n1", 1))
				h.Next(t)
				_ = h.End(t)
			})
		}
		wg.Wait()
		held := take(t, b, claim(t, raw, "n1", 1))
		require.Equal(t, held.Key, only(t, b).Key)
	}
}

// Nodes that come, release and come back share half as many subnets.
func togetherChurn(t *testing.T, b Backend) {
	const nodes, rounds, places = 8, 6, 4
	free := make(chan struct{}, places)
	for range places {
		free <- struct{}{}
	}
	var mu sync.Mutex
	taken := map[netip.Prefix]string{}
	g, ctx := errgroup.WithContext(t.Context())
	for i := range nodes {
		c := claim(t, `{"Network": "10.5.0.0/22", "SubnetMin": "10.5.0.0"}`, fmt.Sprintf("n%d", i), i+1)
		store := b.Open(t)
		g.Go(func() error {
			for range rounds {
				select {
				case <-free:
				case <-ctx.Done():
					return ctx.Err()
				}
				h := Hold(t, store, c)
				var p netip.Prefix
				select {
				case held := <-h.Held:
					p = held.Lease.Subnets[subnet.IPv4]
				case err := <-h.Done:
					return fmt.Errorf("%s: Hold has ended: %w", c.Node, err)
				}
				mu.Lock()
				other := taken[p]
				taken[p] = c.Node
				mu.Unlock()
				if other != "" {
					return fmt.Errorf("%s was given %s, which %s holds", c.Node, p, other)
				}
				h.Stop()
				if err := <-h.Done; err != nil {
					return err
				}
				mu.Lock()
				delete(taken, p)
				mu.Unlock()
				if err := store.Release(ctx); err != nil {
					return err
				}
				free <- struct{}{}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	require.Empty(t, b.Records(t))
}
