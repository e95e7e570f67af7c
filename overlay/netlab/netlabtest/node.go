package netlabtest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet/envfile"
)

// Run runs a shell script on a host, which ends at the first command that
// fails, and returns what it writes. The script has args as $1 and so on.
func Run(t *testing.T, h *netlab.Host, script string, args ...string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), append([]string{"sh", "-euc", script, "sh"}, args...)...)
	require.NoError(t, err)
	return out
}

// StartTwilld starts a node's daemon and waits until it is ready.
func StartTwilld(t *testing.T, n *netlab.Node, flags ...string) *netlab.Process {
	t.Helper()
	daemon, err := n.StartTwilld(flags...)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	require.NoError(t, n.WaitReady(ctx, daemon))
	return daemon
}

// AddPod adds a pod to a node.
func AddPod(t *testing.T, n *netlab.Node, name string) *netlab.Pod {
	t.Helper()
	p, err := n.AddPod(t.Context(), name)
	require.NoError(t, err)
	return p
}

// Env reads the subnet.env of a node.
func Env(t *testing.T, n *netlab.Node) envfile.Env {
	t.Helper()
	env, err := envfile.Read(n.Path("/run/twill/subnet.env"))
	require.NoError(t, err)
	return env
}
