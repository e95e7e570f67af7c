package pods_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/subnet"
)

const container = "4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01"

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestAlias(t *testing.T) {
	t.Parallel()
	var v4, v6, dual, none subnet.PerFamily[netip.Addr]
	v4[subnet.IPv4], dual[subnet.IPv4] = addr("10.5.52.2"), addr("10.5.52.2")
	v6[subnet.IPv6], dual[subnet.IPv6] = addr("fd00::2"), addr("fd00::2")
	for _, c := range []struct {
		name, want string
		pod        pods.Pod
	}{
		{"IPv4", "twill:cbr0/" + container + "/eth0/10.5.52.2/", pods.Pod{Network: "cbr0", Container: container, IfName: "eth0", Addresses: v4}},
		{"IPv6", "twill:cbr0/c.1_x-/net1//fd00::2", pods.Pod{Network: "cbr0", Container: "c.1_x-", IfName: "net1", Addresses: v6}},
		{"dual", "twill:a/b/eth0/10.5.52.2/fd00::2", pods.Pod{Network: "a", Container: "b", IfName: "eth0", Addresses: dual}},
		{"none", "twill:a/b/eth0//", pods.Pod{Network: "a", Container: "b", IfName: "eth0", Addresses: none}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := pods.Format(c.pod)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			back, err := pods.Parse(got)
			require.NoError(t, err)
			require.Equal(t, c.pod, back)
		})
	}
}

func TestLongNamesFit(t *testing.T) {
	t.Parallel()
	network, id := strings.Repeat("n", 255), strings.Repeat("c", 1000)
	p := pods.Pod{Network: network, Container: id, IfName: "abcdefghijklmno"}
	p.Addresses[subnet.IPv4], p.Addresses[subnet.IPv6] = addr("255.255.255.254"), addr("fd00:1111:2222:3333:4444:5555:6666:7777")
	alias, err := pods.Format(p)
	require.NoError(t, err)
	require.LessOrEqual(t, len(alias), pods.AliasSize)
	back, err := pods.Parse(alias)
	require.NoError(t, err)
	require.True(t, back.Is(network, id, "abcdefghijklmno"))
	require.False(t, back.Is(network, id+"c", "abcdefghijklmno"))
	require.False(t, back.Is(network+"n", id, "abcdefghijklmno"))

	p.Network, p.Container = network[:64], id[:112] // the longest that stay
	alias, err = pods.Format(p)
	require.NoError(t, err)
	require.Len(t, alias, pods.AliasSize)
	back, err = pods.Parse(alias)
	require.NoError(t, err)
	require.Equal(t, p, back)
}

func TestAliasErrors(t *testing.T) {
	t.Parallel()
	for alias, want := range map[string]string{
		"":                               "does not begin with twill:",
		"Twill:a/b/eth0//":               "does not begin with twill:",
		"twill:":                         "has 1 fields",
		"twill:a/b/eth0/":                "has 4 fields",
		"twill:a/b/eth0///":              "has 6 fields",
		"twill:/b/eth0//":                `"" is not the name of a network`,
		"twill:../b/eth0//":              `".." is not the name of a network`,
		"twill:~ab/b/eth0//":             `"~ab" is not the name of a network`,
		"twill:a//eth0//":                `"" is not a container ID`,
		"twill:a/b c/eth0//":             `"b c" is not a container ID`,
		"twill:a/b///":                   `"" is not the name of an interface`,
		"twill:a/b/abcdefghijklmnop//":   "is not the name of an interface",
		"twill:a/b/et\x00h//":            "is not the name of an interface",
		"twill:a/b/eth0/fd00::2/":        "fd00::2 is not the IPv4 address of a pod",
		"twill:a/b/eth0//10.0.0.1":       "10.0.0.1 is not the IPv6 address of a pod",
		"twill:a/b/eth0/10.0.0.01/":      "not an address in its usual form",
		"twill:a/b/eth0//FD00::2":        "not an address in its usual form",
		"twill:a/b/eth0//fe80::1%eth0":   "is not the IPv6 address of a pod",
		"twill:a/b/eth0//::ffff:1.2.3.4": "is not the IPv6 address of a pod",
		"twill:a/b/eth0/0.0.0.0/":        "is not the IPv4 address of a pod",
		"twill:a/b/eth0//ff02::1":        "is not the IPv6 address of a pod",
		"twill:a/" + strings.Repeat("c", 113) + "/eth0//": "longer than an alias has it",
	} {
		_, err := pods.Parse(alias)
		require.ErrorContains(t, err, want, alias)
	}
	_, err := pods.Format(pods.Pod{Network: "a/b", Container: "c", IfName: "eth0"})
	require.EqualError(t, err, `writing the alias of a pod: "a/b" is not the name of a network`)
	_, err = pods.Format(pods.Pod{Network: "a", Container: strings.Repeat("/", 200), IfName: "eth0"})
	require.ErrorContains(t, err, "is not a container ID")
}

// FuzzAlias: what Parse takes, Format writes as it was; what Format writes
// fits, and Parse finds the container in it.
func FuzzAlias(f *testing.F) {
	f.Add("twill:cbr0/"+container+"/eth0/10.5.52.2/fd00::2", "cbr0", container, "eth0")
	f.Add("twill:~00112233445566778899aabbccddeeff/b/eth0//", strings.Repeat("n", 300), strings.Repeat("c", 300), "net1")
	f.Fuzz(func(t *testing.T, alias, network, id, ifName string) {
		if p, err := pods.Parse(alias); err == nil {
			again, err := pods.Format(p)
			require.NoError(t, err)
			require.Equal(t, alias, again)
			require.LessOrEqual(t, len(alias), pods.AliasSize)
		}
		p := pods.Pod{Network: network, Container: id, IfName: ifName}
		text, err := pods.Format(p)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(text), pods.AliasSize)
		back, err := pods.Parse(text)
		require.NoError(t, err)
		require.True(t, back.Is(network, id, ifName))
	})
}
