package masq_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

func prefixes(list ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

var both = subnet.PerFamily[bool]{true, true}

func v4() masq.Config {
	return masq.Config{
		Networks:    subnet.PerFamily[[]netip.Prefix]{subnet.IPv4: prefixes("10.244.0.0/16")},
		Subnets:     subnet.PerFamily[netip.Prefix]{subnet.IPv4: netip.MustParsePrefix("10.244.1.0/24")},
		Masquerade:  both,
		RandomFully: true,
		Forward:     true,
	}
}

func v6() masq.Config {
	c := v4()
	c.Networks = subnet.PerFamily[[]netip.Prefix]{subnet.IPv6: prefixes("fd00:244::/48")}
	c.Subnets = subnet.PerFamily[netip.Prefix]{subnet.IPv6: netip.MustParsePrefix("fd00:244:0:1::/64")}
	return c
}

func dual() masq.Config {
	c, six := v4(), v6()
	c.Networks[subnet.IPv6], c.Subnets[subnet.IPv6] = six.Networks[subnet.IPv6], six.Subnets[subnet.IPv6]
	return c
}

const (
	postroutingV4 = `postrouting IPv4 mark 0x4000/0x4000: return (masqueraded by kube-proxy)
postrouting IPv4 from 10.244.1.0/24 to 10.244.0.0/16: return (own pods inside the network)
postrouting IPv4 to 10.244.1.0/24: return (own pods see their clients)
postrouting IPv4 to 224.0.0.0/4: return (multicast)
postrouting IPv4 from 10.244.0.0/16: masquerade fully-random (pods to the outside)
postrouting IPv4 to 10.244.0.0/16: masquerade fully-random (the outside to peers' pods)
`
	postroutingV6 = `postrouting IPv6 mark 0x4000/0x4000: return (masqueraded by kube-proxy)
postrouting IPv6 from fd00:244:0:1::/64 to fd00:244::/48: return (own pods inside the network)
postrouting IPv6 to fd00:244:0:1::/64: return (own pods see their clients)
postrouting IPv6 to ff00::/8: return (multicast)
postrouting IPv6 from fd00:244::/48: masquerade fully-random (pods to the outside)
postrouting IPv6 to fd00:244::/48: masquerade fully-random (the outside to peers' pods)
`
	forwardV4 = `forward IPv4 from 10.244.0.0/16: accept (from the network)
forward IPv4 to 10.244.0.0/16: accept (to the network)
`
	forwardV6 = `forward IPv6 from fd00:244::/48: accept (from the network)
forward IPv6 to fd00:244::/48: accept (to the network)
`
)

func TestPlan(t *testing.T) {
	t.Parallel()
	with := func(c masq.Config, change func(*masq.Config)) masq.Config {
		change(&c)
		return c
	}
	tests := map[string]struct {
		config masq.Config
		want   string
	}{
		"nothing":    {masq.Config{Masquerade: both, Forward: true}, ""},
		"IPv4":       {v4(), postroutingV4 + forwardV4},
		"IPv6":       {v6(), postroutingV6 + forwardV6},
		"dual stack": {dual(), postroutingV4 + postroutingV6 + forwardV4 + forwardV6},
		"masquerade off": {
			with(dual(), func(c *masq.Config) { c.Masquerade = subnet.PerFamily[bool]{} }), forwardV4 + forwardV6,
		},
		"masquerade off for IPv4": {
			with(dual(), func(c *masq.Config) { c.Masquerade[subnet.IPv4] = false }), postroutingV6 + forwardV4 + forwardV6,
		},
		"masquerade off for IPv6": {
			with(dual(), func(c *masq.Config) { c.Masquerade[subnet.IPv6] = false }), postroutingV4 + forwardV4 + forwardV6,
		},
		"forward off": {
			with(dual(), func(c *masq.Config) { c.Forward = false }), postroutingV4 + postroutingV6,
		},
		"not fully random": {
			with(v4(), func(c *masq.Config) { c.RandomFully = false }),
			strings.ReplaceAll(postroutingV4, " fully-random", "") + forwardV4,
		},
		"own subnet changes": {
			with(dual(), func(c *masq.Config) {
				c.Subnets[subnet.IPv4] = netip.MustParsePrefix("10.244.7.0/24")
			}),
			strings.ReplaceAll(postroutingV4, "10.244.1.0", "10.244.7.0") + postroutingV6 + forwardV4 + forwardV6,
		},
		"host bits are masked": {
			with(v4(), func(c *masq.Config) {
				c.Networks[subnet.IPv4] = prefixes("10.244.9.9/16")
				c.Subnets[subnet.IPv4] = netip.MustParsePrefix("10.244.1.1/24")
			}),
			postroutingV4 + forwardV4,
		},
		"a family without own subnet": {
			with(dual(), func(c *masq.Config) { c.Subnets[subnet.IPv6] = netip.Prefix{} }), postroutingV4 + forwardV4,
		},
		"two networks, exclusions of both families": {
			with(dual(), func(c *masq.Config) {
				c.Networks[subnet.IPv4] = prefixes("10.244.0.0/16", "10.200.0.0/16")
				c.Exclude = prefixes("192.168.0.0/16", "2001:db8::/32")
				c.Forward = false
			}),
			`postrouting IPv4 mark 0x4000/0x4000: return (masqueraded by kube-proxy)
postrouting IPv4 from 10.244.1.0/24 to 10.244.0.0/16: return (own pods inside the network)
postrouting IPv4 from 10.244.1.0/24 to 10.200.0.0/16: return (own pods inside the network)
postrouting IPv4 to 10.244.1.0/24: return (own pods see their clients)
postrouting IPv4 to 224.0.0.0/4: return (multicast)
postrouting IPv4 from 10.244.0.0/16 to 192.168.0.0/16: return (excluded by config)
postrouting IPv4 from 10.200.0.0/16 to 192.168.0.0/16: return (excluded by config)
postrouting IPv4 from 10.244.0.0/16: masquerade fully-random (pods to the outside)
postrouting IPv4 from 10.200.0.0/16: masquerade fully-random (pods to the outside)
postrouting IPv4 to 10.244.0.0/16: masquerade fully-random (the outside to peers' pods)
postrouting IPv4 to 10.200.0.0/16: masquerade fully-random (the outside to peers' pods)
` + strings.ReplaceAll(postroutingV6, "postrouting IPv6 from fd00:244::/48: masq",
				"postrouting IPv6 from fd00:244::/48 to 2001:db8::/32: return (excluded by config)\n"+
					"postrouting IPv6 from fd00:244::/48: masq"),
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rules := masq.Plan(test.config)
			require.True(t, rules.Equal(masq.Plan(test.config)))
			other := test.config
			other.Renderer = masq.IPTables
			require.False(t, rules.Equal(masq.Plan(other)), "another renderer")
			require.Equal(t, test.want, rules.String())
			for _, r := range append(rules.Postrouting, rules.Forward...) {
				require.LessOrEqual(t, len(r.Comment), 127, "nft refuses longer comments: %s", r)
			}
		})
	}
}

// matrix is the table of the package's documentation word for word, with its
// negations: whether a packet is masqueraded.
func matrix(c masq.Config, mark uint32, from, to netip.Addr) bool {
	f := subnet.FamilyOf(from)
	in := func(a netip.Addr, list []netip.Prefix) bool {
		for _, p := range list {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	network, own := c.Networks[f], []netip.Prefix{c.Subnets[f]}
	switch {
	case mark&0x4000 == 0x4000:
		return false
	case in(from, own) && in(to, network):
		return false
	case in(from, network) && in(to, own):
		return false
	case !in(from, network) && in(to, own):
		return false
	case in(from, network) && in(to, c.Exclude):
		return false
	case in(from, network) && !to.IsMulticast():
		return true
	case !in(from, network) && in(to, network):
		return true
	}
	return false
}

// decide walks the rules as a firewall does.
func decide(rules []masq.Rule, mark uint32, from, to netip.Addr) bool {
	for _, r := range rules {
		if r.Family == subnet.FamilyOf(from) && mark&r.Mark.Mask == r.Mark.Value &&
			(!r.Source.IsValid() || r.Source.Contains(from)) &&
			(!r.Destination.IsValid() || r.Destination.Contains(to)) {
			return r.Verdict == masq.Masquerade || r.Verdict == masq.MasqueradeRandomFully
		}
	}
	return false
}

func TestPlanMeansTheMatrix(t *testing.T) {
	t.Parallel()
	two := dual()
	two.Networks[subnet.IPv4] = prefixes("10.244.0.0/16", "10.200.0.0/16")
	two.Networks[subnet.IPv6] = prefixes("fd00:244::/48", "fd00:200::/48")
	excluding := two
	excluding.Exclude = prefixes("192.0.2.0/24", "2001:db8:1::/48")
	wide := dual() // exclusions that cover the network leave row 6 alone
	wide.Exclude = prefixes("0.0.0.0/0", "::/0")

	addresses := subnet.PerFamily[[]string]{
		subnet.IPv4: {
			"10.244.1.0", "10.244.1.9", "10.244.2.9", "10.200.1.9", "192.0.2.1", "198.51.100.1", "224.0.0.1", "239.1.2.3",
		},
		subnet.IPv6: {
			"fd00:244:0:1::", "fd00:244:0:1::9", "fd00:244:0:2::9", "fd00:200::9", "2001:db8:1::1", "2001:db8:2::1",
			"ff02::1", "ff15::1234",
		},
	}
	for name, c := range map[string]masq.Config{"one network": dual(), "two networks": two, "excluding": excluding, "wide": wide} {
		rules := masq.Plan(c).Postrouting
		masqueraded := 0
		for _, f := range subnet.Families {
			for _, from := range addresses[f] {
				for _, to := range addresses[f] {
					for _, mark := range []uint32{0, 0x4000, 0xc001, 0x8000} {
						what := fmt.Sprintf("%s: %s -> %s, mark %#x", name, from, to, mark)
						from, to := netip.MustParseAddr(from), netip.MustParseAddr(to)
						want := matrix(c, mark, from, to)
						require.Equal(t, want, decide(rules, mark, from, to), what)
						if want {
							masqueraded++
						}
					}
				}
			}
		}
		require.NotZero(t, masqueraded, name)
	}
}
