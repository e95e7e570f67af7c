package subnet_test

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// requireTellable checks that an error is fit for a log whatever the input:
// one line, plain, and not long.
func requireTellable(t *testing.T, err error) {
	t.Helper()
	require.Less(t, len(err.Error()), 600)
	for _, r := range err.Error() {
		require.True(t, unicode.IsPrint(r), "%q", err)
	}
}

// configDocument writes a config as net-conf.json.
func configDocument(t *testing.T, c subnet.Config) []byte {
	t.Helper()
	b := map[string]any{"Type": c.Backend.Type}
	if v := c.Backend.VXLAN; c.Backend.Type == subnet.BackendVXLAN {
		b["VNI"], b["Port"], b["MTU"] = v.VNI, v.Port, v.MTU
		b["GBP"], b["Learning"], b["DirectRouting"] = v.GBP, v.Learning, v.DirectRouting
	}
	doc := map[string]any{
		"EnableNFTables": map[subnet.Choice]any{subnet.Yes: true, subnet.No: false}[c.EnableNFTables],
		"MasqueradeIPv4": c.Masquerade[subnet.IPv4], "MasqueradeIPv6": c.Masquerade[subnet.IPv6],
		"NonMasqueradeCIDRs": c.NonMasquerade.All(), "Backend": b,
	}
	for f, r := range c.Networks {
		name := []string{"", "IPv6"}[f]
		doc["Enable"+subnet.Family(f).String()] = r.Enabled()
		if r.Enabled() {
			doc[name+"Network"], doc[name+"SubnetLen"] = r.Network, r.SubnetLen
			doc[name+"SubnetMin"], doc[name+"SubnetMax"] = r.Min, r.Max
		}
	}
	out, err := json.Marshal(doc)
	require.NoError(t, err)
	return out
}

func FuzzParseConfig(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := subnet.ParseConfig(b)
		if err != nil {
			requireTellable(t, err)
			require.Zero(t, c)
			return
		}
		again, err := subnet.ParseConfig(configDocument(t, c))
		require.NoError(t, err)
		require.Equal(t, c, again)

		require.True(t, c.Networks[subnet.IPv4].Enabled() || c.Networks[subnet.IPv6].Enabled())
		got, err := subnet.Allocate(c, "n1", none, slices.Values(list()))
		require.NoError(t, err)
		for f, r := range c.Networks {
			if !r.Enabled() {
				require.Zero(t, r)
				require.False(t, got[f].IsValid())
				continue
			}
			require.Equal(t, subnet.Family(f), subnet.FamilyOf(r.Network.Addr()))
			require.Equal(t, r.Network.Masked(), r.Network)
			require.GreaterOrEqual(t, r.SubnetLen, r.Network.Bits()+2)
			require.LessOrEqual(t, r.SubnetLen, subnet.Family(f).Bits()-2)
			for _, p := range []netip.Prefix{got[f], netip.PrefixFrom(r.Min, r.SubnetLen), netip.PrefixFrom(r.Max, r.SubnetLen)} {
				require.True(t, r.Contains(p), "%s of %+v", p, r)
			}
			require.LessOrEqual(t, r.Capacity().Cmp(new(big.Int).Lsh(big.NewInt(1), uint(r.SubnetLen-r.Network.Bits()))), 0)
			require.Positive(t, r.Capacity().Sign())
		}
		require.NoError(t, c.Covers(subnet.Lease{Subnets: got}))

		switch v := c.Backend.VXLAN; c.Backend.Type {
		case subnet.BackendVXLAN:
			require.True(t, v.VNI > 0 && v.VNI < 1<<24 && v.Port > 0 && (v.MTU == 0 || v.MTU >= 626 && v.MTU <= 65535), "%+v", v)
		case subnet.BackendAlloc:
			require.Zero(t, v)
		default:
			t.Fatalf("backend type %q", c.Backend.Type)
		}
	})
}

// flannelKey is what flannel's reader takes for a key.
var flannelKey = regexp.MustCompile(`^\d+\.\d+\.\d+\.\d+-\d+(&[a-f\d:]+-\d+)?$`)

func FuzzDecodeKey(f *testing.F) {
	f.Fuzz(func(t *testing.T, key string) {
		subnets, err := subnet.DecodeKey(key)
		if err != nil {
			requireTellable(t, err)
			require.Zero(t, subnets)
			return
		}
		require.NotZero(t, subnets)
		for f, p := range subnets {
			if p.IsValid() {
				require.Equal(t, subnet.Family(f), subnet.FamilyOf(p.Addr()))
				require.Equal(t, p.Masked(), p)
			}
		}
		written := subnet.EncodeKey(subnets)
		require.Regexp(t, flannelKey, written)
		again, err := subnet.DecodeKey(written)
		require.NoError(t, err)
		require.Equal(t, subnets, again)
	})
}

func FuzzDecodeValue(f *testing.F) {
	subnets := prefixes("10.5.52.0/24", "fd00:5:0:52::/64")
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := subnet.DecodeValue(subnets, b)
		require.Equal(t, subnets, l.Subnets)
		for f, ip := range l.PublicIPs {
			if ip.IsValid() {
				require.Equal(t, subnet.Family(f), subnet.FamilyOf(ip))
				require.False(t, ip.IsMulticast() || ip.IsLoopback() || ip.IsUnspecified() || ip.Is4In6() || ip.Zone() != "")
			}
		}
		for _, name := range []string{l.Node, l.MachineID, l.BackendType} {
			require.LessOrEqual(t, len(name), 253)
			require.False(t, strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' }))
		}
		if err != nil {
			requireTellable(t, err)
			return
		}
		written, err := subnet.EncodeValue(l)
		require.NoError(t, err)
		again, err := subnet.DecodeValue(subnets, written)
		require.NoError(t, err)
		require.Equal(t, l, again)
		rewritten, err := subnet.EncodeValue(again)
		require.NoError(t, err)
		require.Equal(t, string(written), string(rewritten))

		// What we write flannel reads, and takes for the same.
		var v flannelValue
		require.NoError(t, json.Unmarshal(written, &v))
		require.Equal(t, fmt.Sprint(l.BackendType, l.BackendData), fmt.Sprint(v.BackendType, []string{string(v.BackendData), string(v.BackendV6Data)}))
		require.Equal(t, l.PublicIPs[subnet.IPv4].IsValid(), !v.PublicIP.IsUnspecified())
		if l.PublicIPs[subnet.IPv6].IsValid() {
			require.Equal(t, l.PublicIPs[subnet.IPv6], v.PublicIPv6.Addr)
		} else {
			require.Nil(t, v.PublicIPv6)
		}
	})
}
