package cni_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/cni"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

func TestLoadDefaults(t *testing.T) {
	t.Parallel()
	c, err := cni.Load([]byte(`{"name":"cbr0","type":"twill","cniVersion":"","subnetFile":"","delegate":null,"ipam":null}`))
	require.NoError(t, err)
	require.NoError(t, c.Validate())
	require.Equal(t, "0.1.0", c.CNIVersion)
	require.Equal(t, "cbr0", c.Name)
	require.Equal(t, "/run/twill/subnet.env", c.SubnetFile)
}

func TestLoadErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, stdin, want string }{
		{"empty", ``, "unexpected end of JSON input"},
		{"not JSON", `name`, "invalid character 'a' in literal null (expecting 'u')"},
		{"not an object", `[]`, "json: cannot unmarshal array into Go value of type map[string]json.RawMessage"},
		{"no name", `{"type":"twill"}`, "name is missing; want the network's name"},
		{"name", `{"name":7}`, "name is 7; want the network's name"},
		{"version", `{"name":"n","cniVersion":1}`, `cniVersion is 1; want a version of the CNI spec, such as "1.1.0"`},
		{"type", `{"name":"n","type":["twill"]}`, `type is ["twill"]; want "twill"`},
		{"subnet file", `{"name":"n","subnetFile":{}}`, "subnetFile is {}; want the path of subnet.env"},
		{"delegate", `{"name":"n","delegate":"bridge"}`, `delegate is "bridge"; want an object with keys of the delegate plugin, such as {"hairpinMode":true}`},
		{"ipam", `{"name":"n","ipam":["host-local"]}`, `ipam is ["host-local"]; want an object with keys of the IPAM plugin, such as {"routes":[{"dst":"10.96.0.0/12"}]}`},
		{"long value", `{"name":"n","ipam":"` + strings.Repeat("x", 200) + `"}`, `ipam is "` + strings.Repeat("x", 79) + `…; want an object with keys of the IPAM plugin, such as {"routes":[{"dst":"10.96.0.0/12"}]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := cni.Load([]byte(c.stdin))
			require.EqualError(t, err, "reading the network config: "+c.want)
		})
	}
}

func TestValidateErrors(t *testing.T) {
	t.Parallel()
	const (
		routes = `; want a list such as [{"dst":"10.96.0.0/12"}]`
		limit  = "; want an address of the node's subnet"
		none   = "; want none: addresses come from the node's subnet in /run/twill/subnet.env"
	)
	for _, c := range []struct{ name, keys, want string }{
		{"unknown key", `"hairpinMode":true`, `hairpinMode is not a key of type twill; want one of args, capabilities, cniVersion, dataDir, delegate, device, dns, ipam, name, prevResult, runtimeConfig, spoofCheck, subnetFile, type, and keys of the delegate plugin in "delegate"`},
		{"relative subnet file", `"subnetFile":"subnet.env"`, `subnetFile is "subnet.env"; want an absolute path`},
		{"data dir", `"dataDir":false`, "dataDir is false; want the path of a directory"},
		{"spoofCheck", `"spoofCheck":"no"`, `spoofCheck is "no"; want true or false`},
		{"device", `"device":"eth0"`, `device is "eth0"; want "auto" (the VXLAN device that carries the subnet's address) or "none" (the backend makes none)`},
		{"relative data dir", `"dataDir":"./data"`, `dataDir is "./data"; want an absolute path`},
		{"runtimeConfig", `"runtimeConfig":[]`, "runtimeConfig is []; want an object"},
		{"prevResult", `"prevResult":"ok"`, `prevResult is "ok"; want an object`},

		{"delegate.name", `"delegate":{"name":"other"}`, `delegate.name is "other"; leave it out, the delegate gets the network's name`},
		{"delegate.ipam", `"delegate":{"ipam":{"subnet":"10.0.0.0/24"}}`, `delegate.ipam is not allowed; want the IPAM plugin's keys in "ipam", beside "delegate"`},
		{"delegate.type", `"delegate":{"type":7}`, "delegate.type is 7; want the name of a plugin, such as bridge"},
		{"delegate.type empty", `"delegate":{"type":""}`, `delegate.type is ""; want the name of a plugin, such as bridge`},
		{"delegate.type a path", `"delegate":{"type":"../bridge"}`, `delegate.type is "../bridge"; want the name of a plugin, such as bridge`},
		{"delegate is ourselves", `"delegate":{"type":"twill"}`, `delegate.type is "twill", which is this plugin; want another, such as bridge`},
		{"delegate.ipMasq", `"delegate":{"ipMasq":"no"}`, `delegate.ipMasq is "no"; want true or false`},
		{"delegate in another case", `"delegate":{"IPMasq":true}`, "delegate.IPMasq is spelled ipMasq"},

		{"ipam.subnet", `"ipam":{"subnet":"10.0.0.0/24"}`, `ipam.subnet is "10.0.0.0/24"` + none},
		{"ipam.ranges", `"ipam":{"ranges":[]}`, `ipam.ranges is []` + none},
		{"ipam.type", `"ipam":{"type":""}`, `ipam.type is ""; want the name of a plugin, such as host-local`},
		{"ipam in another case", `"ipam":{"Routes":[]}`, "ipam.Routes is spelled routes"},
		{"ipam.routes", `"ipam":{"routes":"10.96.0.0/12"}`, `ipam.routes is "10.96.0.0/12"` + routes},
		{"ipam.routes without dst", `"ipam":{"routes":[{"gw":"10.0.0.1"}]}`, `ipam.routes is [{"gw":"10.0.0.1"}]` + routes},
		{"ipam.routes garbage", `"ipam":{"routes":[{"dst":"default"}]}`, `ipam.routes is [{"dst":"default"}]` + routes},
		{"ipam.rangeStart", `"ipam":{"rangeStart":"ten"}`, `ipam.rangeStart is "ten"` + limit},
		{"ipam.rangeEnd", `"ipam":{"rangeEnd":10}`, "ipam.rangeEnd is 10" + limit},
		{"ipam.gateway", `"ipam":{"gateway":""}`, `ipam.gateway is ""` + limit},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conf, err := cni.Load([]byte(`{"name":"cbr0","type":"twill",` + c.keys + `}`))
			require.NoError(t, err)
			require.EqualError(t, conf.Validate(), `checking the network config "cbr0": `+c.want)
		})
	}
}

func TestDelegateIsNotUnderAnotherName(t *testing.T) {
	t.Parallel()
	conf, err := cni.Load([]byte(`{"name":"n","type":"mesh","delegate":{"type":"mesh"}}`))
	require.NoError(t, err)
	_, err = conf.Attached(nil, nil, nil)
	require.EqualError(t, err, `building the delegate's config for network "n": delegate.type is "mesh", which is this plugin; want another, such as bridge`)
}

func env(t *testing.T, text string) envfile.Env {
	t.Helper()
	e, err := envfile.Parse([]byte(text))
	require.NoError(t, err)
	return e
}

const (
	v4Env   = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
	v6Env   = "FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:52::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n"
	dualEnv = "FLANNEL_NETWORK=10.5.0.0/16,10.6.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\n" +
		"FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:52::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
)

func TestDelegate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, env, backend, stdin, want string }{
		{
			"defaults, IPv4", v4Env, "", `{"cniVersion":"1.1.0","name":"cbr0","type":"twill"}`,
			`{"cniVersion":"1.1.0","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.5.52.0/24"}]],"routes":[{"dst":"10.5.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}`,
		},
		{
			"defaults, IPv6", v6Env, "", `{"cniVersion":"1.0.0","name":"cbr0","type":"twill"}`,
			`{"cniVersion":"1.0.0","ipMasq":true,"ipam":{"ranges":[[{"subnet":"fd00:5:0:52::/64"}]],"routes":[{"dst":"fd00:5::/48"}],"type":"host-local"},"isGateway":true,"mtu":1430,"name":"cbr0","type":"bridge"}`,
		},
		{
			"defaults, dual, no version", dualEnv, "", `{"name":"cbr0","type":"twill"}`,
			`{"cniVersion":"0.1.0","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.5.52.0/24"}],[{"subnet":"fd00:5:0:52::/64"}]],"routes":[{"dst":"10.5.0.0/16"},{"dst":"10.6.0.0/16"},{"dst":"fd00:5::/48"}],"type":"host-local"},"isGateway":true,"mtu":1430,"name":"cbr0","type":"bridge"}`,
		},
		{
			"the user's delegate keys win", v4Env, "",
			`{"cniVersion":"1.1.0","name":"cbr0","type":"twill","delegate":{"bridge":"mynet0","hairpinMode":true,"ipMasq":true,"isDefaultGateway":true,"isGateway":false,"mtu":1400}}`,
			`{"bridge":"mynet0","cniVersion":"1.1.0","hairpinMode":true,"ipMasq":true,"ipam":{"ranges":[[{"subnet":"10.5.52.0/24"}]],"routes":[{"dst":"10.5.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":false,"mtu":1400,"name":"cbr0","type":"bridge"}`,
		},
		{
			"another delegate", v4Env, "", `{"cniVersion":"1.1.0","name":"cbr0","type":"twill","delegate":{"type":"ipvlan","master":"eth0"}}`,
			`{"cniVersion":"1.1.0","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.5.52.0/24"}]],"routes":[{"dst":"10.5.0.0/16"}],"type":"host-local"},"master":"eth0","mtu":1450,"name":"cbr0","type":"ipvlan"}`,
		},
		{
			"ipam keys are handed on, routes added, limits go to their range", dualEnv, "",
			`{"cniVersion":"1.1.0","name":"cbr0","type":"twill","ipam":{"dataDir":"/tmp/ipam","resolvConf":"/etc/resolv.conf","routes":[{"dst":"10.96.0.0/12","gw":"10.5.52.7"},{"dst":"10.6.0.0/16","mtu":9000}],"rangeStart":"10.5.52.10","rangeEnd":"fd00:5:0:52::ff","gateway":"10.5.52.254"}}`,
			`{"cniVersion":"1.1.0","ipMasq":false,"ipam":{"dataDir":"/tmp/ipam","ranges":[[{"subnet":"10.5.52.0/24","rangeStart":"10.5.52.10","gateway":"10.5.52.254"}],[{"subnet":"fd00:5:0:52::/64","rangeEnd":"fd00:5:0:52::ff"}]],"resolvConf":"/etc/resolv.conf","routes":[{"dst":"10.96.0.0/12","gw":"10.5.52.7"},{"dst":"10.6.0.0/16","mtu":9000},{"dst":"10.5.0.0/16"},{"dst":"fd00:5::/48"}],"type":"host-local"},"isGateway":true,"mtu":1430,"name":"cbr0","type":"bridge"}`,
		},
		{
			"what the runtime adds is handed on, capabilities are the runtime's", v4Env, "",
			`{"cniVersion":"1.1.0","name":"cbr0","type":"twill","capabilities":{"mac":true},"args":{"cni":{"ips":["10.5.52.9"]}},"dns":{"nameservers":["10.96.0.10"]},"runtimeConfig":{"mac":"02:00:00:00:00:01"},"prevResult":{"cniVersion":"1.1.0"},"cni.dev/x":1,"delegate":{"prevResult":{},"runtimeConfig":{},"cniVersion":"0.1.0"}}`,
			`{"args":{"cni":{"ips":["10.5.52.9"]}},"cniVersion":"1.1.0","dns":{"nameservers":["10.96.0.10"]},"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.5.52.0/24"}]],"routes":[{"dst":"10.5.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":1450,"name":"cbr0","prevResult":{"cniVersion":"1.1.0"},"runtimeConfig":{"mac":"02:00:00:00:00:01"},"type":"bridge"}`,
		},
		{
			"masquerade by nftables where it can be", v6Env, "nftables", `{"cniVersion":"1.1.0","name":"cbr0","type":"twill"}`,
			`{"cniVersion":"1.1.0","ipMasq":true,"ipMasqBackend":"nftables","ipam":{"ranges":[[{"subnet":"fd00:5:0:52::/64"}]],"routes":[{"dst":"fd00:5::/48"}],"type":"host-local"},"isGateway":true,"mtu":1430,"name":"cbr0","type":"bridge"}`,
		},
		{
			"the user's ipMasqBackend wins", v6Env, "nftables", `{"cniVersion":"1.1.0","name":"cbr0","type":"twill","delegate":{"ipMasqBackend":"iptables"}}`,
			`{"cniVersion":"1.1.0","ipMasq":true,"ipMasqBackend":"iptables","ipam":{"ranges":[[{"subnet":"fd00:5:0:52::/64"}]],"routes":[{"dst":"fd00:5::/48"}],"type":"host-local"},"isGateway":true,"mtu":1430,"name":"cbr0","type":"bridge"}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conf, err := cni.Load([]byte(c.stdin))
			require.NoError(t, err)
			require.NoError(t, conf.Validate())
			d, err := conf.Delegate(env(t, c.env), c.backend)
			require.NoError(t, err)
			require.Equal(t, c.want, string(d.JSON))
			require.Contains(t, c.want, `"type":"`+d.Type+`"`)
			require.Equal(t, strings.Contains(c.want, `"ipMasq":true`), d.Masquerades)
		})
	}
}

func TestDelegateErrors(t *testing.T) {
	t.Parallel()
	for keys, want := range map[string]string{
		`"rangeStart":"10.5.53.10"`:   "ipam.rangeStart is 10.5.53.10; want an address of the node's subnet, 10.5.52.0/24 or fd00:5:0:52::/64",
		`"gateway":"fd00:5:0:53::1"`:  "ipam.gateway is fd00:5:0:53::1; want an address of the node's subnet, 10.5.52.0/24 or fd00:5:0:52::/64",
		`"rangeEnd":"::ffff:1.2.3.4"`: "ipam.rangeEnd is ::ffff:1.2.3.4; want an address of the node's subnet, 10.5.52.0/24 or fd00:5:0:52::/64",
	} {
		conf, err := cni.Load([]byte(`{"name":"cbr0","type":"twill","ipam":{` + keys + `}}`))
		require.NoError(t, err)
		_, err = conf.Delegate(env(t, dualEnv), "")
		require.EqualError(t, err, `building the delegate's config for network "cbr0": `+want)
	}
}

// For CHECK and DEL a config is found whatever has become of subnet.env and of
// the network config since ADD.
func TestAttached(t *testing.T) {
	t.Parallel()
	const any4 = `"ranges":[[{"subnet":"192.0.2.0/24"}]]`
	for _, c := range []struct {
		name, env   string
		stdin, want string
	}{
		{
			"subnet.env is there", v4Env, `{"cniVersion":"1.1.0","name":"cbr0","type":"twill","prevResult":{"ips":[{}]}}`,
			`{"cniVersion":"1.1.0","ipMasq":false,"ipam":{` + any4 + `,"type":"host-local"},"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}`,
		},
		{
			"subnet.env is gone", "", `{"cniVersion":"1.1.0","name":"cbr0","type":"twill"}`,
			`{"cniVersion":"1.1.0","ipMasq":false,"ipam":{` + any4 + `,"type":"host-local"},"isGateway":true,"name":"cbr0","type":"bridge"}`,
		},
		{
			"the delegate does not take back its masquerading", v4Env, `{"cniVersion":"1.1.0","name":"cbr0","type":"twill","delegate":{"ipMasq":true}}`,
			`{"cniVersion":"1.1.0","ipMasq":false,"ipam":{` + any4 + `,"type":"host-local"},"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}`,
		},
		{
			"limits of another subnet, refused keys, bad routes, no object in prevResult", v4Env,
			`{"cniVersion":"1.1.0","name":"cbr0","type":"twill","x":1,"delegate":{"name":"other","ipam":{}},"ipam":{"dataDir":"/tmp/ipam","rangeStart":"10.7.0.9","subnet":"10.7.0.0/16","routes":1},"prevResult":"gone"}`,
			`{"cniVersion":"1.1.0","ipMasq":false,"ipam":{"dataDir":"/tmp/ipam",` + any4 + `,"type":"host-local"},"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}`,
		},
		{
			"another IPAM plugin gets what it got", v4Env, `{"cniVersion":"1.1.0","name":"cbr0","type":"twill","ipam":{"type":"pool","rangeStart":"10.5.52.9"}}`,
			`{"cniVersion":"1.1.0","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.5.52.0/24","rangeStart":"10.5.52.9"}]],"routes":[{"dst":"10.5.0.0/16"}],"type":"pool"},"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}`,
		},
		{
			"or what is left of it", v4Env, `{"cniVersion":"1.1.0","name":"cbr0","type":"twill","ipam":{"type":"pool","rangeStart":"10.7.0.9","url":"x"}}`,
			`{"cniVersion":"1.1.0","ipMasq":false,"ipam":{"type":"pool","url":"x"},"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var known *envfile.Env
			if c.env != "" {
				e := env(t, c.env)
				known = &e
			}
			conf, err := cni.Load([]byte(c.stdin))
			require.NoError(t, err)
			d, err := conf.Attached(known, nil, nil)
			require.NoError(t, err)
			require.Equal(t, c.want, string(d.JSON))
		})
	}
}

// What the caller lays over it comes last.
func TestAttachedWith(t *testing.T) {
	t.Parallel()
	conf, err := cni.Load([]byte(`{"name":"cbr0","delegate":{"cni.dev/x":1},"prevResult":{"ips":[{}]}}`))
	require.NoError(t, err)
	d, err := conf.Attached(nil, json.RawMessage(`{"ips":[]}`), map[string]json.RawMessage{"cni.dev/x": json.RawMessage(`[]`)})
	require.NoError(t, err)
	require.JSONEq(t, `{"cniVersion":"0.1.0","name":"cbr0","type":"bridge","isGateway":true,"ipMasq":false,"prevResult":{"ips":[]},"cni.dev/x":[],
		"ipam":{"type":"host-local","ranges":[[{"subnet":"192.0.2.0/24"}]]}}`, string(d.JSON))
}

func TestDelegateRangesFollowSubnets(t *testing.T) {
	t.Parallel()
	conf, err := cni.Load([]byte(`{"name":"cbr0"}`))
	require.NoError(t, err)
	for _, sub := range []string{"10.5.52.1/24", "10.5.52.129/25", "10.5.0.1/17"} {
		e := env(t, v4Env)
		e.Subnets[subnet.IPv4] = netip.MustParsePrefix(sub)
		require.NoError(t, e.Validate())
		d, err := conf.Delegate(e, "")
		require.NoError(t, err)
		require.Contains(t, string(d.JSON), `"ranges":[[{"subnet":"`+e.Subnets[subnet.IPv4].Masked().String()+`"}]]`)
	}
}
