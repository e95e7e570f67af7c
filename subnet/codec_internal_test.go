package subnet

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the short way reads, the long way reads as the same.
func FuzzDecodeUsual(f *testing.F) {
	for _, doc := range []string{
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1}}`,
		`{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::3","BackendType":"vxlan","BackendV6Data":{"VNI":1},"NodeName":"a","MachineID":"m"}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"SourceIP":"10.0.2.15","SourceIPv6":"fd02::15"}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":"fd00::3","BackendData":null,"NodeName":"a\u0020b"}`,
		`{"PublicIP":"::1","PublicIPv6":"::","BackendType":"<vxlan>"}`,
	} {
		f.Add([]byte(doc))
	}
	subnets := PerFamily[netip.Prefix]{netip.MustParsePrefix("10.5.52.0/24")}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, ok := decodeUsual(subnets, b)
		if !ok {
			return
		}
		want, err := decodeAny(subnets, b)
		require.NoError(t, err)
		require.Equal(t, want, l)
	})
}

// The short way is taken for all that we write ourselves.
func TestDecodeUsual(t *testing.T) {
	t.Parallel()
	subnets := PerFamily[netip.Prefix]{netip.MustParsePrefix("10.5.52.0/24")}
	v4, v6 := netip.MustParseAddr("192.168.64.3"), netip.MustParseAddr("fd00::3")
	for _, l := range []Lease{
		{},
		{Node: "a", PublicIPs: PerFamily[netip.Addr]{v4}, BackendType: "vxlan", BackendData: PerFamily[string]{`{"VNI":1}`}},
		{Node: "a", MachineID: "m", PublicIPs: PerFamily[netip.Addr]{IPv6: v6}, BackendType: "vxlan", BackendData: PerFamily[string]{IPv6: `{"VNI":1}`}},
		{Node: "<a&b>", PublicIPs: PerFamily[netip.Addr]{v4, v6}, Sources: PerFamily[netip.Addr]{v4, v6}, BackendType: "alloc"},
	} {
		l.Subnets = subnets
		b, err := EncodeValue(l)
		require.NoError(t, err)
		got, ok := decodeUsual(subnets, b)
		require.True(t, ok, "%s", b)
		require.Equal(t, l, got)
	}
}

// What is not spelled as usual is left to the long way.
func TestDecodeUsualLeaves(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{
		``, `{}`, `{"PublicIP":"192.168.64.3"}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null} `,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"NodeName":"a","Later":1}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"MachineID":"m","NodeName":"a"}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"NodeName":"a b"}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"NodeName":"\u0061"}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"NodeName":"ä"}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendData":null}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendData":{"VNI": 1}}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendData":{"VNI":}}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendData":{"VNI":1}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendData":{"a":"}"]}`,
		`{"PublicIP":"::ffff:192.168.64.3","PublicIPv6":null}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":"fe80::1%eth0"}`,
		`{"PublicIP":"192.168.64.3","PublicIPv6":"192.168.64.3"}`,
		`{"PublicIP":"127.0.0.1","PublicIPv6":null}`,
	} {
		_, ok := decodeUsual(PerFamily[netip.Prefix]{}, []byte(doc))
		require.False(t, ok, doc)
	}
}
