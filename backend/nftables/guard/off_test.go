package guard_test

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// While the guard goes and comes no packet of a peer or a pod is dropped, not
// even one that is under way: rules, and the sets that they look into, are not of
// one generation to it.
func TestOffAndOnUnderTraffic(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	on := n.node.observe(t)
	stays := permit("192.0.2.99") // without it the tables would go, and their counters
	on[stays.Key()] = stays
	n.node.reach(t, on)

	var ended atomic.Bool
	var sending errgroup.Group
	for _, s := range []struct {
		on       namespace
		from, to netip.AddrPort
		payload  []byte
	}{
		{n.outside, netip.AddrPortFrom(at[0].peer, 0), netip.AddrPortFrom(at[0].uplink, 8472), vxlan(1, inner(at[0].remote, at[0].pod1, "a packet"))},
		{n.pod1, netip.AddrPortFrom(at[0].pod1, 0), netip.AddrPortFrom(at[0].gateway, 9), []byte("a packet")},
	} {
		sending.Go(func() error {
			return s.on.Do(func() error {
				conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(s.from))
				if err != nil {
					return err
				}
				defer func() { _ = conn.Close() }()
				for !ended.Load() && err == nil {
					_, err = conn.WriteToUDPAddrPort(s.payload, s.to)
				}
				return err
			})
		})
	}
	defer func() { // also when it fails
		ended.Store(true)
		_ = sending.Wait()
	}()
	before := n.drops(t)
	for range 30 {
		n.node.reach(t, state(stays))
		n.node.reach(t, on)
	}
	ended.Store(true)
	require.NoError(t, sending.Wait())
	require.Equal(t, before, n.drops(t))
}
