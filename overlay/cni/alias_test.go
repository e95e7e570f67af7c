package cni_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/pods"
)

// The host veth says whose it is, and how far the daemon may guard it.
func TestAlias(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("4c01db0b339c", 6)[:64]
	for _, c := range []struct {
		name, env string
		id        string
		keys      conf
		want      string
	}{
		{"IPv4", v4Env, id, nil, "twill:cbr0/" + id + "/eth0/10.5.52.2/"},
		{"dual", dualEnv, id, nil, "twill:cbr0/" + id + "/eth0/10.5.52.2/fd00:5:0:52::2"},
		{"not guarded", dualEnv, id, conf{"spoofCheck": false}, "twill:cbr0/" + id + "/eth0//"},
		{"guarded", v4Env, id, conf{"spoofCheck": true}, "twill:cbr0/" + id + "/eth0/10.5.52.2/"},
		{"two addresses of a family", dualEnv, id, conf{
			"capabilities":  conf{"ipRanges": true},
			"runtimeConfig": conf{"ipRanges": []any{[]any{conf{"subnet": "fd00:9::/64"}}}},
		}, "twill:cbr0/" + id + "/eth0//"},
		{"ptp", v4Env, id, conf{"delegate": conf{"type": "ptp"}}, "twill:cbr0/" + id + "/eth0/10.5.52.2/"},
		{"an old version", v4Env, id, conf{"cniVersion": "0.2.0"}, "twill:cbr0/" + id + "/eth0/10.5.52.2/"},
		{"an endless ID", v4Env, strings.Repeat("a", 300), nil, "twill:cbr0/~98a7f2a1d9da6bd8/eth0/10.5.52.2/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, c.env)
			r := attach(c.id, netns(t))
			h.add(t, r, h.conf(c.keys))
			if len(c.id) > 64 {
				p, err := pods.Parse(h.alias(t))
				require.NoError(t, err)
				require.True(t, p.Is("cbr0", c.id, "eth0"))
				return
			}
			require.Equal(t, c.want, h.alias(t))
		})
	}
}

// A delegate without a host veth needs no alias; its pods come and go as well.
func TestMacvlan(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	ip(t, "-n", h.ns, "link", "add", "up0", "type", "veth", "peer", "name", "up1")
	ip(t, "-n", h.ns, "link", "set", "up0", "up")
	ns := netns(t)
	c := h.conf(conf{"delegate": conf{"type": "macvlan", "master": "up0"}})
	c["prevResult"] = h.add(t, attach("pod", ns), c)
	require.Equal(t, []string{"10.5.52.2/24"}, addrs(t, ns, "eth0"))
	require.Equal(t, []string{"", ""}, h.aliases(t))
	_, err := h.run("CHECK", attach("pod", ns), c)
	require.NoError(t, err)
	for range 2 {
		_, err = h.run("DEL", attach("pod", ns), c)
		require.NoError(t, err)
		require.Empty(t, h.reserved(t))
		require.Len(t, links(t, ns), 1)
	}
}

// An ADD that fails after its delegate has succeeded undoes what that did.
func TestAddUndoesTheDelegate(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	dir, ns := t.TempDir(), netns(t)
	// A delegate that says it made an interface and did not.
	script := fmt.Sprintf(`#!/bin/sh
echo $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME >>%s/calls
cat >/dev/null
test $CNI_COMMAND = ADD && echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"x"}]}'
exit 0
`, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "odd"), []byte(script), 0o755))
	h.path = h.bin + ":" + dir
	_, err := h.run("ADD", attach("pod", ns), h.conf(conf{"delegate": conf{"type": "odd"}}))
	require.EqualError(t, err, "finding link eth0 of the pod: no such device")
	requireCode(t, 5, err)
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	require.NoError(t, err)
	require.Equal(t, "ADD pod eth0\nDEL pod eth0\n", string(calls))
}

// What a delegate does wrong is told with its name.
func TestDelegateMisbehaves(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	for body, want := range map[string]string{
		`echo '{"code":110,"msg":"full","details":"no room"}'; exit 1`: "running the delegate plugin odd with ADD: full; no room",
		`echo oops >&2; exit 3`:               "running the delegate plugin odd with ADD: exit status 3 oops",
		`kill -9 $$`:                          "running the delegate plugin odd with ADD: signal: killed",
		`echo nonsense`:                       "running the delegate plugin odd with ADD: reading its result: ",
		`echo '{"cniVersion":"9.9.9"}'`:       "running the delegate plugin odd with ADD: reading its result: ",
		`echo '{"code":0,"msg":""}'; exit 1`:  `running the delegate plugin odd with ADD: exit status 1 {"code":0,"msg":""}`,
		`echo '{"code":0,"msg":"x"}'; exit 1`: "running the delegate plugin odd with ADD: x",
	} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "odd"), []byte("#!/bin/sh\ncat >/dev/null\n"+body+"\n"), 0o755))
		h.path = dir
		_, err := h.run("ADD", attach("pod", netns(t)), h.conf(conf{"delegate": conf{"type": "odd"}}))
		require.ErrorContains(t, err, want)
	}
}
