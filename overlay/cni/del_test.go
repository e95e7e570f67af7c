package cni_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/cni"
)

// DEL frees the address and the interface whatever has become of subnet.env.
func TestDelWithoutTheSameSubnetFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		after func(t *testing.T, h host)
	}{
		{"gone", func(t *testing.T, h host) { require.NoError(t, os.Remove(h.subnetFile)) }},
		{"gone with its directory", func(t *testing.T, h host) { require.NoError(t, os.RemoveAll(filepath.Dir(h.subnetFile))) }},
		{"zero length", func(t *testing.T, h host) { require.NoError(t, os.Truncate(h.subnetFile, 0)) }},
		{"half-written", func(t *testing.T, h host) { require.NoError(t, os.Truncate(h.subnetFile, 70)) }},
		{"another subnet", func(t *testing.T, h host) {
			h.setEnv(t, strings.NewReplacer("10.5.52.1", "10.5.53.1", ":52::1", ":53::1").Replace(dualEnv))
		}},
		{"another network", func(t *testing.T, h host) { h.setEnv(t, strings.ReplaceAll(v4Env, "10.5.", "10.9.")) }},
		{"another family", func(t *testing.T, h host) { h.setEnv(t, v6Env) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, dualEnv)
			ns := netns(t)
			// A limit that fits no other subnet, and a range of the runtime's
			// that the next subnet overlaps.
			conf := h.conf(conf{
				"capabilities":  conf{"ipRanges": true},
				"runtimeConfig": conf{"ipRanges": []any{[]any{conf{"subnet": "fd00:5:0:53::/64"}}}},
				"ipam":          conf{"dataDir": h.ipamDir, "rangeStart": "10.5.52.20"},
			})
			conf["prevResult"] = h.add(t, attach("pod", ns), conf)
			require.Equal(t, []string{"10.5.52.20", "fd00:5:0:52::2", "fd00:5:0:53::2"}, h.reserved(t))
			c.after(t, h)
			_, err := h.run("CHECK", attach("pod", ns), conf)
			require.NoError(t, err, "nor does CHECK need it")
			for range 2 {
				_, err := h.run("DEL", attach("pod", ns), conf)
				require.NoError(t, err)
				require.Empty(t, h.reserved(t))
				require.Empty(t, h.veths(t))
				require.Len(t, links(t, ns), 1)
			}
		})
	}
}

// DEL frees the address when the pod's namespace is gone, in each way that a
// runtime or a crash leaves it.
func TestDelWithoutNamespace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		lose func(t *testing.T, r *request, ns string)
	}{
		{"path gone", func(t *testing.T, _ *request, ns string) { ip(t, "netns", "del", ns) }},
		{"not given", func(t *testing.T, r *request, ns string) {
			ip(t, "netns", "del", ns)
			r.netns = ""
		}},
		{"a plain file", func(t *testing.T, r *request, ns string) {
			ip(t, "netns", "del", ns)
			r.netns = filepath.Join(t.TempDir(), "netns")
			require.NoError(t, os.WriteFile(r.netns, nil, 0o444))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, dualEnv)
			ns := netns(t)
			r := attach("pod", ns)
			h.add(t, r, h.conf(nil))
			require.Len(t, h.reserved(t), 2)
			c.lose(t, &r, ns)
			require.NoError(t, os.Remove(h.subnetFile))
			for range 2 {
				_, err := h.run("DEL", r, h.conf(nil))
				require.NoError(t, err)
				require.Empty(t, h.reserved(t))
			}
			// The kernel drops a namespace, and the veth with it, a little later.
			require.Eventually(t, func() bool { return len(h.veths(t)) == 0 }, 10*time.Second, 10*time.Millisecond)
		})
	}
}

// A namespace that is not where it was may be alive: something holds it open,
// and its pod would go on with an address that is given out again.
func TestDelOfALostNamespace(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ns, other := netns(t), netns(t)
	held, err := os.Open(netnsPath(ns))
	require.NoError(t, err)
	t.Cleanup(func() { held.Close() })
	r := attach("pod", ns)
	h.add(t, r, h.conf(nil))
	h.add(t, attach("other", other), h.conf(nil))
	ip(t, "netns", "del", ns)
	require.Len(t, h.veths(t), 2, "it lives")
	for range 2 {
		_, err := h.run("DEL", r, h.conf(nil))
		require.NoError(t, err)
		require.Equal(t, []string{"twill:cbr0/other/eth0/10.5.52.3/"}, h.aliases(t))
		require.Equal(t, []string{"10.5.52.3"}, h.reserved(t))
	}
}

// A name that nf_tables cannot have (NFT_NAME_MAXLEN, 256; 32 before Linux 4.14)
// is no reason to keep a pod's address and veth.
func TestDelWithALongName(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	r := attach(strings.Repeat("c", 250), netns(t))
	h.add(t, r, h.conf(nil))
	_, err := h.run("DEL", r, h.conf(nil))
	require.NoError(t, err)
	require.Empty(t, h.reserved(t))
	require.Empty(t, h.veths(t))
}

// A bridge plugin that was killed in the middle of ADD may leave a child behind,
// nft, that is done only while DEL is under way.
func TestDelUndoesWhatComesLate(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	dir := t.TempDir()
	for _, p := range []string{"host-local", "twill"} {
		require.NoError(t, os.Symlink(filepath.Join(h.bin, p), filepath.Join(dir, p)))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bridge"), fmt.Appendf(nil, `#!/bin/sh
[ $CNI_COMMAND = DEL ] && nft 'add table bridge nat; add chain bridge nat cni-br-iface-late-eth0'
exec %s
`, filepath.Join(h.bin, "bridge")), 0o755))
	h.path = dir
	_, err := h.run("DEL", attach("late", netns(t)), h.conf(nil))
	require.NoError(t, err)
	require.NotContains(t, h.rules(t), "late")
}

// The bridge plugin leaves the rules of macspoofchk when the namespace is gone.
func TestDelUndoesMACSpoofCheck(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	keys := h.conf(conf{"delegate": conf{"macspoofchk": true}})
	nsA, nsB, nsC := netns(t), netns(t), netns(t)
	a, b, c := attach("a", nsA), attach("b", nsB), attach("c", nsC)
	for _, r := range []request{a, b, c} {
		h.add(t, r, keys)
		require.Contains(t, h.rules(t), "macspoofchk-"+r.container+"-eth0")
		require.Contains(t, h.rules(t), "cni-br-iface-"+r.container+"-eth0-mac")
	}
	// Another network's failed ADD of the same interface, and the DEL after it.
	_, err := h.run("ADD", b, h.conf(conf{"name": "other"}))
	requireCode(t, 4, err)
	_, err = h.run("DEL", b, h.conf(conf{"name": "other"}))
	require.NoError(t, err)
	require.Contains(t, h.rules(t), "macspoofchk-b-eth0")

	ip(t, "netns", "del", nsA)
	for range 2 {
		_, err := h.run("DEL", a, keys)
		require.NoError(t, err)
		require.NotContains(t, h.rules(t), "a-eth0")
	}
	_, err = h.run("DEL", b, h.conf(nil)) // the config has changed
	require.NoError(t, err)
	require.NotContains(t, h.rules(t), "b-eth0")
	require.Equal(t, 1, strings.Count(h.rules(t), "jump cni-br-iface-c-eth0\n")+strings.Count(h.rules(t), "jump cni-br-iface-c-eth0 "))
	require.Contains(t, h.rules(t), "cni-br-iface-c-eth0-mac")
}

// CNI_NETNS may lead elsewhere by now: the number in /proc/PID/ns/net has been
// given to a process of another pod, or of the host.
func TestDelOfAnotherNamespace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		delegate, other string
		network         conf
	}{
		"another container": {"bridge", "other", nil},
		"ptp":               {"ptp", "other", nil},
		"another network":   {"bridge", "pod", conf{"name": "net2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, v4Env)
			h.add(t, attach("first", netns(t)), h.conf(nil))
			ns, others := netns(t), netns(t)
			held, err := os.Open(netnsPath(ns))
			require.NoError(t, err)
			t.Cleanup(func() { held.Close() })
			mine := h.conf(conf{"delegate": conf{"type": c.delegate}})
			r := attach("pod", ns)
			h.add(t, r, mine)
			theirs := h.conf(conf{"delegate": conf{"type": c.delegate}, "ipam": conf{"dataDir": h.ipamDir, "rangeStart": "10.5.52.50"}})
			for k, v := range c.network {
				theirs[k] = v
			}
			theirs["prevResult"] = h.add(t, attach(c.other, others), theirs)
			r.netns = netnsPath(others)
			for range 2 {
				_, err := h.run("DEL", r, mine)
				require.NoError(t, err)
				require.NotContains(t, h.reserved(t), "10.5.52.3")
				require.Len(t, h.veths(t), 2)
				require.NotContains(t, h.aliases(t), "twill:cbr0/pod/eth0/10.5.52.3/", "it was held open")
			}
			_, err = h.run("CHECK", attach(c.other, others), theirs)
			require.NoError(t, err)
			_, err = h.run("DEL", attach(c.other, others), theirs)
			require.NoError(t, err)
			require.Len(t, h.veths(t), 1)
		})
	}
	t.Run("the host's", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, v4Env)
		ip(t, "-n", h.ns, "link", "add", "eth0", "type", "veth", "peer", "name", "uplink")
		ns := netns(t)
		r := attach("pod", ns)
		h.add(t, r, h.conf(nil))
		r.netns = netnsPath(h.ns)
		_, err := h.run("DEL", r, h.conf(nil))
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"eth0", "uplink"}, h.veths(t))
		require.Empty(t, h.reserved(t))
		r.ifname = "eth1"
		_, err = h.run("ADD", r, h.conf(nil))
		requireCode(t, 8, err)
		require.Empty(t, h.reserved(t))
	})
	t.Run("no alias", func(t *testing.T) { // an attachment of an earlier version, or one that was cut off
		t.Parallel()
		h := newHost(t, v4Env)
		ns := netns(t)
		h.add(t, attach("pod", ns), h.conf(nil))
		ip(t, "-n", h.ns, "link", "set", h.veths(t)[0], "alias", "")
		_, err := h.run("DEL", attach("pod", ns), h.conf(nil))
		require.NoError(t, err)
		require.Len(t, links(t, ns), 1)
		require.Empty(t, h.veths(t))
	})
}

// A runtime's cache that was cut off does not keep DEL from its work, nor do
// files of host-local's that were.
func TestDelWithBrokenState(t *testing.T) {
	t.Parallel()
	for _, delegate := range []string{"bridge", "ptp", "macvlan"} {
		for _, prev := range []any{"", "half", conf{}, []any{}, conf{"ips": "x"}, conf{"cniVersion": "0.9.0"}, conf{"cniVersion": "1.1.0", "ips": []any{conf{"address": "10.5."}}}} {
			h := newHost(t, v4Env)
			ip(t, "-n", h.ns, "link", "add", "up0", "type", "veth", "peer", "name", "up1")
			ip(t, "-n", h.ns, "link", "set", "up0", "up")
			ns := netns(t)
			c := h.conf(conf{"delegate": conf{"type": delegate, "master": "up0"}})
			h.add(t, attach("pod", ns), c)
			for _, name := range []string{"10.5.52.66", "last_reserved_ip.0"} {
				require.NoError(t, os.WriteFile(filepath.Join(h.ipamDir, "cbr0", name), nil, 0o600))
			}
			c["prevResult"] = prev
			_, err := h.run("DEL", attach("pod", ns), c)
			require.NoError(t, err, "%s %v", delegate, prev)
			require.Len(t, links(t, ns), 1)
			require.Equal(t, []string{"10.5.52.66"}, h.reserved(t))
		}
	}
}

// What is no request is refused with the spec's codes, and nothing is lost.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ns := netns(t)
	h.add(t, attach("pod", ns), h.conf(nil))
	good := attach("pod", ns)
	for _, c := range []struct {
		name string
		edit func(r *request, c conf)
		code uint
	}{
		{"no container", func(r *request, _ conf) { r.container = "" }, 4},
		{"bad container", func(r *request, _ conf) { r.container = "../x" }, 4},
		{"no interface", func(r *request, _ conf) { r.ifname = "" }, 4},
		{"bad interface", func(r *request, _ conf) { r.ifname = "much-too-long-a-name" }, 4},
		{"no name", func(_ *request, c conf) { c["name"] = "" }, 7},
		{"bad name", func(_ *request, c conf) { c["name"] = "../cbr0" }, 7},
		{"name is no name", func(_ *request, c conf) { c["name"] = 7 }, 6},
		{"version from tomorrow", func(_ *request, c conf) { c["cniVersion"] = "9.0.0" }, 1},
		{"delegate is no object", func(_ *request, c conf) { c["delegate"] = "bridge" }, 7},
	} {
		for _, verb := range []string{"ADD", "DEL", "CHECK"} {
			r, conf := good, h.conf(nil)
			c.edit(&r, conf)
			_, err := h.run(verb, r, conf)
			require.Error(t, err, "%s: %s", c.name, verb)
			if verb != "CHECK" { // where skel looks at the version in another place
				requireCode(t, c.code, err)
			}
		}
	}
	_, err := h.run("UPDATE", good, h.conf(nil))
	require.EqualError(t, err, "unknown CNI_COMMAND: UPDATE")
	require.Equal(t, []string{"10.5.52.2"}, h.reserved(t))
	require.Len(t, h.veths(t), 1)
}

// DEL of what never was, on a host that never had anything.
func TestDelOfNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t, "")
	_, err := h.run("DEL", attach("pod", netns(t)), h.conf(nil))
	require.NoError(t, err)
	require.Empty(t, h.reserved(t))
}

// A config that ADD would refuse by now still deletes.
func TestDelWithAnOutdatedConfig(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ns := netns(t)
	h.add(t, attach("pod", ns), h.conf(nil))
	_, err := h.run("DEL", attach("pod", ns), h.conf(conf{
		"unknown": 1, "subnetFile": "relative", "delegate": conf{"name": "x", "ipam": conf{"type": "dhcp"}},
		"ipam": conf{"dataDir": h.ipamDir, "subnet": "10.9.0.0/24", "routes": "none", "gateway": "10.9.0.1"},
	}))
	require.NoError(t, err)
	require.Empty(t, h.reserved(t))
	require.Empty(t, h.veths(t))
}

// Where twilld does not masquerade the delegate does, for each pod, and takes
// that back at DEL also when twilld has taken over in the meantime.
func TestDelUndoesMasquerade(t *testing.T) {
	t.Parallel()
	delegateMasq := strings.Replace(v4Env, "true", "false", 1)
	for name, after := range map[string]func(t *testing.T, h host){
		"as before":          func(*testing.T, host) {},
		"twilld took over":   func(t *testing.T, h host) { h.setEnv(t, v4Env) },
		"subnet.env is gone": func(t *testing.T, h host) { require.NoError(t, os.Remove(h.subnetFile)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, delegateMasq)
			ns := netns(t)
			conf := h.conf(conf{"delegate": conf{"ipMasqBackend": "nftables"}})
			h.add(t, attach("pod", ns), conf)
			require.Contains(t, h.rules(t), "10.5.52.2")
			after(t, h)
			_, err := h.run("DEL", attach("pod", ns), conf)
			require.NoError(t, err)
			require.NotContains(t, h.rules(t), "10.5.52.2")
			require.Empty(t, h.reserved(t))
		})
	}
}

func (h host) rules(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("ip", "netns", "exec", h.ns, "nft", "list", "ruleset").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// While there is no subnet the error has the spec's code for "try again".
func TestAddWithoutSubnetFile(t *testing.T) {
	t.Parallel()
	const hint = "; is twilld running and ready on this node? `twill status` says what it waits for; the runtime may try again"
	for _, c := range []struct {
		name, env, want string
	}{
		{"absent", "", "waiting 120ms for the node's subnet: reading the node's subnet: open PATH: no such file or directory" + hint},
		{"zero length", "\n", "waiting 120ms for the node's subnet: reading the node's subnet from PATH: the file is empty: its writer was cut off or is not done; want lines such as FLANNEL_SUBNET=10.5.52.1/24" + hint},
		{"wrong", strings.Replace(v4Env, "1450", "14", 1), `waiting 120ms for the node's subnet: reading the node's subnet from PATH: line 3: FLANNEL_MTU="14": want 68 to 65535 bytes` + hint},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "subnet.env")
			if c.env != "" {
				require.NoError(t, os.WriteFile(path, []byte(c.env), 0o644))
			}
			err := addOnly(t, path)
			require.EqualError(t, err, strings.ReplaceAll(c.want, "PATH", path))
			requireCode(t, 11, err)
		})
	}
	t.Run("unreadable", func(t *testing.T) {
		t.Parallel()
		path := t.TempDir()
		err := addOnly(t, path)
		require.EqualError(t, err, "reading the node's subnet: read "+path+": is a directory")
		requireCode(t, 5, err)
	})
}

func addOnly(t *testing.T, subnetFile string) error {
	t.Helper()
	funcs := cni.Plugin{Wait: 120 * time.Millisecond}.Funcs(t.Context())
	return funcs.Add(&skel.CmdArgs{StdinData: []byte(`{"name":"cbr0","type":"twill","subnetFile":"` + subnetFile + `"}`)})
}

func requireCode(t *testing.T, code uint, err error) {
	t.Helper()
	var e *types.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, code, e.Code)
}
