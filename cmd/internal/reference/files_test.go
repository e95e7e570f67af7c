package reference_test

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/cmd/internal/reference"
	"github.com/twill-net/twill/overlay/cni"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

func cniKeys() [][]string {
	return [][]string{
		{"type", "", "`twill`"},
		{"name", "", "the network's name. host-local keeps the reservations under it, in `/var/lib/cni/networks/<name>`"},
		{"cniVersion", "`0.1.0`", "version of the CNI spec, up to `1.1.0`"},
		{"subnetFile", "`" + cni.DefaultSubnetFile + "`", "twilld's `--subnet-file`"},
		{"spoofCheck", "`true`", "`false`: twilld does not hold the pods to their own source addresses, for pods that route for others"},
		{"device", "`auto`", "what STATUS looks for: `auto`, the VXLAN device with the subnet's address, or `none`, with the backend `alloc`"},
		{"delegate", "`{}`", "keys of the delegate plugin, handed on; `delegate.type` is `bridge` unless given"},
		{"ipam", "`{}`", "keys of the IPAM plugin, handed on; `ipam.type` is `host-local` unless given. Subnets are not allowed here, they come from subnet.env; `rangeStart`, `rangeEnd` and `gateway` narrow them"},
		{"capabilities", "", "read by the runtime, which hands over what it has of them in `runtimeConfig`"},
		{"runtimeConfig", "", "from the runtime, handed on"},
		{"prevResult", "", "from the runtime, handed on"},
		{"args", "", "handed on"},
		{"dns", "", "handed on"},
		{"dataDir", "", "of flannel's plugin: accepted, and of no use, as there is no state"},
	}
}

func checkCNI(t *testing.T) {
	// The plugin names the keys it knows when it meets another: the same as ours.
	conf, err := cni.Load([]byte(`{"name": "n", "type": "twill", "nonsense": 1}`))
	require.NoError(t, err)
	m := regexp.MustCompile(`want one of (.*), and keys of`).FindStringSubmatch(conf.Validate().Error())
	require.NotNil(t, m)
	var names []string
	rows := cniKeys()
	for i, r := range rows {
		names = append(names, r[0])
		rows[i] = []string{reference.Code(r[0]), r[1], r[2]}
	}
	require.ElementsMatch(t, strings.Split(m[1], ", "), names)
	reference.Check(t, "keys of the CNI config", reference.Table([]string{"key", "default", "meaning"}, rows))
}

func checkEnv(t *testing.T) {
	env := envfile.Env{
		Networks: subnet.PerFamily[[]netip.Prefix]{{netip.MustParsePrefix("10.244.0.0/16")}, {netip.MustParsePrefix("fd00:244::/48")}},
		Subnets:  subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.145.1/24"), netip.MustParsePrefix("fd00:244:0:f19f::1/64")},
		MTU:      1430, IPMasq: true,
	}
	text, err := env.MarshalText()
	require.NoError(t, err)
	meaning := map[string]string{
		"FLANNEL_NETWORK":      "the overlay network; readers accept a comma list",
		"FLANNEL_SUBNET":       "this node's subnet, by its first host address, which is the bridge's",
		"FLANNEL_IPV6_NETWORK": "likewise for IPv6",
		"FLANNEL_IPV6_SUBNET":  "likewise for IPv6",
		"FLANNEL_MTU":          "MTU of the pods, the smaller of the enabled families'",
		"FLANNEL_IPMASQ":       "`true` where twilld masquerades (`--ip-masq`), and the CNI delegate must not",
	}
	var rows [][]string
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		require.Contains(t, meaning, name)
		rows = append(rows, []string{reference.Code(name), reference.Code(value), meaning[name]})
	}
	require.Len(t, rows, len(meaning))
	reference.Check(t, "keys of subnet.env", reference.Table([]string{"key", "for example", "meaning"}, rows))
}
