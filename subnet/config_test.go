package subnet_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

func TestCIDRs(t *testing.T) {
	t.Parallel()
	list := []netip.Prefix{prefix("192.0.2.0/24"), prefix("2001:db8::/32"), prefix("0.0.0.0/0")}
	require.Equal(t, list, subnet.NewCIDRs(list...).All())
	require.Equal(t, "192.0.2.0/24,2001:db8::/32,0.0.0.0/0", subnet.NewCIDRs(list...).String())
	require.Empty(t, subnet.CIDRs{}.All())
	require.Equal(t, subnet.CIDRs{}, subnet.NewCIDRs())
	require.NotEqual(t, subnet.NewCIDRs(list[:1]...), subnet.NewCIDRs(list[:2]...))
}

// A lease does not depend on the firewall.
func TestForLease(t *testing.T) {
	t.Parallel()
	plain, err := subnet.ParseConfig([]byte(`{"Network": "10.244.0.0/16"}`))
	require.NoError(t, err)
	other, err := subnet.ParseConfig([]byte(`{"Network": "10.244.0.0/16", "EnableNFTables": false, "MasqueradeIPv4": false, "NonMasqueradeCIDRs": ["192.0.2.0/24"]}`))
	require.NoError(t, err)
	require.NotEqual(t, plain, other)
	require.Equal(t, plain.ForLease(), other.ForLease())
	another, err := subnet.ParseConfig([]byte(`{"Network": "10.244.0.0/16", "Backend": {"VNI": 2}}`))
	require.NoError(t, err)
	require.NotEqual(t, plain.ForLease(), another.ForLease())
}
