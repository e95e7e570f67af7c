package subnet_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

func prefixes(v4, v6 string) subnet.PerFamily[netip.Prefix] {
	return subnet.PerFamily[netip.Prefix]{prefix(v4), prefix(v6)}
}

func span(network string, length int, first, last string) subnet.Range {
	return subnet.Range{Network: prefix(network), SubnetLen: length, Min: addr(first), Max: addr(last)}
}

var (
	range4       = span("10.244.0.0/16", 24, "10.244.1.0", "10.244.255.0")
	range6       = span("fd00:244::/48", 64, "fd00:244:0:1::", "fd00:244:0:ffff::")
	masquerade   = subnet.PerFamily[bool]{true, true}
	vxlanDefault = subnet.Backend{Type: subnet.BackendVXLAN, VXLAN: subnet.VXLAN{VNI: 1, Port: 8472}}
)

func TestParseConfig(t *testing.T) {
	t.Parallel()
	only4 := func(r subnet.Range) subnet.Config {
		return subnet.Config{Networks: subnet.PerFamily[subnet.Range]{r}, Masquerade: masquerade, Backend: vxlanDefault}
	}
	only6 := func(r subnet.Range) subnet.Config {
		return subnet.Config{Networks: subnet.PerFamily[subnet.Range]{{}, r}, Masquerade: masquerade, Backend: vxlanDefault}
	}
	vxlan := func(v subnet.VXLAN) subnet.Config {
		c := only4(range4)
		c.Backend.VXLAN = v
		return c
	}
	with := func(change func(*subnet.Config)) subnet.Config {
		c := only4(range4)
		change(&c)
		return c
	}
	for _, c := range []struct {
		name, doc string
		want      subnet.Config
	}{
		{"network alone", `{"Network": "10.244.0.0/16"}`, only4(range4)},
		{"keys in any case", `{"NETWORK": "10.244.0.0/16", "backEnd": {"tYPE": "VXLAN", "vni": 1}}`, only4(range4)},
		{"null is absent", `{"Network": "10.244.0.0/16", "SubnetLen": null, "EnableIPv4": null, "Backend": null, "IPv6Network": null}`, only4(range4)},
		{"null in the backend", `{"Network": "10.244.0.0/16", "Backend": {"Type": null, "VNI": null}}`, only4(range4)},
		{"space around", " \n{\"Network\"\t: \"10.244.0.0/16\"}\r\n ", only4(range4)},
		{"/22 has four /24", `{"Network": "10.5.0.0/22"}`, only4(span("10.5.0.0/22", 24, "10.5.1.0", "10.5.3.0"))},
		{"/23 is cut in four", `{"Network": "10.5.0.0/23"}`, only4(span("10.5.0.0/23", 25, "10.5.0.128", "10.5.1.128"))},
		{"/28 is the smallest", `{"Network": "10.5.0.0/28"}`, only4(span("10.5.0.0/28", 30, "10.5.0.4", "10.5.0.12"))},
		{"/8", `{"Network": "10.0.0.0/8"}`, only4(span("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0"))},
		{"class E", `{"Network": "240.1.0.0/16"}`, only4(span("240.1.0.0/16", 24, "240.1.1.0", "240.1.255.0"))},
		{"0 is the default", `{"Network": "10.244.0.0/16", "SubnetLen": 0, "Backend": {"Port": 0, "MTU": 0}}`, only4(range4)},
		{
			"SubnetMin and SubnetMax", `{"Network": "10.244.0.0/16", "SubnetLen": 26, "SubnetMin": "10.244.0.0", "SubnetMax": "10.244.0.64"}`,
			only4(span("10.244.0.0/16", 26, "10.244.0.0", "10.244.0.64")),
		},
		{
			"one subnet to lease", `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.9.0", "SubnetMax": "10.244.9.0"}`,
			only4(span("10.244.0.0/16", 24, "10.244.9.0", "10.244.9.0")),
		},
		{"IPv6 alone", `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/48"}`, only6(range6)},
		{
			"IPv6 alone, IPv4 network for later", `{"EnableIPv4": false, "Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48"}`,
			only6(range6),
		},
		{
			"IPv6 /62", `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/62"}`,
			only6(span("fd00:244::/62", 64, "fd00:244:0:1::", "fd00:244:0:3::")),
		},
		{
			"IPv6 /63", `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/63"}`,
			only6(span("fd00:244::/63", 65, "fd00:244:0:0:8000::", "fd00:244:0:1:8000::")),
		},
		{
			"IPv6 /124 is the smallest", `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/124"}`,
			only6(span("fd00:244::/124", 126, "fd00:244::4", "fd00:244::c")),
		},
		{
			"IPv6 /8 of /126", `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00::/8", "IPv6SubnetLen": 126, "IPv6SubnetMin": "fd00::"}`,
			only6(span("fd00::/8", 126, "fd00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffc")),
		},
		{"both families", `{"EnableIPv6": true, "Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48"}`, subnet.Config{
			Networks: subnet.PerFamily[subnet.Range]{range4, range6}, Masquerade: masquerade, Backend: vxlanDefault,
		}},
		{"IPv6 off", `{"Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48"}`, only4(range4)},
		{"nftables", `{"Network": "10.244.0.0/16", "EnableNFTables": true}`, with(func(c *subnet.Config) { c.EnableNFTables = subnet.Yes })},
		{"iptables", `{"Network": "10.244.0.0/16", "EnableNFTables": false}`, with(func(c *subnet.Config) { c.EnableNFTables = subnet.No })},
		{"nftables null", `{"Network": "10.244.0.0/16", "EnableNFTables": null}`, only4(range4)},
		{"no IPv4 masquerade", `{"Network": "10.244.0.0/16", "MasqueradeIPv4": false}`, with(func(c *subnet.Config) { c.Masquerade[subnet.IPv4] = false })},
		{"no IPv6 masquerade", `{"Network": "10.244.0.0/16", "masqueradeipv6": false, "MasqueradeIPv4": null}`, with(func(c *subnet.Config) { c.Masquerade[subnet.IPv6] = false })},
		{"non-masquerade, of either family", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": ["192.168.0.0/16", "2001:db8::/32", "10.0.0.1/32"]}`, with(func(c *subnet.Config) {
			c.NonMasquerade = subnet.NewCIDRs(prefix("192.168.0.0/16"), prefix("2001:db8::/32"), prefix("10.0.0.1/32"))
		})},
		{"non-masquerade, empty", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": []}`, only4(range4)},
		{"non-masquerade, null", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": null}`, only4(range4)},
		{"alloc", `{"Network": "10.244.0.0/16", "Backend": {"Type": "alloc"}}`, subnet.Config{
			Networks: subnet.PerFamily[subnet.Range]{range4}, Masquerade: masquerade, Backend: subnet.Backend{Type: subnet.BackendAlloc},
		}},
		{"backend without a type", `{"Network": "10.244.0.0/16", "Backend": {"VNI": 7}}`, vxlan(subnet.VXLAN{VNI: 7, Port: 8472})},
		{
			"all of vxlan",
			`{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 16777215, "Port": 65535, "MTU": 65535, "GBP": true, "Learning": true, "DirectRouting": true}}`,
			vxlan(subnet.VXLAN{VNI: 1<<24 - 1, Port: 65535, MTU: 65535, GBP: true, Learning: true, DirectRouting: true}),
		},
		{"smallest of vxlan", `{"Network": "10.244.0.0/16", "Backend": {"VNI": 1, "Port": 1, "MTU": 626}}`, vxlan(subnet.VXLAN{VNI: 1, Port: 1, MTU: 626})},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := subnet.ParseConfig([]byte(c.doc))
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	t.Parallel()
	const (
		anObject   = `; it must be one JSON object such as {"Network": "10.244.0.0/16"}`
		topKeys    = "EnableIPv4, Network, SubnetLen, SubnetMin, SubnetMax, EnableIPv6, IPv6Network, IPv6SubnetLen, IPv6SubnetMin, IPv6SubnetMax, MasqueradeIPv4, MasqueradeIPv6, NonMasqueradeCIDRs, EnableNFTables, Backend"
		vxlanKeys  = "Type, VNI, Port, MTU, GBP, Learning, DirectRouting"
		aList      = `a list of CIDRs such as ["192.168.0.0/16", "2001:db8::/32"]`
		aCIDR      = "an IPv4 or IPv6 CIDR such as 192.168.0.0/16 or 2001:db8::/32"
		anIPv4CIDR = "an IPv4 CIDR such as 10.244.0.0/16"
		anIPv6CIDR = "an IPv6 CIDR such as fd00:244::/48"
	)
	for _, c := range []struct{ name, doc, want string }{
		// The document.
		{"nothing", ``, `it ends too early` + anObject},
		{"null", `null`, `it is not an object` + anObject},
		{"array", `[{"Network": "10.244.0.0/16"}]`, `it is not an object` + anObject},
		{"string", `"10.244.0.0/16"`, `it is not an object` + anObject},
		{"no JSON", `Network=10.244.0.0/16`, `invalid character 'N' looking for beginning of value` + anObject},
		{"cut in a member", `{"Network": "10.244`, `it ends too early` + anObject},
		{"cut after a member", `{"Network": "10.244.0.0/16"`, `it ends too early` + anObject},
		{"comma too many", `{"Network": "10.244.0.0/16",}`, `invalid character '}' looking for beginning of object key string` + anObject},
		{"comma missing", `{"Network": "10.244.0.0/16" "SubnetLen": 24}`, `invalid character '"' after object key:value pair` + anObject},
		{"name missing", `{5: 6}`, `invalid character '5'` + anObject},
		{"second object", `{"Network": "10.244.0.0/16"} {}`, `something follows the object` + anObject},
		{"text behind", `{"Network": "10.244.0.0/16"} x`, `something follows the object` + anObject},

		// Keys.
		{"unknown key", `{"Network": "10.244.0.0/16", "Netwrok": "10.5.0.0/16"}`, `Netwrok is not a key; did you mean Network? Keys: ` + topKeys},
		{"unknown key hides nothing missing", `{"Netwrok": "10.5.0.0/16"}`, `Netwrok is not a key; did you mean Network? Keys: ` + topKeys},
		{"unknown key of vxlan", `{"Network": "10.244.0.0/16", "Backend": {"VMI": 5}}`, `Backend.VMI is not a key; did you mean VNI? Keys: ` + vxlanKeys},
		{"key of another backend", `{"Network": "10.244.0.0/16", "Backend": {"Type": "alloc", "VNI": 5}}`, `Backend.VNI is not a key. Keys: Type`},
		{"a secret is not shown", `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "psk": "hush"}}`, `Backend.psk is not a key. Keys: ` + vxlanKeys},
		{"key twice", `{"Network": "10.244.0.0/16", "Network": "10.5.0.0/16"}`, `Network is "10.5.0.0/16"; it must be given once: it stands there as Network already`},
		{"key twice, in another case", `{"Network": "10.244.0.0/16", "network": "10.244.0.0/16"}`, `network is "10.244.0.0/16"; it must be given once: it stands there as Network already`},
		{"key twice, null", `{"Network": null, "network": "10.244.0.0/16"}`, `network is "10.244.0.0/16"; it must be given once: it stands there as Network already`},
		{"key of vxlan twice", `{"Network": "10.244.0.0/16", "Backend": {"VNI": 1, "vni": 2}}`, `Backend.vni is 2; it must be given once: it stands there as VNI already`},
		{"type twice", `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "type": "alloc"}}`, `Backend.type is "alloc"; it must be given once: it stands there as Type already`},
		{
			"long value", `{"Junk": "` + strings.Repeat("a", 1000) + `"}`,
			`Junk is not a key. Keys: ` + topKeys,
		},
		{
			"long key, with what a terminal would obey", `{"\u001b[2J\n` + strings.Repeat("é", 1000) + `": 1}`,
			"\ufffd[2J " + strings.Repeat("é", 28) + `… is not a key. Keys: ` + topKeys,
		},

		// Families.
		{"neither family", `{"EnableIPv4": false, "Network": "10.244.0.0/16"}`, `EnableIPv4 is false; it must be true, or EnableIPv6 true: one family at least`},
		{"neither family, said so", `{"EnableIPv4": false, "EnableIPv6": false}`, `EnableIPv4 is false; it must be true, or EnableIPv6 true: one family at least`},
		{"boolean as string", `{"Network": "10.244.0.0/16", "EnableIPv4": "true"}`, `EnableIPv4 is "true"; it must be true or false`},
		{"boolean as number", `{"Network": "10.244.0.0/16", "EnableIPv6": 1}`, `EnableIPv6 is 1; it must be true or false`},
		{"EnableNFTables as string", `{"Network": "10.244.0.0/16", "EnableNFTables": "yes"}`, `EnableNFTables is "yes"; it must be true or false`},

		{"EnableNFTables as number", `{"Network": "10.244.0.0/16", "EnableNFTables": 1}`, `EnableNFTables is 1; it must be true or false`},

		// Masquerading.
		{"MasqueradeIPv4 as string", `{"Network": "10.244.0.0/16", "MasqueradeIPv4": "no"}`, `MasqueradeIPv4 is "no"; it must be true or false`},
		{"MasqueradeIPv6 as number", `{"Network": "10.244.0.0/16", "MasqueradeIPv6": 0}`, `MasqueradeIPv6 is 0; it must be true or false`},
		{"non-masquerade as string", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": "10.0.0.0/8"}`, `NonMasqueradeCIDRs is "10.0.0.0/8"; it must be ` + aList},
		{"non-masquerade of a number", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": [10]}`, `NonMasqueradeCIDRs is [10]; it must be ` + aList},
		{"non-masquerade of garbage", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": ["10.0.0.0/8", "ten"]}`, `NonMasqueradeCIDRs[1] is "ten"; it must be ` + aCIDR},
		{"non-masquerade of null", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": [null]}`, `NonMasqueradeCIDRs[0] is ""; it must be ` + aCIDR},
		{"non-masquerade of an address", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": ["10.0.0.1"]}`, `NonMasqueradeCIDRs[0] is "10.0.0.1"; it must be ` + aCIDR},
		{"non-masquerade mapped", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": ["::ffff:10.0.0.0/104"]}`, `NonMasqueradeCIDRs[0] is "::ffff:10.0.0.0/104"; it must be ` + aCIDR},
		{"non-masquerade with zone", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": ["fe80::%eth0/64"]}`, `NonMasqueradeCIDRs[0] is "fe80::%eth0/64"; it must be ` + aCIDR},
		{"non-masquerade with host bits", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": ["10.0.0.1/8"]}`, `NonMasqueradeCIDRs[0] is "10.0.0.1/8"; it must be without host bits: 10.0.0.0/8`},
		{"non-masquerade of all", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": ["::/0"]}`, `NonMasqueradeCIDRs[0] is "::/0"; it must be /1 or smaller: for all destinations there is MasqueradeIPv6 false`},
		{"non-masquerade twice", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": ["10.0.0.0/8", "10.0.0.0/8"]}`, `NonMasqueradeCIDRs[1] is "10.0.0.0/8"; it must be given once`},
		{"non-masquerade without end", `{"Network": "10.244.0.0/16", "NonMasqueradeCIDRs": ["1.0.0.0/8"` + strings.Repeat(`,"1.0.0.0/8"`, 64) + `]}`, `NonMasqueradeCIDRs is a list of 65; it must be one of at most 64 CIDRs`},

		// Network.
		{"empty object", `{}`, `Network is missing; it must be the overlay network's CIDR, as EnableIPv4 is true`},
		{"network null", `{"Network": null}`, `Network is missing; it must be the overlay network's CIDR, as EnableIPv4 is true`},
		{"IPv6 network missing", `{"Network": "10.244.0.0/16", "EnableIPv6": true}`, `IPv6Network is missing; it must be the overlay network's CIDR, as EnableIPv6 is true`},
		{"network of a number", `{"Network": 10}`, `Network is 10; it must be a string`},
		{"network of a list", `{"Network": ["10.244.0.0/16"]}`, `Network is ["10.244.0.0/16"]; it must be a string`},
		{"network of nothing", `{"Network": ""}`, `Network is ""; it must be ` + anIPv4CIDR},
		{"network of garbage", `{"Network": "ten"}`, `Network is "ten"; it must be ` + anIPv4CIDR},
		{"network of an address", `{"Network": "10.244.0.0"}`, `Network is "10.244.0.0"; it must be ` + anIPv4CIDR},
		{"network /33", `{"Network": "10.244.0.0/33"}`, `Network is "10.244.0.0/33"; it must be ` + anIPv4CIDR},
		{"network with leading zeros", `{"Network": "010.244.0.0/16"}`, `Network is "010.244.0.0/16"; it must be ` + anIPv4CIDR},
		{"IPv6 in Network", `{"Network": "fd00:244::/48"}`, `Network is "fd00:244::/48"; it must be ` + anIPv4CIDR},
		{"IPv4 in IPv6Network", `{"Network": "10.244.0.0/16", "IPv6Network": "10.5.0.0/16"}`, `IPv6Network is "10.5.0.0/16"; it must be ` + anIPv6CIDR},
		{"mapped in Network", `{"Network": "::ffff:10.244.0.0/112"}`, `Network is "::ffff:10.244.0.0/112"; it must be ` + anIPv4CIDR},
		{"mapped in IPv6Network", `{"Network": "10.244.0.0/16", "IPv6Network": "::ffff:10.244.0.0/112"}`, `IPv6Network is "::ffff:10.244.0.0/112"; it must be ` + anIPv6CIDR},
		{"long garbage", `{"Network": "` + strings.Repeat("x", 1000) + `"}`, `Network is "` + strings.Repeat("x", 64) + `…"; it must be ` + anIPv4CIDR},
		{"host bits", `{"Network": "10.244.3.0/16"}`, `Network is "10.244.3.0/16"; it must be without host bits: 10.244.0.0/16`},
		{"IPv6 host bits", `{"Network": "10.244.0.0/16", "IPv6Network": "fd00::1/48"}`, `IPv6Network is "fd00::1/48"; it must be without host bits: fd00::/48`},
		{"everything", `{"Network": "0.0.0.0/0"}`, `Network is "0.0.0.0/0"; it must be clear of 0.0.0.0/8 (this network), such as 10.244.0.0/16`},
		{"loopback", `{"Network": "127.0.0.0/8"}`, `Network is "127.0.0.0/8"; it must be clear of 127.0.0.0/8 (loopback), such as 10.244.0.0/16`},
		{"loopback within", `{"Network": "126.0.0.0/7"}`, `Network is "126.0.0.0/7"; it must be clear of 127.0.0.0/8 (loopback), such as 10.244.0.0/16`},
		{"link-local", `{"Network": "169.254.0.0/16"}`, `Network is "169.254.0.0/16"; it must be clear of 169.254.0.0/16 (link-local), such as 10.244.0.0/16`},
		{"multicast", `{"Network": "239.1.0.0/16"}`, `Network is "239.1.0.0/16"; it must be clear of 224.0.0.0/4 (multicast), such as 10.244.0.0/16`},
		{"broadcast within", `{"Network": "255.255.0.0/16"}`, `Network is "255.255.0.0/16"; it must be clear of 255.255.255.255/32 (broadcast), such as 10.244.0.0/16`},
		{"IPv6 loopback", `{"Network": "10.244.0.0/16", "IPv6Network": "::/64"}`, `IPv6Network is "::/64"; it must be clear of ::/8 (unspecified, loopback, IPv4-mapped), such as fd00:244::/48`},
		{"IPv6 link-local", `{"Network": "10.244.0.0/16", "IPv6Network": "fe80::/64"}`, `IPv6Network is "fe80::/64"; it must be clear of fe80::/10 (link-local), such as fd00:244::/48`},
		{"IPv6 multicast", `{"Network": "10.244.0.0/16", "IPv6Network": "ff05::/64"}`, `IPv6Network is "ff05::/64"; it must be clear of ff00::/8 (multicast), such as fd00:244::/48`},
		{"IPv6 everything", `{"Network": "10.244.0.0/16", "IPv6Network": "::/0"}`, `IPv6Network is "::/0"; it must be clear of ::/8 (unspecified, loopback, IPv4-mapped), such as fd00:244::/48`},
		{"too small", `{"Network": "10.244.0.0/29"}`, `Network is "10.244.0.0/29"; it must be /28 or larger: it must hold 4 subnets of /30`},
		{"one address", `{"Network": "10.244.0.1/32"}`, `Network is "10.244.0.1/32"; it must be /28 or larger: it must hold 4 subnets of /30`},
		{"IPv6 too small", `{"Network": "10.244.0.0/16", "IPv6Network": "fd00::/125"}`, `IPv6Network is "fd00::/125"; it must be /124 or larger: it must hold 4 subnets of /126`},

		// Subnets.
		{"subnets too large", `{"Network": "10.244.0.0/16", "SubnetLen": 17}`, `SubnetLen is 17; it must be a whole number from 18 to 30`},
		{"subnets too small", `{"Network": "10.244.0.0/16", "SubnetLen": 31}`, `SubnetLen is 31; it must be a whole number from 18 to 30`},
		{"SubnetLen negative", `{"Network": "10.244.0.0/16", "SubnetLen": -24}`, `SubnetLen is -24; it must be a whole number from 18 to 30`},
		{"SubnetLen as string", `{"Network": "10.244.0.0/16", "SubnetLen": "24"}`, `SubnetLen is "24"; it must be a whole number from 18 to 30`},
		{"SubnetLen with a slash", `{"Network": "10.244.0.0/16", "SubnetLen": "/24"}`, `SubnetLen is "/24"; it must be a whole number from 18 to 30`},
		{"SubnetLen with fraction", `{"Network": "10.244.0.0/16", "SubnetLen": 24.5}`, `SubnetLen is 24.5; it must be a whole number from 18 to 30`},
		{"SubnetLen immense", `{"Network": "10.244.0.0/16", "SubnetLen": 99999999999999999999}`, `SubnetLen is 99999999999999999999; it must be a whole number from 18 to 30`},
		{"IPv6 subnets too large", `{"Network": "10.244.0.0/16", "IPv6Network": "fd00::/48", "IPv6SubnetLen": 49}`, `IPv6SubnetLen is 49; it must be a whole number from 50 to 126`},
		{"IPv6 subnets too small", `{"Network": "10.244.0.0/16", "IPv6Network": "fd00::/48", "IPv6SubnetLen": 127}`, `IPv6SubnetLen is 127; it must be a whole number from 50 to 126`},
		{"SubnetLen of no network", `{"Network": "10.244.0.0/16", "IPv6SubnetLen": 64}`, `IPv6SubnetLen is 64; it must be left out without IPv6Network`},
		{"SubnetMin of no network", `{"Network": "10.244.0.0/16", "IPv6SubnetMin": "fd00::"}`, `IPv6SubnetMin is "fd00::"; it must be left out without IPv6Network`},
		{"SubnetMin outside", `{"Network": "10.244.0.0/16", "SubnetMin": "10.245.0.0"}`, `SubnetMin is "10.245.0.0"; it must be an address in 10.244.0.0/16`},
		{"SubnetMax outside", `{"Network": "10.244.0.0/16", "SubnetMax": "10.243.255.0"}`, `SubnetMax is "10.243.255.0"; it must be an address in 10.244.0.0/16`},
		{"SubnetMin of the other family", `{"Network": "10.244.0.0/16", "SubnetMin": "fd00::"}`, `SubnetMin is "fd00::"; it must be an address in 10.244.0.0/16`},
		{"SubnetMin mapped", `{"Network": "10.244.0.0/16", "SubnetMin": "::ffff:10.244.9.0"}`, `SubnetMin is "::ffff:10.244.9.0"; it must be an address in 10.244.0.0/16`},
		{"SubnetMin as CIDR", `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.9.0/24"}`, `SubnetMin is "10.244.9.0/24"; it must be an address in 10.244.0.0/16`},
		{"SubnetMin as number", `{"Network": "10.244.0.0/16", "SubnetMin": 9}`, `SubnetMin is 9; it must be a string`},
		{"SubnetMin unaligned", `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.9.1"}`, `SubnetMin is "10.244.9.1"; it must be the first address of a /24, such as 10.244.9.0`},
		{"SubnetMax unaligned", `{"Network": "10.244.0.0/16", "SubnetMax": "10.244.255.255"}`, `SubnetMax is "10.244.255.255"; it must be the first address of a /24, such as 10.244.255.0`},
		{"IPv6SubnetMin with zone", `{"Network": "10.244.0.0/16", "IPv6Network": "fd00::/48", "IPv6SubnetMin": "fd00::%eth0"}`, `IPv6SubnetMin is "fd00::%eth0"; it must be an address in fd00::/48`},
		{"IPv6SubnetMax unaligned", `{"Network": "10.244.0.0/16", "IPv6Network": "fd00::/48", "IPv6SubnetMax": "fd00::1"}`, `IPv6SubnetMax is "fd00::1"; it must be the first address of a /64, such as fd00::`},
		{"SubnetMax below SubnetMin", `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.9.0", "SubnetMax": "10.244.8.0"}`, `SubnetMax is "10.244.8.0"; it must be 10.244.9.0 (SubnetMin) or above`},
		{"SubnetMax below the default SubnetMin", `{"Network": "10.244.0.0/16", "SubnetMax": "10.244.0.0"}`, `SubnetMax is "10.244.0.0"; it must be 10.244.1.0 (SubnetMin) or above`},
		{"wrong though the family is off", `{"Network": "10.244.0.0/16", "IPv6Network": "fd00::/48", "IPv6SubnetLen": 4}`, `IPv6SubnetLen is 4; it must be a whole number from 50 to 126`},

		// Backend.
		{"backend as string", `{"Network": "10.244.0.0/16", "Backend": "vxlan"}`, `Backend is "vxlan"; it must be an object such as {"Type": "vxlan"}`},
		{"backend as list", `{"Network": "10.244.0.0/16", "Backend": []}`, `Backend is []; it must be an object such as {"Type": "vxlan"}`},
		{"udp", `{"Network": "10.244.0.0/16", "Backend": {"Type": "udp", "Port": 8285}}`, `Backend.Type is "udp"; it must be "vxlan" or "alloc"`},
		{"host-gw", `{"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}`, `Backend.Type is "host-gw"; it must be "vxlan" or "alloc"`},
		{"wireguard", `{"Network": "10.244.0.0/16", "Backend": {"Type": "wireguard", "PSK": "secret"}}`, `Backend.Type is "wireguard"; it must be "vxlan" or "alloc"`},
		{"type of nothing", `{"Network": "10.244.0.0/16", "Backend": {"Type": ""}}`, `Backend.Type is ""; it must be "vxlan" or "alloc"`},
		{"type of a number", `{"Network": "10.244.0.0/16", "Backend": {"Type": 1}}`, `Backend.Type is 1; it must be a string`},
		{"VNI 0", `{"Network": "10.244.0.0/16", "Backend": {"VNI": 0}}`, `Backend.VNI is 0; it must be a whole number from 1 to 16777215`},
		{"VNI 2^24", `{"Network": "10.244.0.0/16", "Backend": {"VNI": 16777216}}`, `Backend.VNI is 16777216; it must be a whole number from 1 to 16777215`},
		{"VNI negative", `{"Network": "10.244.0.0/16", "Backend": {"VNI": -1}}`, `Backend.VNI is -1; it must be a whole number from 1 to 16777215`},
		{"VNI with fraction", `{"Network": "10.244.0.0/16", "Backend": {"VNI": 1.0}}`, `Backend.VNI is 1.0; it must be a whole number from 1 to 16777215`},
		{"VNI with exponent", `{"Network": "10.244.0.0/16", "Backend": {"VNI": 1e3}}`, `Backend.VNI is 1e3; it must be a whole number from 1 to 16777215`},
		{"VNI as string", `{"Network": "10.244.0.0/16", "Backend": {"VNI": "1"}}`, `Backend.VNI is "1"; it must be a whole number from 1 to 16777215`},
		{"VNI beyond 64 bits", `{"Network": "10.244.0.0/16", "Backend": {"VNI": 18446744073709551617}}`, `Backend.VNI is 18446744073709551617; it must be a whole number from 1 to 16777215`},
		{"port 65536", `{"Network": "10.244.0.0/16", "Backend": {"Port": 65536}}`, `Backend.Port is 65536; it must be a whole number from 1 to 65535`},
		{"port negative", `{"Network": "10.244.0.0/16", "Backend": {"Port": -1}}`, `Backend.Port is -1; it must be a whole number from 1 to 65535`},
		{"port as string", `{"Network": "10.244.0.0/16", "Backend": {"Port": "8472"}}`, `Backend.Port is "8472"; it must be a whole number from 1 to 65535`},
		{"MTU too small", `{"Network": "10.244.0.0/16", "Backend": {"MTU": 625}}`, `Backend.MTU is 625; it must be a whole number from 626 to 65535`},
		{"MTU too small for IPv6", `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00::/48", "Backend": {"MTU": 1329}}`, `Backend.MTU is 1329; it must be a whole number from 1330 to 65535`},
		{"MTU too large", `{"Network": "10.244.0.0/16", "Backend": {"MTU": 65536}}`, `Backend.MTU is 65536; it must be a whole number from 626 to 65535`},
		{"MTU negative", `{"Network": "10.244.0.0/16", "Backend": {"MTU": -1}}`, `Backend.MTU is -1; it must be a whole number from 626 to 65535`},
		{"GBP as string", `{"Network": "10.244.0.0/16", "Backend": {"GBP": "true"}}`, `Backend.GBP is "true"; it must be true or false`},
		{"Learning as number", `{"Network": "10.244.0.0/16", "Backend": {"Learning": 0}}`, `Backend.Learning is 0; it must be true or false`},
		{"DirectRouting as object", `{"Network": "10.244.0.0/16", "Backend": {"DirectRouting": {}}}`, `Backend.DirectRouting is {}; it must be true or false`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := subnet.ParseConfig([]byte(c.doc))
			require.EqualError(t, err, c.want)
			require.Zero(t, got)
		})
	}
}

func TestConfigErrorNamesKeyAndValue(t *testing.T) {
	t.Parallel()
	_, err := subnet.ParseConfig([]byte(`{"Network": "10.244.0.0/16", "Backend": {"VNI": 0}}`))
	var bad *subnet.ConfigError
	require.True(t, errors.As(err, &bad))
	require.Equal(t, subnet.ConfigError{Key: "Backend.VNI", Value: "0", Want: "a whole number from 1 to 16777215"}, *bad)
}

func TestConfigCovers(t *testing.T) {
	t.Parallel()
	v4, err := subnet.ParseConfig([]byte(`{"Network": "10.244.0.0/16"}`))
	require.NoError(t, err)
	dual, err := subnet.ParseConfig([]byte(`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48"}`))
	require.NoError(t, err)
	for _, c := range []struct {
		name     string
		cfg      subnet.Config
		v4, v6   string
		complain string
	}{
		{"leased", v4, "10.244.3.0/24", "", ""},
		{"of another length", v4, "10.244.3.64/26", "", ""},
		{"the whole network", v4, "10.244.0.0/16", "", ""},
		{"larger than the network", v4, "10.244.0.0/15", "", "its subnet 10.244.0.0/15 is not in the network 10.244.0.0/16"},
		{"outside", v4, "10.245.3.0/24", "", "its subnet 10.245.3.0/24 is not in the network 10.244.0.0/16"},
		{"a family that is off counts for nothing", v4, "10.244.3.0/24", "fd99::/64", ""},
		{"only a family that is off", v4, "", "fd00:244:0:3::/64", "it has no subnet of a family that is on"},
		{"none", v4, "", "", "it has no subnet of a family that is on"},
		{"one family of two", dual, "10.244.3.0/24", "", ""},
		{"both", dual, "10.244.3.0/24", "fd00:244:0:3::/64", ""},
		{"one outside", dual, "10.244.3.0/24", "fd00:245:0:3::/64", "its subnet fd00:245:0:3::/64 is not in the network fd00:244::/48"},
	} {
		err := c.cfg.Covers(subnet.Lease{Subnets: prefixes(c.v4, c.v6)})
		if c.complain == "" {
			require.NoError(t, err, c.name)
		} else {
			require.EqualError(t, err, c.complain, c.name)
		}
	}
}
