package lifecycle

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// A node that boots while the store is down goes by what it knew: its pods and
// those of its peers reach each other. It does not call itself ready by that.
func TestRebootWhileTheStoreIsDown(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 2})
	n := c.Node(1)
	before := status(t, n).Lease.Subnets
	c.stop(t, n)
	require.NoError(t, c.Store.Kill(t.Context()))
	require.NoError(t, n.Reboot(t.Context()))
	c.launch(t, n)
	// A pod does not wait for long: less than a daemon may take to start, and to
	// find the store silent.
	s := awaitStatus(t, n, "it goes by what it knew", func(s overlay.Status) bool { return s.Store.Recalled != nil && s.Lease != nil })
	require.Equal(t, before, s.Lease.Subnets)
	require.Len(t, s.Peers, 1)
	pods[0] = netlabtest.AddPod(t, n, "again")
	requirePings(t, pods...)
	s = status(t, n)
	require.False(t, s.Ready)
	require.NotNil(t, s.Store.Recalled)

	c.restartStore(t)
	s = awaitStatus(t, n, "ready", func(s overlay.Status) bool { return s.Ready && s.Store.Recalled == nil })
	require.Equal(t, before, s.Lease.Subnets)
	require.Equal(t, 1, logged(t, c.daemon(n), "what an earlier run knew is in use"))
	requirePings(t, pods...)
	c.awaitWays(t, n)
}
