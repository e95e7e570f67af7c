package cni_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func listed(containers ...string) []any {
	list := []any{}
	for _, c := range containers {
		list = append(list, conf{"containerID": c, "ifname": "eth0"})
	}
	return list
}

// lose ends a pod as a reboot does: its veth goes, its addresses stay reserved.
func (h host) lose(t *testing.T, ns string) {
	t.Helper()
	ip(t, "-n", ns, "link", "del", "eth0")
}

// GC releases what neither the list nor the kernel knows, and nothing else.
func TestGC(t *testing.T) {
	t.Parallel()
	h := newHost(t, dualEnv)
	ns := map[string]string{}
	for _, id := range []string{"alive-listed", "alive", "gone-listed", "gone"} {
		ns[id] = netns(t)
		h.add(t, attach(id, ns[id]), h.conf(nil))
	}
	h.lose(t, ns["gone"])
	h.lose(t, ns["gone-listed"])
	require.NoError(t, os.WriteFile(filepath.Join(h.ipamDir, "cbr0", "10.5.52.77"), nil, 0o600), "what a power loss leaves")
	require.Len(t, h.reserved(t), 9)

	// What no list says is ten minutes old at least: not these.
	_, err := h.run("GC", request{}, h.conf(nil))
	require.NoError(t, err)
	require.Len(t, h.reserved(t), 9)

	gc := h.conf(conf{"cni.dev/valid-attachments": listed("alive-listed", "gone-listed")})
	for range 2 {
		_, err = h.run("GC", request{}, gc)
		require.NoError(t, err)
		require.Equal(t, []string{
			"10.5.52.2", "10.5.52.3", "10.5.52.4",
			"fd00:5:0:52::2", "fd00:5:0:52::3", "fd00:5:0:52::4",
		}, h.reserved(t))
	}
	for _, list := range []any{listed(), nil} { // null is libcni's list of none
		_, err = h.run("GC", request{}, h.conf(conf{"cni.dev/valid-attachments": list, "cni.dev/attachments": list}))
		require.NoError(t, err)
		require.Equal(t, []string{"10.5.52.2", "10.5.52.3", "fd00:5:0:52::2", "fd00:5:0:52::3"}, h.reserved(t), "a living pod keeps its address")
	}
	require.Len(t, h.veths(t), 2)
}

// Without a list reality alone counts, and age.
func TestGCWithoutAList(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	for _, id := range []string{"alive", "gone"} {
		ns := netns(t)
		h.add(t, attach(id, ns), h.conf(nil))
		if id == "gone" {
			h.lose(t, ns)
		}
	}
	for _, a := range h.reserved(t) {
		old := time.Now().Add(-11 * time.Minute)
		require.NoError(t, os.Chtimes(filepath.Join(h.ipamDir, "cbr0", a), old, old))
	}
	_, err := h.run("GC", request{}, h.conf(nil))
	require.NoError(t, err)
	require.Equal(t, []string{"10.5.52.2"}, h.reserved(t))
}

// Other networks, other pods and other IPAM plugins are none of our business;
// a delegate without veths has the list alone.
func TestGCElsewhere(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ns := netns(t)
	h.add(t, attach("gone", ns), h.conf(nil))
	h.lose(t, ns)
	none := conf{"cni.dev/valid-attachments": listed()}
	_, err := h.run("GC", request{}, h.conf(conf{"name": "other", "cni.dev/valid-attachments": listed()}))
	require.NoError(t, err)
	require.Len(t, h.reserved(t), 1)

	none["delegate"] = conf{"type": "macvlan"}
	delete(none, "cni.dev/valid-attachments")
	_, err = h.run("GC", request{}, h.conf(none))
	require.NoError(t, err)
	require.Len(t, h.reserved(t), 1)
	none["cni.dev/valid-attachments"] = listed("gone")
	_, err = h.run("GC", request{}, h.conf(none))
	require.NoError(t, err)
	require.Len(t, h.reserved(t), 1)
	none["cni.dev/valid-attachments"] = listed()
	_, err = h.run("GC", request{}, h.conf(none))
	require.NoError(t, err)
	require.Empty(t, h.reserved(t))
}

func TestGCErrors(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ns := netns(t)
	h.add(t, attach("gone", ns), h.conf(nil))
	h.lose(t, ns)
	_, err := h.run("GC", request{}, h.conf(conf{"cni.dev/valid-attachments": "all"}))
	require.EqualError(t, err, `cni.dev/valid-attachments is "all"; want a list such as [{"containerID":"4c01db0b339c","ifname":"eth0"}]`)
	requireCode(t, 7, err)
	_, err = h.run("GC", request{}, h.conf(conf{"cni.dev/valid-attachments": []any{conf{"containerID": "x"}}}))
	require.EqualError(t, err, `cni.dev/valid-attachments is [{"containerID":"x"}]; want containerID and ifname of each`)
	requireCode(t, 7, err)
	_, err = h.run("GC", request{}, h.conf(conf{"cniVersion": "1.0.0", "cni.dev/valid-attachments": listed()}))
	require.EqualError(t, err, "config version does not allow GC")
	requireCode(t, 1, err)
	require.Len(t, h.reserved(t), 1)

	// An error of the delegate's is told, and keeps nothing from being done.
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\ncat >%s/stdin\necho '{\"code\":110,\"msg\":\"busy\"}'\nexit 1\n", dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "odd"), []byte(script), 0o755))
	h.path = dir
	_, err = h.run("GC", request{}, h.conf(conf{"cni.dev/valid-attachments": listed(), "delegate": conf{"type": "odd"}}))
	require.EqualError(t, err, "running the delegate plugin odd with GC: busy")
	requireCode(t, 110, err)
	stdin, err := os.ReadFile(filepath.Join(dir, "stdin"))
	require.NoError(t, err)
	require.Contains(t, string(stdin), `"cni.dev/valid-attachments":[]`)
	require.Empty(t, h.reserved(t))
}

// The rules of a masquerading delegate go with the pod: at DEL whatever has
// become of it, and at GC.
func TestMasqueradeGoes(t *testing.T) {
	t.Parallel()
	masq := strings.Replace(dualEnv, "IPMASQ=true", "IPMASQ=false", 1)
	for name, keys := range map[string]conf{
		"our choice":            {},
		"nftables":              {"delegate": conf{"ipMasqBackend": "nftables"}},
		"iptables":              {"delegate": conf{"ipMasqBackend": "iptables"}},
		"ptp, our choice":       {"delegate": conf{"type": "ptp"}},
		"ptp, asked for anyway": {"delegate": conf{"type": "ptp", "ipMasq": true, "ipMasqBackend": "iptables"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, masq)
			nsA, nsB, nsC := netns(t), netns(t), netns(t)
			a, b, c := attach("a", nsA), attach("b", nsB), attach("c", nsC)
			second := a
			second.ifname = "net1"
			if strings.HasPrefix(name, "ptp") { // which cannot do that
				second = attach("a2", netns(t))
			}
			del := h.conf(keys)
			del["prevResult"] = h.add(t, a, h.conf(keys))
			for _, r := range []request{second, b, c} {
				h.add(t, r, h.conf(keys))
			}
			for n := 2; n <= 5; n++ {
				require.Contains(t, h.masquerade(t), fmt.Sprintf("10.5.52.%d", n))
				require.Contains(t, h.masquerade(t), fmt.Sprintf("fd00:5:0:52::%d", n))
			}
			if name == "our choice" {
				require.Contains(t, h.rules(t), "cni_plugins_masquerade")
			}

			// One of two interfaces leaves the other's rules.
			_, err := h.run("DEL", a, del)
			require.NoError(t, err)
			require.NotContains(t, h.masquerade(t), "10.5.52.2")
			require.NotContains(t, h.masquerade(t), "fd00:5:0:52::2")
			require.Contains(t, h.masquerade(t), "10.5.52.3")
			require.Contains(t, h.masquerade(t), "fd00:5:0:52::3")
			for _, r := range []request{second, b} { // by now the namespace is gone, and prevResult too
				ip(t, "netns", "del", strings.TrimPrefix(r.netns, "/run/netns/"))
				_, err = h.run("DEL", r, h.conf(keys))
				require.NoError(t, err)
			}
			require.NotContains(t, h.masquerade(t), "10.5.52.3")
			require.NotContains(t, h.masquerade(t), "10.5.52.4")
			require.NotContains(t, h.masquerade(t), "fd00:5:0:52::4")

			// c is never deleted.
			h.lose(t, nsC)
			other := h.conf(keys)
			other["name"], other["cni.dev/valid-attachments"] = "other", listed()
			mine := h.conf(keys)
			mine["cni.dev/valid-attachments"] = listed("c")
			for _, gc := range []conf{other, mine} {
				_, err = h.run("GC", request{}, gc)
				require.NoError(t, err)
				require.Contains(t, h.masquerade(t), "10.5.52.5")
			}
			mine["cni.dev/valid-attachments"] = listed()
			_, err = h.run("GC", request{}, mine)
			require.NoError(t, err)
			require.NotContains(t, h.masquerade(t), "10.5.52.5")
			require.NotContains(t, h.masquerade(t), "CNI-")
			require.Empty(t, h.reserved(t))
		})
	}
}

// The rules of a masquerading delegate go without nft, too, which a host may
// have lost, or a runtime not have in its PATH.
func TestMasqueradeGoesWithoutNFT(t *testing.T) {
	t.Parallel()
	h := newHost(t, strings.Replace(dualEnv, "IPMASQ=true", "IPMASQ=false", 1))
	a, b := attach("a", netns(t)), attach("b", netns(t))
	h.add(t, a, h.conf(nil))
	h.add(t, b, h.conf(nil))
	// What is not by the plugins has perhaps no comment.
	ip(t, "netns", "exec", h.ns, "nft", "insert rule inet cni_plugins_masquerade masq_checks ip saddr 192.0.2.1 counter")
	blind := h
	blind.environ = []string{"PATH=" + t.TempDir()}
	_, err := blind.run("DEL", attach("never", a.netns), h.conf(conf{"name": "other"}))
	require.NoError(t, err)
	for range 2 {
		_, err := blind.run("DEL", a, h.conf(nil))
		require.NoError(t, err)
	}
	require.NotContains(t, h.rules(t), "10.5.52.2")
	require.Equal(t, 2, strings.Count(h.rules(t), "id: b"))
	h.lose(t, strings.TrimPrefix(b.netns, "/run/netns/"))
	_, err = blind.run("GC", request{}, h.conf(conf{"cni.dev/valid-attachments": listed()}))
	require.NoError(t, err)
	require.NotContains(t, h.rules(t), "id: ")
	require.Contains(t, h.rules(t), "192.0.2.1")
}

// masquerade returns what there is of rules, in either form.
func (h host) masquerade(t *testing.T) string {
	t.Helper()
	all := ""
	for _, command := range []string{"nft list ruleset", "iptables -t nat -S", "ip6tables -t nat -S"} {
		args := append([]string{"netns", "exec", h.ns}, strings.Fields(command)...)
		out, err := exec.Command("ip", args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		all += strings.ReplaceAll(string(out), "/32", "") + "\n"
	}
	return all
}
