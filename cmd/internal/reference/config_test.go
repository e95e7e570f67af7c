package reference_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/cmd/internal/reference"
	"github.com/twill-net/twill/subnet"
)

// key is a member of the network config. What is told of it is tried.
type key struct {
	name, def, allowed, meaning string
	// The default, and the ends of what is allowed, as JSON: accepted. Further
	// values are refused. In a config whose networks are those of base.
	equal   string
	accept  []string
	refused []string
}

const base = `"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48"`

var bools = []string{"1", `"true"`}

func topKeys() []key {
	return []key{
		{"EnableIPv4", "`true`", "`true`, `false`", "pods have IPv4 addresses", "true", []string{"false"}, bools},
		{"Network", "", "an IPv4 CIDR without host bits, /28 or larger, of addresses that hosts can have", "the overlay network for IPv4; needed with `EnableIPv4`", "", []string{`"10.244.0.0/28"`}, []string{`"10.244.0.0/29"`, `"10.244.0.1/16"`, `"127.0.0.0/16"`, `"fd00::/48"`}},
		{"SubnetLen", "24 when Network is /22 or larger, else its length + 2", "Network's length + 2 to 30", "prefix length of a node's subnet", "24", []string{"0", "18", "30"}, []string{"17", "31"}},
		{"SubnetMin", "the second subnet", "the first address of a subnet in Network", "first subnet that is leased", `"10.244.1.0"`, []string{`"10.244.0.0"`}, []string{`"10.244.0.1"`, `"10.245.0.0"`}},
		{"SubnetMax", "the last subnet", "likewise, not below SubnetMin", "last subnet that is leased", `"10.244.255.0"`, []string{`"10.244.1.0"`}, []string{`"10.244.0.0"`, `"10.244.9.1"`}},
		{"EnableIPv6", "`false`", "`true`, `false`", "pods have IPv6 addresses", "", []string{"true", "false"}, bools},
		{"IPv6Network", "", "an IPv6 CIDR without host bits, /124 or larger, of addresses that hosts can have", "the overlay network for IPv6; needed with `EnableIPv6`", "", []string{`"fd00:244::/124"`}, []string{`"fd00:244::/125"`, `"fe80::/48"`, `"10.0.0.0/8"`}},
		{"IPv6SubnetLen", "64 when IPv6Network is /62 or larger, else its length + 2", "IPv6Network's length + 2 to 126", "prefix length of a node's subnet", "64", []string{"0", "50", "126"}, []string{"49", "127"}},
		{"IPv6SubnetMin", "the second subnet", "the first address of a subnet in IPv6Network", "first subnet that is leased", `"fd00:244:0:1::"`, []string{`"fd00:244::"`}, []string{`"fd00:244::1"`}},
		{"IPv6SubnetMax", "the last subnet", "likewise, not below IPv6SubnetMin", "last subnet that is leased", `"fd00:244:0:ffff::"`, []string{`"fd00:244:0:1::"`}, []string{`"fd00:244::"`}},
		{"MasqueradeIPv4", "`true`", "`true`, `false`", "masquerade IPv4, on nodes with `--ip-masq`", "true", []string{"false"}, bools},
		{"MasqueradeIPv6", "`true`", "`true`, `false`", "masquerade IPv6, on nodes with `--ip-masq`", "true", []string{"false"}, bools},
		{"NonMasqueradeCIDRs", "`[]`", "at most 64 CIDRs of either family, without host bits, /1 or smaller, each once", "destinations outside the network that see the pods' own addresses", "[]", []string{`["192.168.0.0/16", "2001:db8::/32", "128.0.0.0/1"]`}, []string{`"192.168.0.0/16"`, `["192.168.0.1/16"]`, `["0.0.0.0/0"]`, `["10.0.0.0/8", "10.0.0.0/8"]`}},
		{"EnableNFTables", "absent", "`true`, `false`", "the firewall that holds the rules, where `--firewall` is `auto`: `true` nftables, `false` iptables, absent: nftables if the kernel has it, else iptables", "", []string{"true", "false"}, bools},
		{"Backend", "`{\"Type\": \"vxlan\"}`", "an object", "how peers are reached; its keys are below", `{"Type": "vxlan"}`, nil, []string{`"vxlan"`, `{"Type": "udp"}`}},
	}
}

func vxlanKeys() []key {
	return []key{
		{"Type", "`vxlan`", "`vxlan`, `alloc`", "`alloc`: only hold the lease, something else carries the packets; it takes none of the further keys", `"vxlan"`, []string{`"alloc"`}, []string{`"udp"`}},
		{"VNI", "1", "1 to 16777215", "VXLAN network identifier", "1", []string{"16777215"}, []string{"0", "16777216"}},
		{"Port", "8472", "1 to 65535", "UDP port, the same on all nodes", "8472", []string{"0", "1", "65535"}, []string{"-1", "65536"}},
		{"MTU", "the external interface's", "626 to 65535 bytes; with IPv6 at least 1330", "MTU of the *outer* packet; a larger one than the interface's is cut to that. Pods get 50 less in an IPv4 tunnel, 70 less in an IPv6 one", "0", []string{"1330", "65535"}, []string{"1329", "65536"}},
		{"GBP", "`false`", "`true`, `false`", "carry the group policy ID", "false", []string{"true"}, bools},
		{"Learning", "`false`", "`true`, `false`", "learn FDB entries from traffic", "false", []string{"true"}, bools},
		{"DirectRouting", "`false`", "`true`, `false`", "plain routes to peers that are on link, no tunnel", "false", []string{"true"}, bools},
	}
}

//go:generate env TWILL_WRITE_REFERENCE=1 go test -count=1 -run ^TestReference$ .

func TestReference(t *testing.T) {
	t.Run("network config", func(t *testing.T) {
		reference.Check(t, "keys of the network config", table(topKeys()))
		reference.Check(t, "keys of the backend vxlan", table(vxlanKeys()))
	})
	t.Run("CNI", checkCNI)
	t.Run("subnet.env", checkEnv)
	t.Run("metrics", checkMetrics)
}

func table(keys []key) string {
	var rows [][]string
	for _, k := range keys {
		rows = append(rows, []string{reference.Code(k.name), k.def, k.allowed, k.meaning})
	}
	return reference.Table([]string{"key", "default", "allowed", "meaning"}, rows)
}

// The parser names the keys it knows when it meets another: the same as ours.
func TestConfigKeysAreTheParsers(t *testing.T) {
	t.Parallel()
	for doc, keys := range map[string][]key{
		`{"Nonsense": 1}`:              topKeys(),
		`{"Backend": {"Nonsense": 1}}`: vxlanKeys(),
	} {
		_, err := subnet.ParseConfig([]byte(strings.Replace(doc, `{`, `{`+base+`, `, 1)))
		if strings.HasPrefix(doc, `{"N`) {
			_, err = subnet.ParseConfig([]byte(doc))
		}
		var refused *subnet.ConfigError
		require.True(t, errors.As(err, &refused), "%v", err)
		require.NotEmpty(t, refused.Keys)
		var names []string
		for _, k := range keys {
			names = append(names, k.name)
		}
		require.ElementsMatch(t, strings.Split(refused.Keys, ", "), names)
	}
}

// What the page says of defaults and limits is so.
func TestConfigKeysAreTrue(t *testing.T) {
	t.Parallel()
	try := func(name, value string, backend bool) (subnet.Config, error) {
		member := ""
		if value != "" {
			member = fmt.Sprintf("%q: %s", name, value)
		}
		if backend {
			return subnet.ParseConfig([]byte("{" + base + `, "Backend": {` + member + "}}"))
		}
		// A member that base has is left out there.
		var rest []string
		for _, m := range strings.Split(base, ", ") {
			if !strings.HasPrefix(m, `"`+name+`"`) {
				rest = append(rest, m)
			}
		}
		if member != "" {
			rest = append(rest, member)
		}
		return subnet.ParseConfig([]byte("{" + strings.Join(rest, ", ") + "}"))
	}
	for _, backend := range []bool{false, true} {
		keys := topKeys()
		if backend {
			keys = vxlanKeys()
		}
		for _, k := range keys {
			if k.equal != "" {
				absent, err := try(k.name, "", backend)
				require.NoError(t, err, k.name)
				given, err := try(k.name, k.equal, backend)
				require.NoError(t, err, k.name)
				require.Equal(t, absent, given, "%s: %s is its default", k.name, k.equal)
			}
			for _, v := range k.accept {
				_, err := try(k.name, v, backend)
				require.NoError(t, err, "%s: %s", k.name, v)
			}
			require.NotEmpty(t, k.refused, k.name)
			for _, v := range k.refused {
				_, err := try(k.name, v, backend)
				var refused *subnet.ConfigError
				require.ErrorAs(t, err, &refused, "%s: %s", k.name, v)
			}
		}
	}
}
