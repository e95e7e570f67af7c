package subnet_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

func TestParseMAC(t *testing.T) {
	t.Parallel()
	want := subnet.MAC{0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}
	for _, s := range []string{"aa:bb:cc:dd:ee:ff", "AA:BB:CC:DD:EE:FF", "aa-bb-cc-dd-ee-ff", "aabb.ccdd.eeff"} {
		m, err := subnet.ParseMAC(s)
		require.NoError(t, err)
		require.Equal(t, want, m)
		require.Equal(t, "aa:bb:cc:dd:ee:ff", m.String())
	}
	for _, s := range []string{"", "aa:bb:cc:dd:ee", "aa:bb:cc:dd:ee:ff:00:11", "0a:bb:cc:dd:ee:fg"} {
		_, err := subnet.ParseMAC(s)
		require.EqualError(t, err, `"`+s+`" is not a MAC address of the form aa:bb:cc:dd:ee:ff`)
	}
	_, err := subnet.ParseMAC(strings.Repeat("a", 1000))
	require.EqualError(t, err, `"`+strings.Repeat("a", 64)+`…" is not a MAC address of the form aa:bb:cc:dd:ee:ff`)

	for s, unicast := range map[string]bool{
		"00:00:00:00:00:00": false, "ff:ff:ff:ff:ff:ff": false, "01:00:5e:00:00:01": false, "33:33:00:00:00:01": false,
		"02:00:00:00:00:01": true, "00:00:00:00:00:01": true,
	} {
		m, err := subnet.ParseMAC(s)
		require.NoError(t, err)
		require.Equal(t, unicast, m.IsUnicast(), s)
	}
	b, err := json.Marshal(struct{ M subnet.MAC }{want})
	require.NoError(t, err)
	require.Equal(t, `{"M":"aa:bb:cc:dd:ee:ff"}`, string(b))
	var back struct{ M subnet.MAC }
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, want, back.M)
}

func TestFamilies(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"IPv4", "IPv6"}, []string{subnet.IPv4.String(), subnet.IPv4.Other().String()})
	require.Equal(t, 32, subnet.IPv4.Bits())
	require.Equal(t, 128, subnet.IPv6.Bits())
	require.Equal(t, subnet.IPv4, subnet.FamilyOf(addr("10.0.0.1")))
	require.Equal(t, subnet.IPv4, subnet.FamilyOf(addr("::ffff:10.0.0.1")))
	require.Equal(t, subnet.IPv6, subnet.FamilyOf(addr("fd00::1")))
}

func TestLeaseID(t *testing.T) {
	t.Parallel()
	ips := subnet.PerFamily[netip.Addr]{addr("192.168.64.3"), addr("fd00::3")}
	require.Equal(t, "n1", subnet.Lease{Node: "n1", PublicIPs: ips}.ID())
	require.Equal(t, "192.168.64.3", subnet.Lease{PublicIPs: ips}.ID())
	require.Equal(t, "fd00::3", subnet.Lease{PublicIPs: subnet.PerFamily[netip.Addr]{{}, ips[1]}}.ID())
	require.Empty(t, subnet.Lease{}.ID())
}

func TestAnnouncement(t *testing.T) {
	t.Parallel()
	c := subnet.Claim{
		Node: "n1", MachineID: "5e1f", PublicIPs: subnet.PerFamily[netip.Addr]{addr("192.168.64.3")},
		BackendType: "vxlan", BackendData: subnet.PerFamily[string]{vxlanData}, Previous: prefixes("10.5.1.0/24", ""),
	}
	require.Equal(t, subnet.Lease{
		Node: "n1", MachineID: "5e1f", Subnets: prefixes("10.5.52.0/24", ""), PublicIPs: c.PublicIPs,
		BackendType: "vxlan", BackendData: c.BackendData,
	}, c.Announcement(prefixes("10.5.52.0/24", "")))
}
