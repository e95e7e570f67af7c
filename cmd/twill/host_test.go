package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A network config that cannot be used is told, and stops nobody: twilld waits
// for another one, and tells the cluster.
func TestHostPrepareWithoutAConfig(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	twill := filepath.Join(t.TempDir(), "twill")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", twill, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	path := filepath.Join(t.TempDir(), "net-conf.json")
	prepare := func() (changed, warned string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		const off = "ip link set lo up; echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding; exec \"$@\""
		cmd := exec.CommandContext(t.Context(), "unshare", "--net", "sh", "-ec", off, "sh", twill, "host", "prepare", "--net-config-path", path)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		require.NoError(t, cmd.Run(), "%s%s", &stdout, &stderr)
		return stdout.String(), stderr.String()
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
