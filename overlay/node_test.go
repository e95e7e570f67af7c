package overlay

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
)

// inCluster has the test say what the cluster says of the node's addresses.
func inCluster(c *Config, k *memKernel) (say chan<- underlay.Node) {
	words := make(chan underlay.Node)
	c.NodeAddresses = func(ctx context.Context, tell func(underlay.Node)) error { return relay(ctx, words, tell) }
	k.host.Interfaces = append(k.host.Interfaces, backend.Interface{Name: "eth1", MTU: 1400, Up: true, Addresses: []backend.InterfaceAddress{
		{Prefix: netip.MustParsePrefix("192.0.2.1/24"), Usable: true},
	}})
	return words
}

func internal(ip string) underlay.Node {
	return underlay.Node{Internal: subnet.PerFamily[netip.Addr]{netip.MustParseAddr(ip)}}
}

func (b *bench) under() UnderStatus {
	if u := b.agent.Status().Underlay; u != nil {
		return *u
	}
	return UnderStatus{}
}

// The underlay is what the cluster says, from the first word on, and follows it.
func TestUnderlayFollowsTheNode(t *testing.T) { synctest.Test(t, underlayFollowsTheNode) }

func underlayFollowsTheNode(t *testing.T) {
	var say chan<- underlay.Node
	b := start(t, func(c *Config, k *memKernel) { say = inCluster(c, k) })
	b.store.configs <- []byte(netConf)
	b.eventually("it waits", func() bool {
		return strings.Contains(strings.Join(b.agent.Status().NotReady, "\n"), "no external interface yet: waiting for what the cluster says of this node's addresses")
	})
	require.Empty(t, b.store.claims, "nothing is announced that the next moment may change")
	say <- internal("192.0.2.1")
	claim := <-b.store.claims
	require.Equal(t, "192.0.2.1", claim.PublicIPs[subnet.IPv4].String())
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})}
	b.store.updates <- subnet.Update{Full: true, Put: []subnet.Record{peer(2, "n2")}}
	b.eventually("ready", func() bool { return b.agent.Status().Ready })
	require.Equal(t, UnderStatus{Interface: "eth1", MTU: 1400, PublicIPs: []string{"192.0.2.1"}, ChosenBy: "the Node's InternalIP 192.0.2.1"}, b.under())

	said := time.Now()
	say <- internal("203.0.113.7")
	claim = <-b.store.claims
	require.Equal(t, underlay.Patience, time.Since(said), "the one on this host is not left at once for one that is nowhere")
	require.Equal(t, "203.0.113.7", claim.PublicIPs[subnet.IPv4].String())
	require.Equal(t, "192.168.0.1", claim.Sources[subnet.IPv4].String(), "where packets leave from")
	b.eventually("it is told", func() bool {
		u := b.under()
		return u.Interface == "eth0" && len(u.Notes) == 1 && strings.Contains(u.Notes[0], "behind NAT")
	})
	require.Contains(t, b.agent.Status().Text(), "InternalIP 203.0.113.7 is on no interface")

	say <- underlay.Node{Internal: internal("203.0.113.7").Internal, Local: internal("10.9.9.9").Internal}
	b.eventually("what cannot be leaves the old one", func() bool {
		p := b.agent.Status().Problems
		return len(p) == 1 && p[0].What == partUnderlay && strings.Contains(p[0].Error, "10.9.9.9")
	})
	require.Equal(t, "eth0", b.under().Interface)
	say <- internal("192.0.2.1")
	b.eventually("and back", func() bool { return b.under().Interface == "eth1" && len(b.agent.Status().Problems) == 0 })
}

// An annotation of the Node that cannot be used is a problem, and the operator of
// the cluster is told which one it is, and what is used.
func TestAnnotationsThatCannotBeUsed(t *testing.T) { synctest.Test(t, annotationsThatCannotBeUsed) }

func annotationsThatCannotBeUsed(t *testing.T) {
	var h heard
	var say chan<- underlay.Node
	b := start(t, func(c *Config, k *memKernel) {
		say = inCluster(c, k)
		c.Announce = h.announce
	})
	told := func(message string) {
		t.Helper()
		b.eventually(message, func() bool { m := h.of("NodeAddress"); return len(m) > 0 && m[len(m)-1] == message })
		require.True(t, slices.ContainsFunc(b.agent.Status().Problems, func(p Problem) bool { return strings.HasSuffix(message, p.Error) }))
		require.True(t, b.agent.Status().Ready)
	}
	plain := internal("192.0.2.1")
	say <- plain
	b.ready()
	require.Empty(t, h.of("NodeAddress"))

	none := plain
	none.Local, none.LocalBy = internal("10.9.9.9").Internal, subnet.PerFamily[string]{"example.com/node-public-ip"}
	say <- none
	told("annotation example.com/node-public-ip=10.9.9.9: no interface that is up has 10.9.9.9 (there are eth0, eth1); " +
		"still using 192.0.2.1 on eth1; were twilld restarted now, the node would not be ready")

	rubbish := plain
	rubbish.Unusable[subnet.IPv4] = `annotation example.com/public-ip-overwrite: "foo" is not an IPv4 address`
	say <- rubbish
	told(`address of the Node: annotation example.com/public-ip-overwrite: "foo" is not an IPv4 address; still using 192.0.2.1`)
	say <- plain
	b.eventually("all is well", func() bool { return len(b.agent.Status().Problems) == 0 })
	require.Len(t, h.of("NodeAddress"), 2)
}

// An InternalIP that is away for a moment moves nothing: kubelets write them anew.
func TestInternalIPThatIsAwayForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var say chan<- underlay.Node
		b := start(t, func(c *Config, k *memKernel) { say = inCluster(c, k) })
		b.store.configs <- []byte(netConf)
		say <- internal("192.0.2.1")
		claim := <-b.store.claims
		require.Equal(t, "192.0.2.1", claim.PublicIPs[subnet.IPv4].String())
		at := func(ip string) {
			t.Helper()
			synctest.Wait()
			require.Equal(t, []string{ip}, b.under().PublicIPs)
			require.Empty(t, b.under().Notes)
		}
		for range 3 {
			say <- underlay.Node{}
			at("192.0.2.1")
			<-time.After(underlay.Patience - time.Second) // by the bubble's clock
			at("192.0.2.1")
			say <- internal("192.0.2.1")
			at("192.0.2.1")
		}
		require.Empty(t, b.store.claims)
		say <- internal("192.168.0.1")
		at("192.168.0.1") // this is on another interface of ours
		say <- internal("192.0.2.1")
		at("192.0.2.1")
		said := time.Now()
		say <- underlay.Node{}
		b.eventually("what stays away is gone", func() bool { return b.under().Interface == "eth0" })
		require.GreaterOrEqual(t, time.Since(said), underlay.Patience)
		require.Less(t, time.Since(said), underlay.Patience+time.Second)
	})
}

// Nor does one that is away for a moment when a machine boots: by what the node
// knew before.
func TestInternalIPOfAnEarlierRunThatIsAwayForAMoment(t *testing.T) {
	synctest.Test(t, internalIPOfAnEarlierRunThatIsAwayForAMoment)
}

func internalIPOfAnEarlierRunThatIsAwayForAMoment(t *testing.T) {
	known := remembered(time.Minute)
	known.Own.Lease.PublicIPs[subnet.IPv4] = netip.MustParseAddr("192.0.2.1")
	path := keep(t, known)
	var say chan<- underlay.Node
	b := start(t, func(c *Config, k *memKernel) {
		say, c.LastGood = inCluster(c, k), path
	})
	b.eventually("the node is as it was", func() bool { return slices.Equal(b.under().PublicIPs, []string{"192.0.2.1"}) })
	say <- underlay.Node{}
	b.store.configs <- []byte(netConf)
	claim := <-b.store.claims
	require.Equal(t, "192.0.2.1", claim.PublicIPs[subnet.IPv4].String())
}

// A node that gets another address is not behind NAT until the cluster knows it.
func TestUnderlayOfANodeThatIsRenumbered(t *testing.T) {
	synctest.Test(t, underlayOfANodeThatIsRenumbered)
}

func underlayOfANodeThatIsRenumbered(t *testing.T) {
	var say chan<- underlay.Node
	b := start(t, func(c *Config, k *memKernel) { say = inCluster(c, k) })
	b.store.configs <- []byte(netConf)
	say <- internal("192.168.0.1")
	claim := <-b.store.claims
	require.Equal(t, "192.168.0.1", claim.PublicIPs[subnet.IPv4].String())
	b.listening()
	for _, ip := range []string{"192.168.0.8", "192.168.0.9"} {
		b.kernel.mu.Lock()
		b.kernel.host.Interfaces = slices.Clone(b.kernel.host.Interfaces)
		b.kernel.host.Interfaces[0].Addresses = []backend.InterfaceAddress{{Prefix: netip.MustParsePrefix(ip + "/24"), Usable: true}}
		tell := b.kernel.tell
		b.kernel.mu.Unlock()
		tell(backend.Event{Host: true, Routes: true})
		claim = <-b.store.claims
		require.Equal(t, ip, claim.PublicIPs[subnet.IPv4].String())
	}
	require.Contains(t, strings.Join(b.under().Notes, ""), "InternalIP 192.168.0.1 is on this host no more")
	say <- internal("192.168.0.9")
	b.eventually("all is well", func() bool {
		u := b.under()
		return len(u.Notes) == 0 && u.ChosenBy == "the Node's InternalIP 192.168.0.9"
	})
}

// The network config is a file there: that it could be read says nothing of the
// API server.
func TestBootWhileTheAPIServerIsDown(t *testing.T) { synctest.Test(t, bootWhileTheAPIServerIsDown) }

func bootWhileTheAPIServerIsDown(t *testing.T) {
	state := remembered(48 * time.Hour)
	state.Own.Expires = time.Time{}
	state.Own.Lease.PublicIPs[subnet.IPv4] = netip.MustParseAddr("192.0.2.1")
	path := keep(t, state)
	var say chan<- underlay.Node
	b := start(t, func(c *Config, k *memKernel) {
		say = inCluster(c, k)
		c.LastGood, c.RecallAfter = path, 200*time.Millisecond
	})
	b.store.configs <- []byte(netConf)
	b.eventually("the ways to the peers are there", func() bool { return b.kernel.get(routeKey(2)) != nil && b.kernel.get(routeKey(3)) != nil })
	require.Equal(t, "eth1", b.under().Interface, "where it was")
	b.eventually("it says what it goes by", func() bool {
		return slices.Equal(b.agent.Status().NotReady, []string{"the lease is what an earlier run knew: the store has not confirmed it", "the first full list of peers is not programmed"})
	})
	say <- internal("192.0.2.1")
	b.store.updates <- subnet.Update{Full: true, Put: []subnet.Record{peer(2, "n2")}}
	claim := <-b.store.claims
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})}
	b.eventually("it is as the cluster says", func() bool { return b.agent.Status().Ready && b.kernel.get(routeKey(3)) == nil })
}

// A lease of another network than that of the file is of no use.
func TestBootWithAnotherNetworkConfig(t *testing.T) { synctest.Test(t, bootWithAnotherNetworkConfig) }

func bootWithAnotherNetworkConfig(t *testing.T) {
	path := keep(t, remembered(time.Minute))
	var say chan<- underlay.Node
	b := start(t, func(c *Config, k *memKernel) {
		say = inCluster(c, k)
		c.LastGood, c.RecallAfter = path, 100*time.Millisecond
	})
	b.store.configs <- []byte(`{"Network": "10.99.0.0/16"}`)
	say <- internal("192.168.0.1")
	<-b.store.claims
	require.Never(t, func() bool { return b.agent.Status().Lease != nil }, 300*time.Millisecond, 10*time.Millisecond)
}
