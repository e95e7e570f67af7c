package overlay

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/subnet"
)

// many returns the records of 200 peers.
func many() (all []subnet.Record) {
	for i := range byte(200) {
		all = append(all, peer(2+i, fmt.Sprint("peer", i)))
	}
	return all
}

// fall takes what is on a link and the link itself, and tells of it in the
// kernel's order: the link first, then each neighbour; of routes it says nothing.
func (k *memKernel) fall() {
	k.mu.Lock()
	var gone []backend.Key
	for key, o := range k.state {
		if onLink(o, twill1.Name) {
			delete(k.state, key)
			if key.Kind == backend.KindNeighbor {
				gone = append(gone, key)
			}
		}
	}
	k.mu.Unlock()
	k.set(twill1, nil)
	for _, key := range gone {
		<-time.After(20 * time.Microsecond) // as long as it takes to read a real one
		k.tell(backend.Event{Key: key})
	}
}

// A link that goes with all that is on it takes one look and one pass, however
// many notifications there are, and each object is one repair. The clock is the
// bubble's: a busy machine does not come between the notifications.
func TestOneDisasterIsOnePass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		b.ready(many()...)
		synctest.Wait()
		before, repairs := b.kernel.looked().observe, b.agent.Status().Repairs.Total
		there := func() int {
			b.kernel.mu.Lock()
			defer b.kernel.mu.Unlock()
			return len(b.kernel.state)
		}
		all := there()
		b.kernel.fall()
		b.eventually("all is back", func() bool { return there() == all })
		// What is altered now is repaired in a later pass than all of that.
		foreign := backend.Neighbor{Link: twill1.Name, IP: netip.MustParseAddr("10.244.250.9"), MAC: subnet.MAC{2}}
		b.kernel.set(foreign.Key(), foreign)
		b.eventually("all is told", func() bool {
			return b.kernel.get(foreign.Key()) == nil && b.agent.Status().Repairs.ByKind["neighbour"] > 200
		})
		require.Equal(t, before+1, b.kernel.looked().observe)
		lost := 1 + 1 + 3*200 + 1 // link, address, ways, the foreign one
		require.Equal(t, repairs+lost, b.agent.Status().Repairs.Total)
	})
}

// What is undone again and again is one object, not all that goes with it.
func TestWhatGoesAlongIsNotContended(t *testing.T) {
	address := backend.Address{Link: twill1.Name, Prefix: netip.MustParsePrefix("10.244.1.0/32")}.Key()
	for _, o := range []string{"address", "guard"} {
		t.Run(o, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { whatGoesAlong(t, o, address) })
		})
	}
}

func whatGoesAlong(t *testing.T, o string, address backend.Key) {
	b := start(t, nil)
	b.ready(peer(2, "n2"), peer(3, "n3"))
	b.settle()
	b.eventually("the guard is there", func() bool { return b.guard.get(guardKey) != nil && b.permitted(3) })
	named := guardKey
	if o == "address" {
		named = address
	}
	for n := range contended {
		if o == "address" {
			b.loseAddress(address)
		} else {
			b.loseGuard()
		}
		b.eventually("back, and told", func() bool {
			return b.kernel.get(address) != nil && b.kernel.get(routeKey(3)) != nil && b.permitted(3) && b.agent.Status().Repairs.ByKind[o] == n+1
		})
	}
	b.eventually("one is named", func() bool {
		c := b.agent.Status().Contended
		return len(c) == 1 && c[0].Object == named.String()
	})
}

// loseAddress is what the kernel does with the last address of a link: its
// routes go without a word.
func (b *bench) loseAddress(address backend.Key) {
	b.kernel.mu.Lock()
	delete(b.kernel.state, address)
	delete(b.kernel.state, routeKey(2))
	delete(b.kernel.state, routeKey(3))
	b.kernel.mu.Unlock()
	b.kernel.tell(backend.Event{Key: address, Resync: true})
}

// loseGuard is nft flush ruleset.
func (b *bench) loseGuard() {
	b.guard.mu.Lock()
	clear(b.guard.state)
	b.guard.changes++
	b.guard.mu.Unlock()
	b.guard.tell(backend.Event{Key: hygiene.Guard{}.Key(), Resync: true})
}
