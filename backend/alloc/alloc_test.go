package alloc_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/alloc"
	"github.com/twill-net/twill/subnet"
)

const (
	overlayV4   = `{"Network": "10.244.0.0/16", "Backend": {"Type": "alloc"}}`
	overlayV6   = `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "alloc"}}`
	overlayDual = `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "alloc"}}`
)

func config(t *testing.T, overlay string) subnet.Config {
	t.Helper()
	c, err := subnet.ParseConfig([]byte(overlay))
	require.NoError(t, err)
	return c
}

func TestPlanner(t *testing.T) {
	t.Parallel()
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	only4, only6, both := subnet.PerFamily[netip.Addr]{four}, subnet.PerFamily[netip.Addr]{subnet.IPv6: six}, subnet.PerFamily[netip.Addr]{four, six}
	for _, tt := range []struct {
		name, overlay string
		public, want  subnet.PerFamily[netip.Addr]
		mtu           subnet.PerFamily[int]
	}{
		{name: "IPv4 over IPv4", overlay: overlayV4, public: only4, want: only4, mtu: subnet.PerFamily[int]{1500, 0}},
		{name: "IPv4 over IPv6", overlay: overlayV4, public: only6, want: only6, mtu: subnet.PerFamily[int]{1500, 0}},
		{name: "IPv4 over both", overlay: overlayV4, public: both, want: only4, mtu: subnet.PerFamily[int]{1500, 0}},
		{name: "IPv6 over both", overlay: overlayV6, public: both, want: only6, mtu: subnet.PerFamily[int]{0, 1500}},
		{name: "IPv6 over IPv4", overlay: overlayV6, public: only4, want: only4, mtu: subnet.PerFamily[int]{0, 1500}},
		{name: "both over both", overlay: overlayDual, public: both, want: both, mtu: subnet.PerFamily[int]{1500, 1500}},
		{name: "both over IPv4", overlay: overlayDual, public: only4, want: only4, mtu: subnet.PerFamily[int]{1500, 1500}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, tt.overlay)
			p := alloc.New(cfg, backend.Underlay{Interface: "eth0", MTU: 1500, Addresses: tt.public, PublicIPs: tt.public})
			require.Equal(t, tt.mtu, p.MTU())
			got := p.Announce(subnet.Claim{Node: "a", Config: cfg, BackendType: "vxlan", PublicIPs: both, BackendData: subnet.PerFamily[string]{"{}", "{}"}})
			require.Equal(t, subnet.Claim{Node: "a", Config: cfg, BackendType: "alloc", PublicIPs: tt.want}, got)
		})
	}
}

func TestNothingIsPlanned(t *testing.T) {
	t.Parallel()
	p := alloc.New(config(t, overlayV4), backend.Underlay{Interface: "eth0", MTU: 1500})
	own := subnet.Lease{Node: "a", Subnets: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")}}
	peer := subnet.Lease{Node: "b", Subnets: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.2.0/24")}}
	require.Empty(t, p.Host(own))
	objects, err := p.Peer(own, peer)
	require.NoError(t, err)
	require.Empty(t, objects)
}

func TestCheck(t *testing.T) {
	t.Parallel()
	p := alloc.New(config(t, overlayV4), backend.Underlay{Interface: "eth0", MTU: 1500})
	claims, err := p.Check(subnet.Lease{BackendType: "alloc", Subnets: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.2.0/24")}})
	require.NoError(t, err)
	require.Empty(t, claims)
	_, err = p.Check(subnet.Lease{BackendType: "alloc", Subnets: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.245.2.0/24")}})
	require.EqualError(t, err, "its subnet 10.245.2.0/24 is not in the network 10.244.0.0/16")
}
