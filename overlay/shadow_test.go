package overlay

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
)

// A route of the host that the kernel prefers to ours is named, and is not
// when it goes. Ours stays, for that moment.
func TestRouteIsShadowed(t *testing.T) {
	routes := func(b *bench, more ...backend.HostRoute) {
		b.kernel.mu.Lock()
		b.kernel.host.Routes = append(b.kernel.host.Routes[:1:1], more...)
		tell := b.kernel.tell
		b.kernel.mu.Unlock()
		tell(backend.Event{Routes: true})
	}
	prefix := netip.MustParsePrefix
	b := start(t, nil)
	b.ready(peer(2, "n2"), peer(3, "n3"), peer(4, "n4"))
	b.eventually("the route", func() bool { return b.kernel.get(routeKey(2)) != nil })
	require.Empty(t, b.agent.Status().Failing)
	routes(b,
		backend.HostRoute{Dst: prefix("10.244.2.0/24"), Link: "cni0"},
		backend.HostRoute{Dst: prefix("10.244.3.128/25"), Link: "tun0", Metric: 1 << 31},
		backend.HostRoute{Dst: prefix("10.244.4.0/24"), Link: "eth0", Metric: 1 << 31}, // loses
		backend.HostRoute{Dst: prefix("10.244.0.0/16"), Link: "eth0"},                  // wider
		backend.HostRoute{Dst: prefix("10.244.9.0/24"), Link: "eth0"},                  // no peer's
	)
	b.eventually("both are named", func() bool { return len(b.agent.Status().Failing) == 2 })
	failing := b.agent.Status().Failing
	require.Equal(t, routeKey(2).String(), failing[0].Object)
	require.Contains(t, failing[0].Error, "a foreign route 10.244.2.0/24 dev cni0 takes its place")
	require.Equal(t, routeKey(3).String(), failing[1].Object)
	require.Contains(t, failing[1].Error, "a foreign route 10.244.3.128/25 dev tun0 metric 2147483648 takes its place")
	require.NotNil(t, b.kernel.get(routeKey(2)))
	require.True(t, b.agent.Status().Ready, "one peer holds nothing back")
	routes(b)
	b.eventually("none is named", func() bool { return len(b.agent.Status().Failing) == 0 })
}
