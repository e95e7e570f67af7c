package hygiene

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// Hygiene on and off, stops, crashes and a flush of everything cost no packet;
// and whoever flushes it does not get rid of it.
func (c *cluster) nothingIsLost(t *testing.T) {
	had := map[*netlab.Node]string{c.one: guard(t, c.one), c.two: guard(t, c.two)}
	require.Contains(t, had[c.one], c.two.Addrs[subnet.IPv4].String())
	each := func(do func(n *netlab.Node)) func() {
		return func() {
			for _, n := range []*netlab.Node{c.one, c.two} {
				do(n)
			}
		}
	}
	switchOn := each(func(n *netlab.Node) { c.start(t, n); awaitGuard(t, n, had[n]) })
	switchOff := each(func(n *netlab.Node) { c.start(t, n, off); awaitGuard(t, n, "") })
	for _, step := range []struct {
		name      string
		again, do func() // again: what was before
	}{
		{"off", switchOn, switchOff},
		{"on", switchOff, switchOn},
		{"restart", switchOn, switchOn},
		{"crash", switchOn, each(func(n *netlab.Node) {
			require.NoError(t, c.daemons[n].Kill(t.Context()))
			c.start(t, n)
			awaitGuard(t, n, had[n])
		})},
		{"flush", switchOn, each(func(n *netlab.Node) { netlabtest.Run(t, &n.Host, "nft flush ruleset"); awaitGuard(t, n, had[n]) })},
		{"flush while the daemon is away", switchOn, each(func(n *netlab.Node) {
			require.NoError(t, c.daemons[n].Stop(t.Context()))
			netlabtest.Run(t, &n.Host, "nft flush ruleset")
			c.start(t, n)
			awaitGuard(t, n, had[n])
		})},
	} {
		c.unharmed(t, step.name, step.do, step.again)
	}
	c.dropped(t, slices.Concat(c.fromStrangers(), c.fromPods(), c.spoofs(t, c.pod))...)
	c.arrive(t, c.fromPeers()...)
}

// unharmed does something while pods ping each other, and fails if a packet is
// lost.
func (c *cluster) unharmed(t *testing.T, what string, do, again func()) {
	t.Helper()
	netlabtest.Unharmed(t, what, []netlabtest.Pair{
		{From: &c.pod.Host, To: &c.remote.Host},
		{From: &c.remote.Host, To: &c.pod.Host},
		{From: &c.pod.Host, To: &c.neighbour.Host},
	}, do, again)
}
