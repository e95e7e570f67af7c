package subnet

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is packed comes out as it was.
func TestPacked(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 40_000)
	v4, v6 := netip.MustParseAddr("192.168.64.3"), netip.MustParseAddr("fd00::3")
	full := Record{
		Key: "key", Invalid: "why", Created: 1, Modified: -1, Reserved: true,
		Lease: Lease{
			Node: "n", MachineID: "m", BackendType: "vxlan", BackendData: PerFamily[string]{"{}", `{"a":1}`}, Extra: `{"b":2}`,
			Subnets:   PerFamily[netip.Prefix]{netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("fd00:5::/48")},
			PublicIPs: PerFamily[netip.Addr]{v4, v6}, Sources: PerFamily[netip.Addr]{v4.Next(), v6.Next()},
		},
	}
	seen := map[string]Record{}
	for _, edit := range []func(*Record){
		func(*Record) {},
		func(r *Record) { *r = Record{} },
		func(r *Record) { r.Key = long },
		func(r *Record) { r.Key = "" },
		func(r *Record) { r.Invalid = long[:127] },
		func(r *Record) { r.Invalid = long[:128] },
		func(r *Record) { r.Reserved = false },
		func(r *Record) { r.Lease.BackendData = PerFamily[string]{IPv6: long} },
		func(r *Record) { r.Lease.Subnets = PerFamily[netip.Prefix]{} },
		func(r *Record) { r.Lease.Subnets[IPv4] = netip.MustParsePrefix("0.0.0.0/0") },
		func(r *Record) { r.Lease.Subnets[IPv6] = netip.MustParsePrefix("::1/128") },
		func(r *Record) { r.Lease.PublicIPs = PerFamily[netip.Addr]{IPv6: v6} },
		func(r *Record) { r.Lease.PublicIPs = PerFamily[netip.Addr]{IPv4: v6, IPv6: v4} },
		func(r *Record) { r.Lease.Sources = PerFamily[netip.Addr]{IPv4: v4} },
		func(r *Record) { r.Lease.Node, r.Lease.MachineID = "", "nm" },
	} {
		want := full
		edit(&want)
		form := string(appendPacked(nil, &want))
		got := packed(form).record(want.Created, want.Modified)
		require.Equal(t, want, got)
		require.Equal(t, want.Key, packed(form).key())
		require.NotContains(t, seen, form, "%+v", seen[form])
		seen[form] = want
	}
}
