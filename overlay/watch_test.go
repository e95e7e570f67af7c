package overlay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// frequent makes a slow pass one that a test waits for.
func frequent(c *Config, _ *memKernel) { c.FullPass = 60 * time.Millisecond }

func (k *memKernel) makeDeaf() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deaf = true
}

func (k *memKernel) hears() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.deaf
}

// within waits that long at the most.
func (b *bench) within(d time.Duration, is func() bool) {
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for from := time.Now(); !is() && time.Since(from) < d; {
		<-poll.C
	}
}

// A watch that has gone deaf is known by what a look finds, told, and opened
// anew; it hears then.
func TestDeafWatchIsOpenedAnew(t *testing.T) { synctest.Test(t, deafWatchIsOpenedAnew) }

func deafWatchIsOpenedAnew(t *testing.T) {
	var log *logtest.Hook
	b := start(t, func(c *Config, k *memKernel) {
		frequent(c, k)
		log = logtest.NewLocal(c.Log.Logger)
	})
	b.ready(many()...)
	b.eventually("the guard is there", func() bool { return b.permitted(2) })
	for name, c := range map[string]struct {
		of  *memKernel
		key func(i byte) backend.Key
	}{
		taskKernel: {b.kernel, routeKey},
		taskGuard:  {b.guard.memKernel, func(i byte) backend.Key { return permits(i)[1].Key() }},
	} {
		c.of.makeDeaf()
		for i := byte(2); !c.of.hears(); i++ { // a pass that has another reason, too, suspects nobody
			c.of.set(c.key(i), nil)
			b.eventually("a look repairs it", func() bool { return c.of.get(c.key(i)) != nil || c.of.hears() })
			b.within(10*b.agent.cfg.FullPass, c.of.hears)
		}
		require.True(t, slices.ContainsFunc(log.AllEntries(), func(e *logrus.Entry) bool {
			err, ok := e.Data["error"].(error)
			return ok && e.Data["task"] == name && strings.HasSuffix(err.Error(), " was altered and nobody told: it is opened anew")
		}), name)
	}
	b.eventually("that is over", func() bool { return len(b.agent.Status().Problems) == 0 })
	require.Empty(t, b.agent.dead(time.Now()))
}

// One that hears is left alone, whatever is altered and whenever.
func TestWatchThatHearsIsLeftAlone(t *testing.T) { synctest.Test(t, watchThatHearsIsLeftAlone) }

func watchThatHearsIsLeftAlone(t *testing.T) {
	var log *logtest.Hook
	b := start(t, func(c *Config, k *memKernel) {
		frequent(c, k)
		log = logtest.NewLocal(c.Log.Logger)
	})
	var peers []subnet.Record
	for i := range byte(20) {
		peers = append(peers, peer(2+i, fmt.Sprint("peer", i)))
	}
	b.ready(peers...)
	for i := range byte(60) {
		key := routeKey(2 + i%20) // three times each: it is no war
		b.kernel.set(key, nil)
		if i%20 == 0 {
			b.firewall.flush(true)
		}
		b.eventually("repaired", func() bool { return b.kernel.get(key) != nil && b.firewall.mended() })
	}
	for _, e := range log.AllEntries() {
		require.NotEqual(t, "task broke, will retry", e.Message)
	}
}

func TestDeafRuleWatchIsOpenedAnew(t *testing.T) { synctest.Test(t, deafRuleWatchIsOpenedAnew) }

func deafRuleWatchIsOpenedAnew(t *testing.T) {
	b := start(t, frequent)
	b.ready(peer(2, "n2"))
	b.settle()
	again := func() bool {
		b.firewall.mu.Lock()
		defer b.firewall.mu.Unlock()
		return b.firewall.opened > 1
	}
	for range contended - 1 {
		b.firewall.flush(false)
		b.eventually("a look repairs them", b.firewall.mended)
		b.within(10*b.agent.cfg.FullPass, again)
	}
	require.True(t, again())
}

// A watch that is deaf and does not even end is what a restart mends.
func TestStuckWatchIsDead(t *testing.T) { synctest.Test(t, stuckWatchIsDead) }

func stuckWatchIsDead(t *testing.T) {
	stuck := make(chan struct{})
	b := start(t, func(c *Config, k *memKernel) {
		frequent(c, k)
		k.stuck = stuck
	})
	t.Cleanup(func() { close(stuck) }) // before the agent is stopped
	b.ready(peer(2, "n2"))
	b.settle() // a pass that has another reason, too, suspects nobody
	b.kernel.makeDeaf()
	b.kernel.set(routeKey(2), nil)
	later := func() time.Time { return time.Now().Add(4*b.agent.cfg.FullPass + 11*time.Second) }
	b.eventually("it is to end", func() bool {
		return strings.Contains(b.agent.watches.kernel.dead(later(), 11*time.Second), "is deaf, and does not end")
	})
	require.Contains(t, b.agent.dead(time.Now().Add(time.Minute)), "the kernel")
	require.NotNil(t, b.kernel.get(routeKey(2)), "looks go on")
}

func TestWatchThatWorkedAndCannotBeOpened(t *testing.T) {
	t.Parallel()
	var w watch
	now := time.Now()
	run := w.around(func(ctx context.Context) error { w.works(); return nil })
	require.NoError(t, w.around(func(context.Context) error { return nil })(t.Context()))
	require.Empty(t, w.dead(now.Add(time.Hour), time.Minute), "it never worked: no restart mends that")
	require.NoError(t, run(t.Context()))
	require.Empty(t, w.dead(now.Add(time.Second), time.Minute))
	require.Contains(t, w.dead(now.Add(time.Hour), time.Minute), "has not worked for 1h0m0s")
	w.works()
	require.Empty(t, w.dead(now.Add(time.Hour), time.Minute))
}

// A store that is away for ever takes nothing from liveness.
func TestStoreThatIsAwayIsAlive(t *testing.T) {
	b := start(t, nil)
	b.health <- StoreHealth{errors.New("no endpoint answers")}
	b.eventually("it is told", func() bool { return b.agent.Status().Store.Degraded != nil })
	b.agent.inbox.poke()
	require.True(t, b.agent.Status().Live)
}
