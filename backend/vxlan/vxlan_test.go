package vxlan_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/vxlan"
	"github.com/twill-net/twill/subnet"
)

// The overlays of the tests. Each is the inside of a JSON object.
const (
	overlayV4   = `"Network": "10.244.0.0/16"`
	overlayV6   = `"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/48"`
	overlayDual = `"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48"`
)

// config is the network config of an overlay; options are the inside of its
// Backend object.
func config(t testing.TB, overlay, options string) subnet.Config {
	t.Helper()
	backendType := `"Type": "vxlan"`
	if options != "" {
		backendType += ", " + options
	}
	c, err := subnet.ParseConfig([]byte(`{` + overlay + `, "Backend": {` + backendType + `}}`))
	require.NoError(t, err)
	return c
}

// underlay is that of an interface eth0 with an MTU of 1500 and the addresses.
func underlay(addresses ...string) backend.Underlay {
	u := backend.Underlay{Interface: "eth0", MTU: 1500}
	for _, s := range addresses {
		a := netip.MustParseAddr(s)
		u.Addresses[subnet.FamilyOf(a)] = a
	}
	u.PublicIPs = u.Addresses
	return u
}

// subnets returns the n-th subnet of each family.
func subnets(n byte) subnet.PerFamily[netip.Prefix] {
	var v6 [16]byte
	copy(v6[:], []byte{0xfd, 0, 0x02, 0x44, 0, 0, 0, n})
	return subnet.PerFamily[netip.Prefix]{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, n, 0}), 24),
		netip.PrefixFrom(netip.AddrFrom16(v6), 64),
	}
}

// node is a Twill node with a lease.
type node struct {
	*vxlan.Planner
	lease subnet.Lease
}

// newNode is the node called name with the n-th subnets.
func newNode(t testing.TB, cfg subnet.Config, u backend.Underlay, name string, n byte) node {
	t.Helper()
	p, err := vxlan.New(cfg, u, name)
	require.NoError(t, err)
	held := subnets(n)
	for _, f := range subnet.Families {
		if !cfg.Networks[f].Enabled() {
			held[f] = netip.Prefix{}
		}
	}
	return node{p, p.Announce(subnet.Claim{Node: name, Config: cfg}).Announcement(held)}
}

// text is the objects as iproute2 would write them, one on each line.
func text(objects []backend.Object) string {
	var b strings.Builder
	for _, o := range objects {
		b.WriteString(o.String() + "\n")
	}
	return b.String()
}

// The VTEP addresses of the nodes a and b. They are part of what peers of an
// earlier version hold: a release that changes them cuts every node off until
// its announcement is everywhere.
const (
	macA4, macA6 = "06:5f:90:e1:03:58", "f6:5b:1c:ae:85:e0"
	macB4, macB6 = "06:76:74:75:b6:58", "8a:ea:74:aa:51:b1"
)

func TestHost(t *testing.T) {
	t.Parallel()
	const (
		settings4  = "sysctl net/ipv4/conf/twill.1/rp_filter=2\n"
		settings6  = "sysctl net/ipv6/conf/twill.1/disable_ipv6=0\nsysctl net/ipv6/conf/twill.1/accept_ra=0\n"
		six4       = "sysctl net/ipv4/conf/twill-v6.1/rp_filter=2\n"
		six6       = "sysctl net/ipv6/conf/twill-v6.1/disable_ipv6=0\nsysctl net/ipv6/conf/twill-v6.1/accept_ra=0\n"
		link       = "link twill.1 vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 mtu 1450 address " + macA4 + " learning false gbp false up\n"
		linkSix    = "link twill-v6.1 vxlan id 1 dstport 8472 local 2001:db8::1 dev eth0 mtu 1430 address " + macA6 + " learning false gbp false up\n"
		address4   = "address 10.244.1.0/32 dev twill.1\n"
		address6   = "address fd00:244:0:1::/128 dev twill.1\n"
		sixAddr4   = "address 10.244.1.0/32 dev twill-v6.1\n"
		sixAddr6   = "address fd00:244:0:1::/128 dev twill-v6.1\n"
		four, six  = "192.0.2.1", "2001:db8::1"
		bothOn4    = link + settings4 + address4 + settings6 + address6
		bothOnSix  = linkSix + six4 + sixAddr4 + six6 + sixAddr6
		fourOnSix  = linkSix + six4 + sixAddr4
		fourOnFour = link + settings4 + address4
	)
	for _, tt := range []struct {
		name, overlay string
		addresses     []string
		want          string
		mtu           subnet.PerFamily[int]
	}{
		{"IPv4 over IPv4", overlayV4, []string{four}, fourOnFour, subnet.PerFamily[int]{1450, 0}},
		{"IPv4 over IPv6", overlayV4, []string{six}, fourOnSix, subnet.PerFamily[int]{1430, 0}},
		{"IPv4 over both: no tunnel without need", overlayV4, []string{four, six}, fourOnFour, subnet.PerFamily[int]{1450, 0}},
		{"IPv6 over IPv6", overlayV6, []string{six}, linkSix + six6 + sixAddr6, subnet.PerFamily[int]{0, 1430}},
		{"IPv6 over IPv4", overlayV6, []string{four}, link + settings6 + address6, subnet.PerFamily[int]{0, 1450}},
		{"IPv6 over both", overlayV6, []string{four, six}, linkSix + six6 + sixAddr6, subnet.PerFamily[int]{0, 1430}},
		{"both over IPv4", overlayDual, []string{four}, bothOn4, subnet.PerFamily[int]{1450, 1450}},
		{"both over IPv6", overlayDual, []string{six}, bothOnSix, subnet.PerFamily[int]{1430, 1430}},
		// Either device carries either family, for peers that have but one.
		{"both over both", overlayDual, []string{four, six}, bothOn4 + bothOnSix, subnet.PerFamily[int]{1450, 1430}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newNode(t, config(t, tt.overlay, ""), underlay(tt.addresses...), "a", 1)
			require.Equal(t, tt.want, text(a.Host(a.lease)))
			require.Equal(t, tt.mtu, a.MTU())
		})
	}
}

// TestHostObjects holds the values themselves against what TestHost reads.
func TestHostObjects(t *testing.T) {
	t.Parallel()
	u := underlay("192.0.2.1")
	u.PublicIPs[subnet.IPv4] = netip.MustParseAddr("203.0.113.1") // NAT: not what packets leave with
	a := newNode(t, config(t, overlayV4, `"VNI": 4096, "Port": 4789, "GBP": true, "Learning": true`), u, "a", 1)
	mac, err := subnet.ParseMAC(macA4)
	require.NoError(t, err)
	require.Equal(t, []backend.Object{
		backend.Link{
			Name: "twill.4096", MTU: 1450, MAC: mac, Up: true, Parent: "eth0", Local: netip.MustParseAddr("192.0.2.1"),
			VXLAN: backend.VXLAN{VNI: 4096, Port: 4789, Learning: true, GBP: true},
		},
		backend.Sysctl{Name: "net/ipv4/conf/twill.4096/rp_filter", Value: "2"},
		backend.Address{Link: "twill.4096", Prefix: netip.MustParsePrefix("10.244.1.0/32")},
	}, a.Host(a.lease))
}

// A lease may lack a family for a moment, or have one that is off now.
func TestHostWithoutSubnet(t *testing.T) {
	t.Parallel()
	a := newNode(t, config(t, overlayDual, ""), underlay("192.0.2.1"), "a", 1)
	own := a.lease
	own.Subnets[subnet.IPv6] = netip.Prefix{}
	require.NotContains(t, text(a.Host(own)), "fd00:244")
	require.Contains(t, text(a.Host(own)), "address 10.244.1.0/32 dev twill.1\n")

	a = newNode(t, config(t, overlayV4, ""), underlay("192.0.2.1"), "a", 1)
	own = a.lease
	own.Subnets = subnets(1)
	require.NotContains(t, text(a.Host(own)), "fd00:244")
}

func TestMTU(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, overlay, options string
		outer                  int
		want                   subnet.PerFamily[int]
		err                    string
	}{
		{"the interface's", overlayDual, "", 9000, subnet.PerFamily[int]{8950, 8930}, ""},
		{"a smaller one is asked for", overlayDual, `"MTU": 1400`, 9000, subnet.PerFamily[int]{1350, 1330}, ""},
		{"a larger one is asked for than the interface has", overlayDual, `"MTU": 9000`, 1500, subnet.PerFamily[int]{1450, 1430}, ""},
		{"the same", overlayDual, `"MTU": 1500`, 1500, subnet.PerFamily[int]{1450, 1430}, ""},
		{"just enough for IPv6", overlayDual, "", 1350, subnet.PerFamily[int]{1300, 1280}, ""},
		{
			"too small an interface for IPv6", overlayDual, "", 1349, subnet.PerFamily[int]{},
			"the MTU of interface eth0, 1349, leaves 1279 bytes for pods, and IPv6 needs 1280: raise it to 1350 or more",
		},
		{
			"too small a setting for IPv6", overlayDual, `"MTU": 1330`, 1500, subnet.PerFamily[int]{},
			"Backend.MTU, 1330, leaves 1260 bytes for pods, and IPv6 needs 1280: raise it to 1350 or more",
		},
		{"IPv4 needs little", overlayV4, "", 118, subnet.PerFamily[int]{68, 0}, ""},
		{
			"too small for IPv4", overlayV4, "", 117, subnet.PerFamily[int]{},
			"the MTU of interface eth0, 117, leaves 67 bytes for pods, and IPv4 needs 68: raise it to 118 or more",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := underlay("192.0.2.1", "2001:db8::1")
			u.MTU = tt.outer
			p, err := vxlan.New(config(t, tt.overlay, tt.options), u, "a")
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, p.MTU())
			for _, o := range p.Host(subnet.Lease{}) {
				l, ok := o.(backend.Link)
				require.True(t, ok, "without a lease there are only links: %s", o)
				f := subnet.FamilyOf(l.Local)
				require.Equal(t, tt.want[f], l.MTU)
			}
		})
	}
}

// IPv6 pods over IPv4 have 20 bytes more.
func TestMTUOfIPv6OverIPv4(t *testing.T) {
	t.Parallel()
	u := underlay("192.0.2.1")
	u.MTU = 1330
	p, err := vxlan.New(config(t, overlayDual, ""), u, "a")
	require.NoError(t, err)
	require.Equal(t, subnet.PerFamily[int]{1280, 1280}, p.MTU())
	u.MTU--
	_, err = vxlan.New(config(t, overlayDual, ""), u, "a")
	require.EqualError(t, err, "the MTU of interface eth0, 1329, leaves 1279 bytes for pods, and IPv6 needs 1280: raise it to 1330 or more")
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	_, err := vxlan.New(config(t, overlayDual, ""), underlay(), "a")
	require.EqualError(t, err, "interface eth0 has no address for tunnels: give it one or choose another with --iface")

	_, err = vxlan.New(config(t, overlayDual, `"VNI": 1000000`), underlay("2001:db8::1"), "a")
	require.EqualError(t, err, "the device of an IPv6 tunnel would be called twill-v6.1000000, and Linux takes 15 characters: choose a shorter Backend.VNI")
	_, err = vxlan.New(config(t, overlayDual, `"VNI": 999999`), underlay("2001:db8::1"), "a")
	require.NoError(t, err)
	_, err = vxlan.New(config(t, overlayDual, `"VNI": 16777215`), underlay("192.0.2.1"), "a")
	require.NoError(t, err)
}

func TestMACs(t *testing.T) {
	t.Parallel()
	seen := map[subnet.MAC]string{}
	for _, name := range []string{"a", "b", "A", "", "a ", "node-1.example.org", "node-11.example.org", strings.Repeat("n", 253)} {
		macs := linkMACs(t, name)
		require.Equal(t, macs, linkMACs(t, name), "the same node, the same addresses")
		for f, mac := range macs {
			require.True(t, mac.IsUnicast(), "%s", mac)
			require.NotZero(t, mac[0]&2, "%s is not locally administered", mac)
			require.NotContains(t, seen, mac, "of %q and %q", name, seen[mac])
			seen[mac] = name + subnet.Family(f).String()
		}
	}
	a, b := linkMACs(t, "a"), linkMACs(t, "b")
	require.Equal(t, []string{macA4, macA6, macB4, macB6}, []string{a[0].String(), a[1].String(), b[0].String(), b[1].String()})
}

// linkMACs returns the addresses of a node's devices, by tunnel family.
func linkMACs(t *testing.T, name string) subnet.PerFamily[subnet.MAC] {
	t.Helper()
	p, err := vxlan.New(config(t, overlayDual, ""), underlay("192.0.2.1", "2001:db8::1"), name)
	require.NoError(t, err)
	var macs subnet.PerFamily[subnet.MAC]
	for _, o := range p.Host(subnet.Lease{}) {
		if l, ok := o.(backend.Link); ok {
			macs[subnet.FamilyOf(l.Local)] = l.MAC
		}
	}
	return macs
}

func TestAnnounce(t *testing.T) {
	t.Parallel()
	nat := underlay("192.0.2.1", "2001:db8::1")
	nat.PublicIPs = subnet.PerFamily[netip.Addr]{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:f::1")}
	const data4, data6 = `{"VNI":1,"VtepMAC":"` + macA4 + `"}`, `{"VNI":1,"VtepMAC":"` + macA6 + `"}`
	for _, tt := range []struct {
		name, overlay string
		underlay      backend.Underlay
		want          string // the value that the store holds
	}{
		{
			"IPv4", overlayV4, underlay("192.0.2.1"),
			`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":` + data4 + `,"NodeName":"a","MachineID":"m"}`,
		},
		{
			"IPv4: no address of a family without a tunnel", overlayV4, underlay("192.0.2.1", "2001:db8::1"),
			`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":` + data4 + `,"NodeName":"a","MachineID":"m"}`,
		},
		{
			"IPv6", overlayV6, underlay("192.0.2.1", "2001:db8::1"),
			`{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendV6Data":` + data6 + `,"NodeName":"a","MachineID":"m"}`,
		},
		{
			"both", overlayDual, underlay("192.0.2.1", "2001:db8::1"),
			`{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":` + data4 + `,"BackendV6Data":` + data6 + `,"NodeName":"a","MachineID":"m"}`,
		},
		{
			"both over IPv4", overlayDual, underlay("192.0.2.1"),
			`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":` + data4 + `,"NodeName":"a","MachineID":"m"}`,
		},
		{
			"both behind NAT", overlayDual, nat,
			`{"PublicIP":"203.0.113.1","PublicIPv6":"2001:db8:f::1","BackendType":"vxlan","BackendData":` + data4 + `,"BackendV6Data":` + data6 +
				`,"SourceIP":"192.0.2.1","SourceIPv6":"2001:db8::1","NodeName":"a","MachineID":"m"}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, tt.overlay, "")
			p, err := vxlan.New(cfg, tt.underlay, "a")
			require.NoError(t, err)
			previous := subnets(9)
			claim := p.Announce(subnet.Claim{
				Node: "a", MachineID: "m", Config: cfg, Previous: previous,
				// What an earlier planner announced does not stay.
				BackendType: "alloc", PublicIPs: subnet.PerFamily[netip.Addr]{netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("2001:db8::99")},
				BackendData: subnet.PerFamily[string]{"{}", "{}"},
			})
			require.Equal(t, previous, claim.Previous)
			require.Equal(t, cfg, claim.Config)
			value, err := subnet.EncodeValue(claim.Announcement(subnets(1)))
			require.NoError(t, err)
			require.Equal(t, tt.want, string(value))
		})
	}
}
