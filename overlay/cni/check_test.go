package cni_test

import (
	"encoding/json"
	"strings"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"
)

// Whatever is not as ADD left it is named; what may change passes.
func TestCheck(t *testing.T) {
	t.Parallel()
	const (
		pod  = "checking interface eth0 of container pod: "
		veth = pod + "its end on the host, VETH: "
	)
	for _, c := range []struct {
		name, pod, host, want string // what `ip` is told in the pod and on the host
		code                  uint
	}{
		{name: "as it was"},
		{name: "down", pod: "link set eth0 down", want: pod + "it is down", code: 100},
		{name: "no interface", pod: "link del eth0", want: pod + "the pod has no such interface", code: 100},
		{name: "no IPv4 address", pod: "addr del 10.5.52.2/24 dev eth0", want: pod + "it has not the address 10.5.52.2/24", code: 100},
		{name: "no IPv6 address", pod: "addr del fd00:5:0:52::2/64 dev eth0", want: pod + "it has not the address fd00:5:0:52::2/64", code: 100},
		{name: "no IPv4 route", pod: "route del 10.6.0.0/16", want: pod + "the pod has no route to 10.6.0.0/16", code: 100},
		{name: "no IPv6 route", pod: "-6 route del fd00:5::/48", want: pod + "the pod has no route to fd00:5::/48", code: 100},
		{name: "another gateway", pod: "route replace default via 10.5.52.9", want: pod + "the pod has no route to 0.0.0.0/0 via 10.5.52.1", code: 100},
		{name: "a larger MTU", pod: "link set eth0 mtu 1500", want: pod + "its MTU is 1500 and not the 1430 that ADD gave it: larger packets are lost", code: 100},
		{name: "a smaller MTU, by tuning", pod: "link set eth0 mtu 1400"},
		{name: "host end down", host: "link set VETH down", want: veth + "is down", code: 100},
		{name: "host end with another MTU", host: "link set VETH mtu 1400", want: veth + "has MTU 1400 and not the 1430 that ADD gave it", code: 100},
		{name: "no port", host: "link set VETH nomaster", want: pod + "its end on the host, VETH, is not a port of bridge cni0", code: 100},
		{name: "bridge down", host: "link set cni0 down", want: pod + "bridge cni0 is down", code: 100},
		{name: "no gateway", host: "addr del 10.5.52.1/24 dev cni0", want: pod + "its gateway 10.5.52.1 is not on bridge cni0", code: 100},
		{name: "another MAC of the bridge", host: "link set cni0 address 02:00:00:00:00:01"},
		{
			name: "no alias", host: "link set VETH alias ", code: 100,
			want: veth + `has the alias "" and not "twill:cbr0/pod/eth0/10.5.52.2/fd00:5:0:52::2": twilld does not know whose it is`,
		},
		{
			name: "another's alias", host: "link set VETH alias twill:cbr0/other/eth0//", code: 100,
			want: veth + `has the alias "twill:cbr0/other/eth0//" and not "twill:cbr0/pod/eth0/10.5.52.2/fd00:5:0:52::2": twilld does not know whose it is`,
		},
		{
			name: "another's address in the alias", host: "link set VETH alias twill:cbr0/pod/eth0/10.5.52.9/", code: 100,
			want: veth + "says by its alias that the pod has 10.5.52.9",
		},
		{name: "not guarded any more", host: "link set VETH alias twill:cbr0/pod/eth0//"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, dualEnv)
			ns := netns(t)
			conf := h.conf(conf{"delegate": conf{"isDefaultGateway": true}})
			result := h.add(t, attach("pod", ns), conf)
			require.Equal(t, 1430, result.Interfaces[2].Mtu)
			conf["prevResult"] = result
			name := h.veths(t)[0]
			if c.pod != "" {
				ip(t, append([]string{"-n", ns}, strings.Split(c.pod, " ")...)...)
			}
			if c.host != "" {
				ip(t, append([]string{"-n", h.ns}, strings.Split(strings.ReplaceAll(c.host, "VETH", name), " ")...)...)
			}
			_, err := h.run("CHECK", attach("pod", ns), conf)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, strings.ReplaceAll(c.want, "VETH", name))
			requireCode(t, c.code, err)
		})
	}
}

func TestCheckErrors(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ns := netns(t)
	r, c := attach("pod", ns), h.conf(nil)
	result := h.add(t, r, c)

	for _, prev := range []any{nil, conf{"ips": "none"}, conf{"cniVersion": "0.9.0"}} {
		c["prevResult"] = prev
		_, err := h.run("CHECK", r, c)
		require.EqualError(t, err, "checking container pod: prevResult is missing or no result of version 1.1.0: CHECK compares with it")
		requireCode(t, 7, err)
	}
	c["prevResult"] = result
	r.netns = netnsPath("gone")
	_, err := h.run("CHECK", r, c)
	require.EqualError(t, err, "opening the network namespace of container pod: /run/netns/gone is not one: the container is gone")
	requireCode(t, 3, err)

	c["cniVersion"] = "0.3.1"
	_, err = h.run("CHECK", attach("pod", ns), c)
	require.EqualError(t, err, "config version does not allow CHECK")
	requireCode(t, 1, err)
}

// CHECK of what earlier versions of the spec made, and of two interfaces of
// which the first has the routes.
func TestCheckOfOthers(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ns := netns(t)
	first, second := attach("pod", ns), attach("pod", ns)
	second.ifname = "net1"
	for _, r := range []request{first, second} {
		c := h.conf(conf{"cniVersion": "0.4.0"})
		out, err := h.run("ADD", r, c)
		require.NoError(t, err)
		c["prevResult"] = json.RawMessage(out)
		_, err = h.run("CHECK", r, c)
		require.NoError(t, err)
	}
	// ptp has neither a bridge nor a gateway on one.
	other := netns(t)
	c := h.conf(conf{"name": "other", "delegate": conf{"type": "ptp"}})
	h.setEnv(t, strings.ReplaceAll(v4Env, "10.5.", "10.9."))
	c["prevResult"] = h.add(t, attach("p2", other), c)
	_, err := h.run("CHECK", attach("p2", other), c)
	require.NoError(t, err)
	result := new(current.Result)
	require.NoError(t, json.Unmarshal(must(json.Marshal(c["prevResult"])), result))
	require.Len(t, result.IPs, 1)
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
