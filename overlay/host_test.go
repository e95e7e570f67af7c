package overlay

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
)

// edit changes the host's network behind our back and tells e.
func (b *bench) edit(e backend.Event, edit func(*backend.Host)) {
	b.kernel.mu.Lock()
	edit(&b.kernel.host)
	tell := b.kernel.tell
	b.kernel.mu.Unlock()
	tell(e)
}

// A pod that comes costs no look at the host's routes, and one at everything
// that is ours neither.
func TestPodsCostNoRoutes(t *testing.T) { synctest.Test(t, podsCostNoRoutes) }

func podsCostNoRoutes(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	b.settle()
	before := b.kernel.looked()
	for i := range 3 {
		name := fmt.Sprintf("veth%d", i)
		b.edit(backend.Event{Host: true}, func(h *backend.Host) {
			h.Interfaces = append(h.Interfaces[:len(h.Interfaces):len(h.Interfaces)], backend.Interface{
				Name: name, Kind: "veth", Master: "cni0", Alias: fmt.Sprintf("twill:cbr0/c%d/eth0/10.244.1.%d/", i, i+2),
				Addresses: []backend.InterfaceAddress{{Prefix: netip.MustParsePrefix("fe80::1/64")}},
			})
		})
		b.eventually("the pod is held to its address", func() bool { return b.guard.get(backend.Key{Kind: backend.KindPod, Name: name}) != nil })
	}
	after := b.kernel.looked()
	require.Greater(t, after.interfaces, before.interfaces)
	require.Equal(t, before.host, after.host)
	require.Equal(t, before.observe, after.observe)
}

// An interface that may face peers takes routes along when it goes: they are
// read again though no event told of them.
func TestInterfaceThatMattersCostsRoutes(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	before := b.kernel.looked()
	b.edit(backend.Event{Host: true}, func(h *backend.Host) {
		h.Interfaces = append(h.Interfaces[:len(h.Interfaces):len(h.Interfaces)], backend.Interface{Name: "eth1", MTU: 1500})
	})
	b.eventually("the routes are read", func() bool { return b.kernel.looked().host > before.host })
}

// A node on which pods come and go all the time, and so many that a look at
// their interfaces takes long, spends a small share of its time on looks.
func TestInterfacesArePaced(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	const slow = 2 * time.Millisecond
	b.kernel.mu.Lock()
	b.kernel.slow = slow
	b.kernel.mu.Unlock()
	before := b.kernel.looked()
	storm, changes := time.Now(), 0
	b.eventually("half a second of changes", func() bool {
		b.agent.inbox.event(backend.Event{Host: true}, everything)
		b.agent.inbox.put(func(*news) {}) // another reason for a pass
		changes++
		return changes > 20 && time.Since(storm) > 500*time.Millisecond
	})
	require.LessOrEqual(t, b.kernel.looked().interfaces-before.interfaces, 2+int(time.Since(storm)/(lookShare*slow)))
	b.edit(backend.Event{Host: true}, func(h *backend.Host) {
		h.Interfaces = append(h.Interfaces[:len(h.Interfaces):len(h.Interfaces)], backend.Interface{Name: "eth1", MTU: 1500})
	})
	b.eventually("the last change is seen", func() bool { return b.kernel.looked().host > before.host })
}

// A look that had to wait for the kernel delays the next ones by a second at most.
func TestSlowLookAtInterfacesDelaysLittle(t *testing.T) {
	b := newInbox("n1", newDesired())
	now := time.Now()
	b.take(now)
	b.hostRead(time.Minute)
	b.hostChanged()
	soon := b.take(now)
	require.False(t, soon.host)
	require.LessOrEqual(t, time.Until(soon.again), hostMost)
	require.True(t, b.take(soon.again).host)
}

// A router that changes its table all the time is looked at now and then: the
// first time at once, and after the last change once more.
func TestRoutesArePaced(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	before := b.kernel.looked()
	storm, changes := time.Now(), 0
	b.eventually("a second of changes", func() bool {
		b.agent.inbox.event(backend.Event{Routes: true}, everything)
		b.agent.inbox.put(func(*news) {}) // another reason for a pass
		changes++
		return changes > 20 && time.Since(storm) > routesPause
	})
	// The look that the start took counts, too.
	require.LessOrEqual(t, b.kernel.looked().host-before.host, 2+int(time.Since(storm)/routesPause))
	b.edit(backend.Event{Routes: true}, func(h *backend.Host) {
		h.Routes = append(h.Routes[:len(h.Routes):len(h.Routes)], backend.HostRoute{Dst: netip.MustParsePrefix("10.244.2.0/24"), Link: "cni0"})
	})
	b.eventually("the last change is seen", func() bool { return len(b.agent.Status().Failing) == 1 })
}
