package hygiene

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
)

const off = "--vtep-hygiene=false"

func TestDualStack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 3})
	c.attacks(t)
	step(t, "who says so routes for others", func(t *testing.T) {
		p := c.unchecked(t, "router")
		c.arrive(t, append(c.spoofs(t, p), c.owns(t, p)...)...)
		c.forget(t)
		c.dropped(t, c.spoofs(t, c.pod)...)
		require.NoError(t, c.one.DelPod(t.Context(), p))
	})
	step(t, "other VNIs", c.otherVNIs)
	step(t, "peers come and go", c.peersComeAndGo)
	step(t, "a peer behind NAT", c.behindNAT)
	step(t, "the daemon is away", c.daemonAway)
	step(t, "no packet is lost", c.nothingIsLost)
}

// One tunnel carries the pods of both families.
func TestIPv4Underlay(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 2, Underlay: netlab.IPv4Only})
	c.attacks(t)
}

// step runs a part of a test that the next ones build upon.
func step(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	if !t.Run(name, f) {
		t.FailNow()
	}
}

// attacks makes all attacks with hygiene and without.
func (c *cluster) attacks(t *testing.T) {
	attacks := slices.Concat(c.fromStrangers(), c.fromPods(), c.spoofs(t, c.pod))
	regular := slices.Concat(c.fromPeers(), c.podsMay(), c.owns(t, c.pod))
	step(t, "attacks are dropped", func(t *testing.T) { c.dropped(t, attacks...) })
	step(t, "what is regular arrives", func(t *testing.T) {
		c.arrive(t, regular...)
		c.forget(t)
		c.pings(t, c.pod, c.remote)
		c.pings(t, c.pod, c.neighbour)
	})
	step(t, "it is told", c.told)
	step(t, "without hygiene all arrives", func(t *testing.T) {
		had := []string{guard(t, c.one), guard(t, c.two)}
		for _, n := range c.Nodes[:2] {
			c.start(t, n, off)
			awaitGuard(t, n, "")
			require.Nil(t, status(t, n).Dropped)
		}
		c.arrive(t, attacks...)
		c.forget(t)
		c.arrive(t, regular...)
		c.forget(t)
		for i, n := range c.Nodes[:2] {
			c.start(t, n)
			awaitGuard(t, n, had[i])
		}
	})
	c.dropped(t, attacks[0], attacks[len(attacks)-1])
}
