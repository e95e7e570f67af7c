package envfile_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/envfile"
)

func TestParseErrors(t *testing.T) {
	t.Parallel()
	const empty = "the file is empty: its writer was cut off or is not done; want lines such as FLANNEL_SUBNET=10.5.52.1/24"
	for _, c := range []struct{ name, text, want string }{
		{"zero length", "", empty},
		{"blank", " \n\n", empty},
		{"zeros after a power loss", "\x00\x00\x00", `line 1: "\x00\x00\x00": want KEY=value`},
		{"no equals sign", v4Text + "oops\n", `line 5: "oops": want KEY=value`},
		{"no key", "=1\n" + v4Text, `line 1: "=1": want KEY=value`},
		{"twice", v4Text + "FLANNEL_MTU=1400\n", `line 5: FLANNEL_MTU="1400": the key was given in line 3 already; want it once`},

		{"network garbage", edit("10.5.0.0/16", "ten"), `line 1: FLANNEL_NETWORK="ten": want CIDRs separated by commas, such as 10.5.0.0/16`},
		{"network empty", edit("10.5.0.0/16", ""), `line 1: FLANNEL_NETWORK="": want CIDRs separated by commas, such as 10.5.0.0/16`},
		{"network list ends in comma", edit("10.5.0.0/16", "10.5.0.0/16,"), `line 1: FLANNEL_NETWORK="10.5.0.0/16,": want CIDRs separated by commas, such as 10.5.0.0/16`},
		{"network of the other family", edit("10.5.0.0/16", "fd00::/48"), `line 1: FLANNEL_NETWORK="fd00::/48": want an IPv4 CIDR such as 10.5.0.0/16`},
		{"network IPv4-mapped", edit("10.5.0.0/16", "::ffff:10.5.0.0/112"), `line 1: FLANNEL_NETWORK="::ffff:10.5.0.0/112": want an IPv4 CIDR such as 10.5.0.0/16`},
		{"network with host bits", edit("10.5.0.0/16", "10.5.1.0/16"), `line 1: FLANNEL_NETWORK="10.5.1.0/16": the address has bits outside of the prefix; want 10.5.0.0/16`},
		{"network missing", edit("FLANNEL_NETWORK=10.5.0.0/16\n", ""), "FLANNEL_NETWORK is missing: FLANNEL_SUBNET needs it"},

		{"subnet garbage", edit("10.5.52.1/24", "10.5.52.1"), `line 2: FLANNEL_SUBNET="10.5.52.1": want the first host address of the subnet with its length, such as 10.5.0.1/16`},
		{"subnet of the other family", edit("10.5.52.1/24", "fd00::1/64"), `line 2: FLANNEL_SUBNET="fd00::1/64": want an IPv4 CIDR such as 10.5.0.0/16`},
		{"subnet is the network address", edit("10.5.52.1/24", "10.5.52.0/24"), `line 2: FLANNEL_SUBNET="10.5.52.0/24": want the first host address with the subnet's length, 10.5.52.1/24`},
		{"subnet too small", edit("10.5.52.1/24", "10.5.52.1/31"), `line 2: FLANNEL_SUBNET="10.5.52.1/31": the subnet is too small for pods; want a prefix length of at most 30`},
		{"subnet elsewhere", edit("10.5.52.1/24", "10.7.52.1/24"), `line 2: FLANNEL_SUBNET="10.7.52.1/24": want a subnet of FLANNEL_NETWORK, which is 10.5.0.0/16`},
		{"subnet larger than the network", edit("10.5.52.1/24", "10.0.0.1/8"), `line 2: FLANNEL_SUBNET="10.0.0.1/8": want a subnet of FLANNEL_NETWORK, which is 10.5.0.0/16`},
		{"subnet missing", edit("FLANNEL_SUBNET=10.5.52.1/24\n", ""), "FLANNEL_SUBNET is missing: FLANNEL_NETWORK needs it"},

		{"IPv6 garbage", strings.Replace(v6Text, "fd00:5::/48", "fd00", 1), `line 1: FLANNEL_IPV6_NETWORK="fd00": want CIDRs separated by commas, such as fd00:5::/48`},
		{"IPv6 subnet garbage", strings.Replace(v6Text, "::1/64", "::1%eth0/64", 1), `line 2: FLANNEL_IPV6_SUBNET="fd00:5:0:52::1%eth0/64": want the first host address of the subnet with its length, such as fd00:5::1/48`},
		{"IPv6 with an IPv4 subnet", strings.Replace(v6Text, "fd00:5:0:52::1/64", "10.5.52.1/24", 1), `line 2: FLANNEL_IPV6_SUBNET="10.5.52.1/24": want an IPv6 CIDR such as fd00:5::/48`},
		{"IPv6 too small", strings.Replace(v6Text, "::1/64", "::1/127", 1), `line 2: FLANNEL_IPV6_SUBNET="fd00:5:0:52::1/127": the subnet is too small for pods; want a prefix length of at most 126`},

		{"no family", "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", "FLANNEL_SUBNET is missing: want FLANNEL_NETWORK and FLANNEL_SUBNET, FLANNEL_IPV6_NETWORK and FLANNEL_IPV6_SUBNET, or all four"},
		{"MTU garbage", edit("1450", "14 50"), `line 3: FLANNEL_MTU="14 50": want a number of bytes such as 1450`},
		{"MTU small", edit("1450", "67"), `line 3: FLANNEL_MTU="67": want 68 to 65535 bytes`},
		{"MTU too small for IPv6", strings.Replace(v6Text, "1430", "1279", 1), `line 3: FLANNEL_MTU="1279": want 1280 to 65535 bytes`},
		{"MTU large", edit("1450", "65536"), `line 3: FLANNEL_MTU="65536": want 68 to 65535 bytes`},
		{"MTU missing", edit("FLANNEL_MTU=1450\n", ""), "FLANNEL_MTU is missing: the file is incomplete; want the pods' MTU in bytes"},
		{"masquerade garbage", edit("true", "yes"), `line 4: FLANNEL_IPMASQ="yes": want true or false`},
		{"masquerade missing", edit("FLANNEL_IPMASQ=true\n", ""), "FLANNEL_IPMASQ is missing: the file is incomplete; want true or false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := envfile.Parse([]byte(c.text))
			require.EqualError(t, err, c.want)
		})
	}
}

func edit(from, to string) string { return strings.Replace(v4Text, from, to, 1) }

// A writer that was cut off anywhere leaves a file that is refused, never one
// that is believed.
func TestParseRefusesEveryCut(t *testing.T) {
	t.Parallel()
	for _, text := range []string{v4Text, v6Text, dualText} {
		for n := range len(text) - 1 { // only the last newline may be absent
			_, err := envfile.Parse([]byte(text[:n]))
			require.Error(t, err, "%q", text[:n])
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := envfile.Parse(b)
		if err != nil {
			require.Zero(t, e)
			return
		}
		text, err := e.MarshalText()
		require.NoError(t, err, "what was parsed can be written")
		again, err := envfile.Parse(text)
		require.NoError(t, err)
		require.Equal(t, e, again)
	})
}
