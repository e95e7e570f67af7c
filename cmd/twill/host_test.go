package main

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/lastgood"
	"github.com/twill-net/twill/subnet"
)

// preparing builds twill and returns what runs `twill host prepare` in a
// namespace of its own, where a script has been before.
func preparing(t *testing.T) func(script string, env []string, args ...string) (changed, warned string, err error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	twill := filepath.Join(t.TempDir(), "twill")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", twill, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return func(script string, env []string, args ...string) (string, string, error) {
		var stdout, stderr bytes.Buffer
		script = "ip link set lo up; echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding\n" + script + "\nexec \"$@\""
		cmd := exec.CommandContext(t.Context(), "unshare", append([]string{"--net", "sh", "-ec", script, "sh", twill, "host", "prepare"}, args...)...)
		cmd.Env = append(os.Environ(), env...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		return stdout.String(), stderr.String(), err
	}
}

// A network config that cannot be used is told, and stops nobody: twilld waits
// for another one, and tells the cluster.
func TestHostPrepareWithoutAConfig(t *testing.T) {
	run := preparing(t)
	path := filepath.Join(t.TempDir(), "net-conf.json")
	prepare := func() (changed, warned string) {
		t.Helper()
		changed, warned, err := run("", nil, "--net-config-path", path)
		require.NoError(t, err, "%s%s", changed, warned)
		return changed, warned
	}
	const v4, v6 = "net/ipv4/ip_forward: 0 → 1", "net/ipv6/conf/all/forwarding: 0 → 1"
	changed, warned := prepare()
	require.Contains(t, warned, "Warning: reading the network config: open "+path)
	require.Contains(t, changed, v4)
	require.Contains(t, changed, v6)

	require.NoError(t, os.WriteFile(path, []byte(`{"Netwrok": "10.244.0.0/16"}`), 0o644))
	changed, warned = prepare()
	require.Contains(t, warned, "Warning: the network config "+path+" cannot be used: Netwrok")
	require.Contains(t, changed, v4)
	require.Contains(t, changed, v6)

	require.NoError(t, os.WriteFile(path, []byte(`{"Network": "10.244.0.0/16"}`), 0o644))
	changed, warned = prepare()
	require.Empty(t, warned)
	require.Contains(t, changed, v4)
	require.NotContains(t, changed, v6)
}

// The interface is told by the daemon's flags, or its variables, and else by
// what the daemon knew last.
func TestHostPrepareInterface(t *testing.T) {
	run := preparing(t)
	netConf := filepath.Join(t.TempDir(), "net-conf.json")
	require.NoError(t, os.WriteFile(netConf, []byte(`{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/56"}`), 0o644))
	const uplinks = `for i in 0 1; do
			ip link add eth$i type veth peer name far$i
			ip link set far$i up
			ip link set eth$i up
			ip address add 2001:db8:$i::1/64 dev eth$i nodad
			echo 1 >/proc/sys/net/ipv6/conf/eth$i/accept_ra
		done`
	var own subnet.Lease
	own.Subnets[subnet.IPv6] = netip.MustParsePrefix("fd00:244:0:1::/64")
	own.PublicIPs[subnet.IPv6] = netip.MustParseAddr("2001:db8:1::1")
	known := t.TempDir()
	write := func(dir string) {
		t.Helper()
		require.NoError(t, lastgood.Write(filepath.Join(dir, lastgood.FileName), lastgood.State{Config: []byte("{}"), Own: subnet.Held{Lease: own}}, slices.Values([]subnet.Record(nil))))
	}
	write(known)
	own.PublicIPs[subnet.IPv6], own.Sources[subnet.IPv6] = netip.MustParseAddr("2001:db8:9::1"), netip.MustParseAddr("2001:db8:1::1")
	translated, broken := t.TempDir(), t.TempDir()
	write(translated)
	require.NoError(t, os.WriteFile(filepath.Join(broken, lastgood.FileName), []byte("{}"), 0o600))
	for name, tt := range map[string]struct {
		env, args []string
		want      string // "": none
		warned    string
		err       bool
	}{
		"nothing":          {},
		"--iface-regex":    {args: []string{"--iface-regex", `^e"?th7,h1$`}, want: "eth1"},
		"its variable":     {env: []string{"TWILLD_IFACE_REGEX=^eth1$"}, want: "eth1"},
		"the flag wins":    {env: []string{"TWILLD_IFACE_REGEX=^eth1$"}, args: []string{"--iface-regex=^eth0$"}, want: "eth0"},
		"a variable":       {env: []string{"TWILLD_IFACE=eth1"}, want: "eth1"},
		"by a route":       {env: []string{"TWILLD_IFACE_CAN_REACH=2001:db8:1::7"}, want: "eth1"},
		"misspelt":         {env: []string{"TWILLD_IFACE_REGEXP=eth1"}, warned: "twill: TWILLD_IFACE_REGEXP is no variable of twill; did you mean TWILLD_IFACE_REGEX?\n"},
		"bad pattern":      {env: []string{"TWILLD_IFACE_REGEX=("}, warned: "twill: --iface-regex \"(\" is not a regular expression: error parsing regexp: missing closing ): `(`\n", err: true},
		"bad address":      {args: []string{"--iface-can-reach=eth1"}, warned: "twill: --iface-can-reach \"eth1\" is not an address\n", err: true},
		"what was last":    {args: []string{"--state-dir", known}, want: "eth1"},
		"last, behind NAT": {env: []string{"TWILLD_STATE_DIR=" + translated}, want: "eth1"},
		"flags before it":  {args: []string{"--state-dir", known, "--iface=eth0"}, want: "eth0"},
		"unreadable":       {args: []string{"--state-dir", broken}, warned: "Warning: reading the last good state from " + broken + "/last-good.json: it has version 0, want 1: the interface is chosen without it\n"},
	} {
		t.Run(name, func(t *testing.T) {
			changed, warned, err := run(uplinks, append([]string{"TWILLD_STATE_DIR=" + t.TempDir()}, tt.env...), append([]string{"--net-config-path", netConf}, tt.args...)...)
			require.Equal(t, tt.err, err != nil, "%s%s", changed, warned)
			require.Equal(t, tt.warned, warned)
			for _, name := range []string{"eth0", "eth1"} {
				what := "sysctl net/ipv6/conf/" + name + "/accept_ra: 1 → 2"
				if name == tt.want {
					require.Contains(t, changed, what)
				} else {
					require.NotContains(t, changed, what)
				}
			}
		})
	}
}
