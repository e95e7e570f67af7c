package hygiene

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
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
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"off", each(func(n *netlab.Node) { c.start(t, n, off); awaitGuard(t, n, "") })},
		{"on", each(func(n *netlab.Node) { c.start(t, n); awaitGuard(t, n, had[n]) })},
		{"restart", each(func(n *netlab.Node) { c.start(t, n); awaitGuard(t, n, had[n]) })},
		{"crash", each(func(n *netlab.Node) {
			require.NoError(t, c.daemons[n].Kill(t.Context()))
			c.start(t, n)
			awaitGuard(t, n, had[n])
		})},
		{"flush", each(func(n *netlab.Node) { sh(t, &n.Host, "nft flush ruleset"); awaitGuard(t, n, had[n]) })},
		{"flush while the daemon is away", each(func(n *netlab.Node) {
			require.NoError(t, c.daemons[n].Stop(t.Context()))
			sh(t, &n.Host, "nft flush ruleset")
			c.start(t, n)
			awaitGuard(t, n, had[n])
		})},
	} {
		c.unharmed(t, step.name, step.do)
	}
	c.dropped(t, slices.Concat(c.fromStrangers(), c.fromPods(), c.spoofs(t, c.pod))...)
	c.arrive(t, c.fromPeers()...)
}

// unharmed does something while pods ping each other every 10 ms, and fails if
// a packet is lost.
func (c *cluster) unharmed(t *testing.T, what string, do func()) {
	t.Helper()
	var flows []*netlab.Flow
	var names []string
	for _, f := range subnet.Families {
		for _, w := range [][2]*netlab.Pod{{c.pod, c.remote}, {c.remote, c.pod}, {c.pod, c.neighbour}} {
			flow, err := w[0].PingContinuously(t.Context(), w[1].Addrs[f], 10*time.Millisecond)
			require.NoError(t, err)
			flows, names = append(flows, flow), append(names, fmt.Sprintf("%s: %s to %s", what, w[0].Name, w[1].Addrs[f]))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for i, flow := range flows {
		require.NoError(t, flow.Await(ctx, 5), names[i])
	}
	do()
	sent := 0
	for i, flow := range flows {
		require.NoError(t, flow.Await(ctx, 10), names[i])
		loss, err := flow.Stop()
		require.NoError(t, err)
		require.Zero(t, loss.Lost(), "%s: %+v", names[i], loss)
		sent += loss.Sent
	}
	t.Logf("%s: 0 of %d lost", what, sent)
}
