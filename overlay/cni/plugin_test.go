package cni_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"
)

// The whole life of two pods, in each combination of families.
func TestLife(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, env       string
		mtu             int
		a, b, gws, dsts []string
	}{
		{"IPv4", v4Env, 1450, []string{"10.5.52.2/24"}, []string{"10.5.52.3/24"}, []string{"10.5.52.1"}, []string{"10.5.0.0/16"}},
		{"IPv6", strings.Replace(v6Env, "false", "true", 1), 1430, []string{"fd00:5:0:52::2/64"}, []string{"fd00:5:0:52::3/64"}, []string{"fd00:5:0:52::1"}, []string{"fd00:5::/48"}},
		{
			"dual", dualEnv, 1430, []string{"10.5.52.2/24", "fd00:5:0:52::2/64"}, []string{"10.5.52.3/24", "fd00:5:0:52::3/64"},
			[]string{"10.5.52.1", "fd00:5:0:52::1"}, []string{"10.5.0.0/16", "10.6.0.0/16", "fd00:5::/48"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, c.env)
			conf := h.conf(nil)
			nsA, nsB := netns(t), netns(t)
			a, b := attach("pod-a", nsA), attach("pod-b", nsB)

			result := h.add(t, a, conf)
			require.Equal(t, "1.1.0", result.CNIVersion)
			requireResult(t, result, c.a, c.gws, c.dsts)
			requireResult(t, h.add(t, b, conf), c.b, c.gws, c.dsts)
			require.Equal(t, c.a, addrs(t, nsA, "eth0"))
			require.Equal(t, c.b, addrs(t, nsB, "eth0"))
			require.Len(t, h.veths(t), 2)
			require.Len(t, h.reserved(t), 2*len(c.a))
			for _, ns := range []string{nsA, nsB} {
				require.Equal(t, c.mtu, links(t, ns, "dev", "eth0")[0].MTU)
			}
			require.Equal(t, c.mtu, links(t, h.ns, "dev", "cni0")[0].MTU)
			for i := range c.a {
				addr, _, _ := strings.Cut(c.b[i], "/")
				reaches(t, nsA, addr)
				reaches(t, nsA, c.gws[i])
			}
			require.NoDirExists(t, h.dataDir, "no state of our own")

			conf["prevResult"] = result
			_, err := h.run("CHECK", a, conf)
			require.NoError(t, err)
			last := c.a[len(c.a)-1]
			ip(t, "-n", nsA, "addr", "del", last, "dev", "eth0")
			_, err = h.run("CHECK", a, conf)
			require.EqualError(t, err, "checking interface eth0 of container pod-a: it has not the address "+last)

			for range 2 { // DEL twice
				_, err = h.run("DEL", a, conf)
				require.NoError(t, err)
				require.Len(t, h.veths(t), 1)
				require.Len(t, h.reserved(t), len(c.a))
				require.Len(t, links(t, nsA), 1, "only lo is left")
			}
			_, err = h.run("CHECK", a, conf)
			require.EqualError(t, err, "checking interface eth0 of container pod-a: the pod has no such interface")
			delete(conf, "prevResult")
			_, err = h.run("DEL", b, conf)
			require.NoError(t, err)
			require.Empty(t, h.veths(t))
			require.Empty(t, h.reserved(t))
		})
	}
}

func requireResult(t *testing.T, r *current.Result, ips, gws, dsts []string) {
	t.Helper()
	var gotIPs, gotGWs, gotDsts []string
	for _, ip := range r.IPs {
		gotIPs = append(gotIPs, ip.Address.String())
		gotGWs = append(gotGWs, ip.Gateway.String())
		require.Equal(t, "eth0", r.Interfaces[*ip.Interface].Name)
	}
	for _, route := range r.Routes {
		gotDsts = append(gotDsts, route.Dst.String())
	}
	require.Equal(t, ips, gotIPs)
	require.Equal(t, gws, gotGWs)
	require.Equal(t, dsts, gotDsts)
}

// What a user and a runtime ask for reaches the pod.
func TestAddWithKeys(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ns := netns(t)
	conf := h.conf(conf{
		"capabilities": conf{"mac": true, "ips": true},
		"delegate":     conf{"bridge": "mynet0", "isDefaultGateway": true, "hairpinMode": true, "mtu": 1400},
		"ipam":         conf{"dataDir": h.ipamDir, "routes": []any{conf{"dst": "10.96.0.0/12"}}, "rangeStart": "10.5.52.50"},
		"dns":          conf{"nameservers": []string{"10.96.0.10"}},
	})
	requireResult(t, h.add(t, attach("first", netns(t)), conf),
		[]string{"10.5.52.50/24"}, []string{"10.5.52.1"}, []string{"10.96.0.0/12", "10.5.0.0/16", "0.0.0.0/0"})

	conf["runtimeConfig"] = map[string]any{"mac": "02:00:00:00:00:07", "ips": []string{"10.5.52.77"}}
	result := h.add(t, attach("pod", ns), conf)
	require.Equal(t, "10.5.52.77/24", result.IPs[0].Address.String())
	require.Equal(t, []string{"10.96.0.10"}, result.DNS.Nameservers)
	eth0 := links(t, ns, "dev", "eth0")[0]
	require.Equal(t, "02:00:00:00:00:07", eth0.Addr)
	require.Equal(t, 1400, eth0.MTU)
	for _, veth := range links(t, h.ns, "type", "veth") {
		require.Equal(t, "mynet0", veth.Master)
	}
	_, err := h.run("DEL", attach("pod", ns), conf)
	require.NoError(t, err)
	require.Equal(t, []string{"10.5.52.50"}, h.reserved(t))

	r := attach("third", netns(t))
	delete(conf, "runtimeConfig")
	r.args = "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.5.52.99"
	require.Equal(t, "10.5.52.99/24", h.add(t, r, conf).IPs[0].Address.String())
}

func TestOtherDelegate(t *testing.T) {
	t.Parallel()
	h := newHost(t, dualEnv)
	ns := netns(t)
	conf := h.conf(conf{"delegate": conf{"type": "ptp"}})
	result := h.add(t, attach("pod", ns), conf)
	require.Len(t, result.IPs, 2)
	require.Equal(t, 1430, links(t, ns, "dev", "eth0")[0].MTU)
	require.NoError(t, os.Remove(h.subnetFile))
	_, err := h.run("DEL", attach("pod", ns), conf)
	require.NoError(t, err)
	require.Empty(t, h.veths(t))
	require.Empty(t, h.reserved(t))
}

// One container attached twice: each attachment lives and dies by itself.
func TestTwoInterfaces(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ns := netns(t)
	first, second := attach("pod", ns), attach("pod", ns)
	second.ifname = "net1"
	h.add(t, first, h.conf(nil))
	h.add(t, second, h.conf(nil))
	require.Equal(t, []string{"10.5.52.2", "10.5.52.3"}, h.reserved(t))
	_, err := h.run("DEL", first, h.conf(nil))
	require.NoError(t, err)
	require.Equal(t, []string{"10.5.52.3"}, h.reserved(t))
	require.Equal(t, []string{"10.5.52.3/24"}, addrs(t, ns, "net1"))
	_, err = h.run("DEL", second, h.conf(nil))
	require.NoError(t, err)
	require.Empty(t, h.reserved(t))
	require.Empty(t, h.veths(t))
}

// The first pod of a booting node starts before the lease is there.
func TestAddBeforeSubnetFile(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]string{"absent": "", "half-written": v4Env[:40]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, before)
			written := make(chan error, 1)
			time.AfterFunc(300*time.Millisecond, func() {
				written <- os.WriteFile(h.subnetFile, []byte(v4Env), 0o644)
			})
			result := h.add(t, attach("pod", netns(t)), h.conf(nil))
			require.NoError(t, <-written)
			require.Equal(t, "10.5.52.2/24", result.IPs[0].Address.String())
		})
	}
}

// A failed ADD leaves nothing, and says which plugin failed.
func TestAddFails(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ip(t, "-n", h.ns, "link", "add", "cni0", "type", "bridge")
	ip(t, "-n", h.ns, "addr", "add", "10.5.7.1/24", "dev", "cni0")
	ns := netns(t)
	_, err := h.run("ADD", attach("pod", ns), h.conf(nil))
	require.EqualError(t, err, `running the delegate plugin bridge with ADD: failed to set bridge addr: "cni0" already has an IP address different from 10.5.52.1/24`)
	require.Empty(t, h.veths(t))
	require.Empty(t, h.reserved(t))
	require.Len(t, links(t, ns), 1)

	for want, keys := range map[string]conf{
		`checking the network config "cbr0": hairpinMode is not a key of type twill; want one of args, capabilities, cniVersion, dataDir, delegate, device, dns, ipam, name, prevResult, runtimeConfig, spoofCheck, subnetFile, type, and keys of the delegate plugin in "delegate"`: {"hairpinMode": true},
		`finding the delegate plugin ipvlan: it is not in CNI_PATH, which is ` + h.bin + `; install the CNI reference plugins beside twill`:                                                                                                                                          {"delegate": conf{"type": "ipvlan"}},
		`building the delegate's config for network "cbr0": ipam.rangeEnd is 10.5.53.9; want an address of the node's subnet, 10.5.52.0/24`:                                                                                                                                          {"ipam": conf{"rangeEnd": "10.5.53.9"}},
	} {
		_, err := h.run("ADD", attach("pod", ns), h.conf(keys))
		require.EqualError(t, err, want)
		requireCode(t, 7, err)
	}
}

// An ADD of what is there already is an error by the spec, and costs the
// attachment that is there nothing, whichever network it belongs to.
func TestAddTwice(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]conf{
		"same network":     nil,
		"another network":  {"name": "other"},
		"another delegate": {"delegate": conf{"type": "ptp"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, dualEnv)
			ns := netns(t)
			pod := attach("pod", ns)
			c := h.conf(nil)
			c["prevResult"] = h.add(t, pod, h.conf(nil))
			alias := h.alias(t)
			for range 2 {
				_, err := h.run("ADD", pod, h.conf(second))
				require.EqualError(t, err, "adding interface eth0 to container pod: it has an interface of that name already; a repeated ADD needs a DEL before it, a second network another CNI_IFNAME")
				requireCode(t, 4, err)
			}
			require.Equal(t, alias, h.alias(t))
			require.Equal(t, []string{"10.5.52.2/24", "fd00:5:0:52::2/64"}, addrs(t, ns, "eth0"))
			require.Equal(t, []string{"10.5.52.2", "fd00:5:0:52::2"}, h.reserved(t))
			_, err := h.run("CHECK", pod, c)
			require.NoError(t, err)
		})
	}
}

// Where there is no namespace there is nothing to make or to undo.
func TestAddWithoutNamespace(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ns := netns(t)
	h.add(t, attach("pod", ns), h.conf(nil))
	_, err := h.run("ADD", request{container: "pod", ifname: "eth0", netns: "/run/netns/none"}, h.conf(nil))
	requireCode(t, 3, err)
	require.Len(t, h.veths(t), 1)
	require.Equal(t, []string{"10.5.52.2"}, h.reserved(t))
}

func TestVersion(t *testing.T) {
	t.Parallel()
	h := newHost(t, "")
	out, err := h.run("VERSION", request{}, nil)
	require.NoError(t, err)
	var v struct{ CNIVersion, SupportedVersions any }
	require.NoError(t, json.Unmarshal(out, &v))
	require.Equal(t, "1.1.0", v.CNIVersion)
	require.Equal(t, []any{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}, v.SupportedVersions)

	for _, flag := range []string{"--version", "-version"} {
		out, err := exec.Command(filepath.Join(h.bin, "twill"), flag).Output()
		require.NoError(t, err)
		require.Equal(t, "twill-cni dev\n", string(out))
	}
}
