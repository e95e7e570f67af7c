package envfile_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

var (
	v4 = envfile.Env{
		Networks: subnet.PerFamily[[]netip.Prefix]{prefixes("10.5.0.0/16")},
		Subnets:  subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.5.52.1/24")},
		MTU:      1450,
		IPMasq:   true,
	}
	v6 = envfile.Env{
		Networks: subnet.PerFamily[[]netip.Prefix]{nil, prefixes("fd00:5::/48")},
		Subnets:  subnet.PerFamily[netip.Prefix]{{}, netip.MustParsePrefix("fd00:5:0:52::1/64")},
		MTU:      1430,
	}
	dual = envfile.Env{
		Networks: subnet.PerFamily[[]netip.Prefix]{prefixes("10.5.0.0/16", "10.6.0.0/16"), prefixes("fd00:5::/48")},
		Subnets:  subnet.PerFamily[netip.Prefix]{v4.Subnets[subnet.IPv4], v6.Subnets[subnet.IPv6]},
		MTU:      1430,
		IPMasq:   true,
	}
)

const (
	v4Text   = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
	v6Text   = "FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:52::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n"
	dualText = "FLANNEL_NETWORK=10.5.0.0/16,10.6.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\n" +
		"FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:52::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
)

func TestMarshalAndParse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env  envfile.Env
		text string
	}{"v4": {v4, v4Text}, "v6": {v6, v6Text}, "dual": {dual, dualText}} {
		b, err := c.env.MarshalText()
		require.NoError(t, err, name)
		require.Equal(t, c.text, string(b), name)
		e, err := envfile.Parse(b)
		require.NoError(t, err, name)
		require.Equal(t, c.env, e, name)
	}
}

func TestParseTolerates(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"unknown keys":        "K3S=1\n" + v4Text + "FLANNEL_FUTURE=a=b\nK3S=2\n",
		"comments and spaces": "# by hand\n\n  " + v4Text,
		"CRLF":                "FLANNEL_NETWORK=10.5.0.0/16\r\nFLANNEL_SUBNET=10.5.52.1/24\r\nFLANNEL_MTU=1450\r\nFLANNEL_IPMASQ=true\r\n",
		"another order":       "FLANNEL_IPMASQ=true\nFLANNEL_MTU=1450\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_NETWORK=10.5.0.0/16",
	} {
		e, err := envfile.Parse([]byte(text))
		require.NoError(t, err, name)
		require.Equal(t, v4, e, name)
	}
}

func TestGateway(t *testing.T) {
	t.Parallel()
	for sub, want := range map[string]string{
		"10.5.52.0/24":         "10.5.52.1/24",
		"10.5.52.128/25":       "10.5.52.129/25",
		"10.5.52.77/24":        "10.5.52.1/24",
		"fd00:5:0:52::/64":     "fd00:5:0:52::1/64",
		"fd00:5:0:52::80/122":  "fd00:5:0:52::81/122",
		"255.255.255.252/30":   "255.255.255.253/30",
		"2001:db8:0:0:1::/126": "2001:db8::1:0:0:1/126",
	} {
		require.Equal(t, want, envfile.Gateway(netip.MustParsePrefix(sub)).String(), sub)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	with := func(change func(*envfile.Env)) envfile.Env {
		e := v4
		change(&e)
		return e
	}
	for want, e := range map[string]envfile.Env{
		"FLANNEL_SUBNET is missing: want FLANNEL_NETWORK and FLANNEL_SUBNET, FLANNEL_IPV6_NETWORK and FLANNEL_IPV6_SUBNET, or all four": {MTU: 1450},
		`FLANNEL_MTU="0": want 68 to 65535 bytes`:             with(func(e *envfile.Env) { e.MTU = 0 }),
		"FLANNEL_NETWORK is missing: FLANNEL_SUBNET needs it": with(func(e *envfile.Env) { e.Networks = v6.Networks }),
		"FLANNEL_SUBNET is missing: FLANNEL_NETWORK needs it": with(func(e *envfile.Env) { e.Subnets = v6.Subnets }),
		`FLANNEL_NETWORK="invalid Prefix": want an IPv4 CIDR such as 10.5.0.0/16`: with(func(e *envfile.Env) {
			e.Networks[subnet.IPv4] = []netip.Prefix{{}}
		}),
		`FLANNEL_SUBNET="10.5.52.0/24": want the first host address with the subnet's length, 10.5.52.1/24`: with(func(e *envfile.Env) {
			e.Subnets[subnet.IPv4] = netip.MustParsePrefix("10.5.52.0/24")
		}),
	} {
		require.EqualError(t, e.Validate(), want)
		_, err := e.MarshalText()
		require.EqualError(t, err, want)
	}
}
