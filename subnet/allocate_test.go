package subnet_test

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// only returns the config of one family.
func only(t *testing.T, network string, length int, first, last string) subnet.Config {
	t.Helper()
	doc := fmt.Sprintf(`{"Network": %q, "SubnetLen": %d, "SubnetMin": %q, "SubnetMax": %q}`, network, length, first, last)
	if prefix(network).Addr().Is6() {
		doc = fmt.Sprintf(`{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": %q, "IPv6SubnetLen": %d, "IPv6SubnetMin": %q, "IPv6SubnetMax": %q}`,
			network, length, first, last)
	}
	c, err := subnet.ParseConfig([]byte(doc))
	require.NoError(t, err)
	return c
}

func list(ps ...string) (out []netip.Prefix) {
	for _, p := range ps {
		out = append(out, prefix(p))
	}
	return out
}

var none subnet.PerFamily[netip.Prefix]

// Each node gets one, none overlap, the last finds the range exhausted.
func TestAllocateLeasesAll(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		network     string
		length      int
		first, last string
		capacity    int
	}{
		{"10.244.0.0/16", 24, "10.244.1.0", "10.244.50.0", 50},
		{"10.244.0.0/16", 24, "10.244.7.0", "10.244.7.0", 1},
		{"10.244.0.0/16", 24, "10.244.0.0", "10.244.255.0", 256},
		{"10.244.0.0/28", 30, "10.244.0.0", "10.244.0.12", 4},
		{"255.0.0.0/24", 30, "255.0.0.240", "255.0.0.252", 4},
		{"fd00::/124", 126, "fd00::", "fd00::c", 4},
		{"fd00::/48", 64, "fd00:0:0:ffce::", "fd00:0:0:ffff::", 50},
	} {
		cfg := only(t, c.network, c.length, c.first, c.last)
		f := subnet.FamilyOf(prefix(c.network).Addr())
		r := cfg.Networks[f]
		require.Equal(t, big.NewInt(int64(c.capacity)), r.Capacity(), c.network)
		var taken []netip.Prefix
		for i := range c.capacity {
			got, err := subnet.Allocate(cfg, fmt.Sprintf("node-%d", i), none, slices.Values(taken))
			require.NoError(t, err, c.network)
			require.True(t, r.Contains(got[f]), "%s is not of %+v", got[f], r)
			require.NotContains(t, taken, got[f])
			require.False(t, got[f.Other()].IsValid())
			taken = append(taken, got[f])
		}
		_, err := subnet.Allocate(cfg, "one-more", none, slices.Values(taken))
		require.ErrorIs(t, err, subnet.ErrExhausted)
		require.EqualError(t, err, fmt.Sprintf(
			"allocating an %s subnet of /%d in %s: no free subnet is left: all %d are held; release some or widen the network",
			f, c.length, c.network, c.capacity))

		// Whichever becomes free is found, by every node.
		for i := range taken {
			rest := slices.Delete(slices.Clone(taken), i, i+1)
			got, err := subnet.Allocate(cfg, "one-more", none, slices.Values(rest))
			require.NoError(t, err)
			require.Equal(t, taken[i], got[f])
		}
	}
}

func TestAllocateIsDecidedByTheName(t *testing.T) {
	t.Parallel()
	cfg := only(t, "10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0")
	seen := map[netip.Prefix]bool{}
	const nodes = 1000
	for i := range nodes {
		name := fmt.Sprintf("node-%d", i)
		a, err := subnet.Allocate(cfg, name, none, slices.Values(list()))
		require.NoError(t, err)
		b, err := subnet.Allocate(cfg, name, none, slices.Values(list("192.168.0.0/24")))
		require.NoError(t, err)
		require.Equal(t, a, b)
		seen[a[subnet.IPv4]] = true
	}
	// Of 1000 in 65535 about 8 meet by chance; nodes that start at once
	// rarely want the same.
	require.Greater(t, len(seen), nodes-50)
}

func TestAllocatePrefersThePrevious(t *testing.T) {
	t.Parallel()
	cfg := only(t, "10.244.0.0/16", 24, "10.244.1.0", "10.244.99.0")
	other, err := subnet.Allocate(cfg, "n1", none, slices.Values(list()))
	require.NoError(t, err)
	for _, c := range []struct {
		name, previous string
		taken          []netip.Prefix
		kept           bool
	}{
		{"free", "10.244.42.0/24", list("10.244.41.0/24", "10.244.43.0/24"), true},
		{"the first", "10.244.1.0/24", nil, true},
		{"the last", "10.244.99.0/24", nil, true},
		{"beside others' of another length", "10.244.42.0/24", list("10.244.43.0/26", "10.244.40.0/23"), true},
		{"held", "10.244.42.0/24", list("10.244.42.0/24"), false},
		{"a part is held", "10.244.42.0/24", list("10.244.42.192/28"), false},
		{"within what is held", "10.244.42.0/24", list("10.244.40.0/22"), false},
		{"below SubnetMin", "10.244.0.0/24", nil, false},
		{"above SubnetMax", "10.244.100.0/24", nil, false},
		{"of another length", "10.244.42.0/25", nil, false},
		{"of another network", "10.245.42.0/24", nil, false},
		{"not aligned", "10.244.42.1/24", nil, false},
	} {
		got, err := subnet.Allocate(cfg, "n1", prefixes(c.previous, ""), slices.Values(c.taken))
		require.NoError(t, err, c.name)
		if c.kept {
			require.Equal(t, prefixes(c.previous, ""), got, c.name)
		} else {
			require.Equal(t, other, got, c.name)
		}
	}
}

func TestAllocatePassesWhatIsHeld(t *testing.T) {
	t.Parallel()
	cfg := only(t, "10.244.0.0/16", 24, "10.244.0.0", "10.244.255.0")
	for _, c := range []struct {
		name  string
		taken []netip.Prefix
		want  string // "" for exhausted
	}{
		{"larger ones", list("10.244.0.0/17", "10.244.128.0/18", "10.244.192.0/19", "10.244.240.0/20", "10.244.224.0/21", "10.244.232.0/22", "10.244.236.0/23", "10.244.239.0/24"), "10.244.238.0/24"},
		{"one within another", list("10.244.0.0/17", "10.244.3.0/24", "10.244.3.64/26", "10.244.128.0/18", "10.244.192.0/18"), ""},
		{"the network itself", list("10.244.0.0/16"), ""},
		{"all but the first", append(list("10.244.128.0/17", "10.244.64.0/18", "10.244.32.0/19", "10.244.16.0/20", "10.244.8.0/21", "10.244.4.0/22"), list("10.244.2.0/23", "10.244.1.0/24")...), "10.244.0.0/24"},
		{"smaller ones", list("10.244.0.0/17", "10.244.128.0/18", "10.244.192.0/19", "10.244.240.0/20", "10.244.224.0/21", "10.244.232.0/22", "10.244.236.0/23", "10.244.239.8/30", "10.244.238.255/32"), ""},
		{"not masked", list("10.244.77.5/16"), ""},
	} {
		for i := range 20 {
			got, err := subnet.Allocate(cfg, fmt.Sprint(i), none, slices.Values(c.taken))
			if c.want == "" {
				require.ErrorIs(t, err, subnet.ErrExhausted, c.name)
			} else {
				require.NoError(t, err, c.name)
				require.Equal(t, prefixes(c.want, ""), got, c.name)
			}
		}
	}

	// What cannot be a lease of this network takes nothing from anyone.
	want, err := subnet.Allocate(cfg, "n1", none, slices.Values(list()))
	require.NoError(t, err)
	for _, p := range []netip.Prefix{{}, prefix("0.0.0.0/0"), prefix("10.0.0.0/8"), prefix("10.245.0.0/16"), prefix("::/0"), prefix("fd00::/64")} {
		got, err := subnet.Allocate(cfg, "n1", none, slices.Values([]netip.Prefix{p}))
		require.NoError(t, err)
		require.Equal(t, want, got, "%s", p)
	}
}

// 2^64 subnets and more: an index of 64 bits would overflow.
func TestAllocateInImmenseRanges(t *testing.T) {
	t.Parallel()
	bits := func(n uint) *big.Int { return new(big.Int).Lsh(big.NewInt(1), n) }
	for _, c := range []struct {
		network     string
		length      int
		first, last string
		capacity    *big.Int
	}{
		{"fd00::/48", 64, "fd00::", "fd00:0:0:ffff::", bits(16)},
		{"fd00::/56", 120, "fd00::", "fd00:0:0:ff:ffff:ffff:ffff:ff00", bits(64)},
		{"fd00::/56", 121, "fd00::", "fd00:0:0:ff:ffff:ffff:ffff:ff80", bits(65)},
		{"fd00::/8", 126, "fd00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffc", bits(118)},
		{"8000::/2", 126, "8000::", "bfff:ffff:ffff:ffff:ffff:ffff:ffff:fffc", bits(124)},
	} {
		cfg := only(t, c.network, c.length, c.first, c.last)
		r := cfg.Networks[subnet.IPv6]
		require.Equal(t, c.capacity, r.Capacity(), c.network)
		seen := map[netip.Prefix]bool{}
		var taken []netip.Prefix
		for i := range 100 {
			got, err := subnet.Allocate(cfg, fmt.Sprintf("node-%d", i), none, slices.Values(taken))
			require.NoError(t, err)
			p := got[subnet.IPv6]
			require.True(t, r.Contains(p), "%s is not of %+v", p, r)
			require.False(t, seen[p])
			seen[p] = true
			taken = append(taken, p)
		}
		// The last subnet can be kept, and one with only it free is found at
		// once though the others are not counted one by one.
		last := netip.PrefixFrom(addr(c.last), c.length)
		got, err := subnet.Allocate(cfg, "n1", subnet.PerFamily[netip.Prefix]{{}, last}, slices.Values(taken))
		require.NoError(t, err)
		require.Equal(t, last, got[subnet.IPv6])

		got, err = subnet.Allocate(cfg, "n1", none, slices.Values(allBut(r.Network, last)))
		require.NoError(t, err)
		require.Equal(t, last, got[subnet.IPv6])
		_, err = subnet.Allocate(cfg, "n1", none, slices.Values(append(allBut(r.Network, last), last)))
		require.ErrorIs(t, err, subnet.ErrExhausted)
	}
}

// allBut returns the prefixes that fill network but for one within it.
func allBut(network, one netip.Prefix) (out []netip.Prefix) {
	for bits := network.Bits() + 1; bits <= one.Bits(); bits++ {
		b := netip.PrefixFrom(one.Addr(), bits).Masked().Addr().As16()
		b[(bits-1)/8] ^= 1 << (7 - (bits-1)%8)
		out = append(out, netip.PrefixFrom(netip.AddrFrom16(b), bits))
	}
	return out
}

func TestAllocateBothFamilies(t *testing.T) {
	t.Parallel()
	cfg, err := subnet.ParseConfig([]byte(`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00::/48"}`))
	require.NoError(t, err)
	previous := prefixes("10.244.3.0/24", "fd00:0:0:3::/64")
	got, err := subnet.Allocate(cfg, "n1", previous, slices.Values(list("fd00:0:0:3::/64")))
	require.NoError(t, err)
	require.Equal(t, previous[subnet.IPv4], got[subnet.IPv4], "a family keeps its own")
	require.True(t, cfg.Networks[subnet.IPv6].Contains(got[subnet.IPv6]))
	require.NotEqual(t, previous[subnet.IPv6], got[subnet.IPv6])

	// taken may be read once only.
	ps := list("fd00:0:0:3::/64", "10.244.3.0/24")
	once := func(yield func(netip.Prefix) bool) {
		for ; len(ps) > 0; ps = ps[1:] {
			if !yield(ps[0]) {
				return
			}
		}
	}
	got, err = subnet.Allocate(cfg, "n1", previous, once)
	require.NoError(t, err)
	require.NotEqual(t, previous[subnet.IPv4], got[subnet.IPv4])
	require.NotEqual(t, previous[subnet.IPv6], got[subnet.IPv6])

	_, err = subnet.Allocate(cfg, "n1", previous, slices.Values(list("fd00::/48")))
	require.EqualError(t, err, "allocating an IPv6 subnet of /64 in fd00::/48: no free subnet is left: all 65535 are held; release some or widen the network")
}

// No address follows the last of all.
func TestAllocateAtTheEndOfAllAddresses(t *testing.T) {
	t.Parallel()
	for f, r := range []subnet.Range{
		span("255.255.255.0/24", 30, "255.255.255.248", "255.255.255.252"),
		span("ffff::/16", 126, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc"),
	} {
		var cfg subnet.Config
		cfg.Networks[f] = r
		last := netip.PrefixFrom(r.Max, r.SubnetLen)
		for i := range 10 {
			got, err := subnet.Allocate(cfg, fmt.Sprint(i), none, slices.Values([]netip.Prefix{last}))
			require.NoError(t, err)
			require.Equal(t, netip.PrefixFrom(r.Min, r.SubnetLen), got[f])
			_, err = subnet.Allocate(cfg, fmt.Sprint(i), none, slices.Values([]netip.Prefix{last, got[f]}))
			require.ErrorIs(t, err, subnet.ErrExhausted)
		}
	}
}

func TestCapacityOfNothing(t *testing.T) {
	t.Parallel()
	require.Zero(t, subnet.Range{}.Capacity().Sign())
	require.False(t, subnet.Range{}.Contains(prefix("10.244.3.0/24")))
}

func BenchmarkAllocate(b *testing.B) {
	cfg, err := subnet.ParseConfig([]byte(`{"Network": "10.0.0.0/8", "EnableIPv6": true, "IPv6Network": "fd00:0:0::/48"}`))
	require.NoError(b, err)
	var taken []netip.Prefix
	for i := range 20_000 {
		r := peerRecord(i)
		taken = append(taken, r.Lease.Subnets[:]...)
	}
	for b.Loop() {
		if _, err := subnet.Allocate(cfg, "n1", none, slices.Values(taken)); err != nil {
			b.Fatal(err)
		}
	}
}
