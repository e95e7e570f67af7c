package overlay

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/lastgood"
	"github.com/twill-net/twill/subnet"
)

// remembered is what node n1 knew, with two peers.
func remembered(age time.Duration) lastgood.State {
	own := peer(1, "n1")
	own.Lease.PublicIPs[subnet.IPv4] = netip.MustParseAddr("192.168.0.1")
	return lastgood.State{
		Saved: time.Now().Add(-age), Node: "n1", Config: []byte(netConf),
		Own:     subnet.Held{Lease: own.Lease, Key: own.Key, Created: 1, Expires: time.Now().Add(time.Hour)},
		Records: []subnet.Record{own, peer(2, "n2"), peer(3, "n3")},
	}
}

func keep(t *testing.T, s lastgood.State) (path string) {
	path = filepath.Join(t.TempDir(), lastgood.FileName)
	require.NoError(t, lastgood.Write(path, s, slices.Values(s.Records)))
	return path
}

func TestBootWhileTheStoreIsDown(t *testing.T) {
	left := backend.Route{Dst: netip.MustParsePrefix("10.244.7.0/24"), Link: "twill.1", Via: netip.MustParseAddr("10.244.7.0"), OnLink: true, Metric: routeKey(7).Metric}
	path := keep(t, remembered(time.Hour))
	var env string
	b := start(t, func(c *Config, k *memKernel) {
		c.LastGood, c.LeaseTTL, env = path, 24*time.Hour, c.SubnetFile
		k.state[left.Key()] = left
	})
	b.eventually("the ways to the peers are there", func() bool { return b.kernel.get(routeKey(2)) != nil && b.kernel.get(routeKey(3)) != nil })
	require.Empty(t, b.store.claims, "nothing is announced by a config that may be outdated")
	b.eventually("and subnet.env", func() bool { _, err := os.Stat(env); return err == nil })
	var s Status
	b.eventually("and the lease, and what that is worth", func() bool {
		s = b.agent.Status()
		return s.Lease != nil && s.Store.Recalled != nil && strings.Contains(strings.Join(s.NotReady, "\n"), "the store has not confirmed it")
	})
	require.False(t, s.Ready, "nobody knows yet whether that is so")
	require.Contains(t, s.Text(), "going by what was known at")
	require.Equal(t, []string{"10.244.1.0/24"}, s.Lease.Subnets)
	require.NotNil(t, b.kernel.get(left.Key()), "nothing is deleted by what was so once")

	// The store answers: another config, which this node's subnet is not in
	// any more, another lease, and n3 has gone.
	b.store.configs <- []byte(`{"Network": "10.244.128.0/17"}`)
	b.store.updates <- subnet.Update{Full: true, Put: []subnet.Record{peer(130, "n2")}}
	claim := <-b.store.claims
	require.Equal(t, "10.244.1.0/24", claim.Previous[subnet.IPv4].String())
	require.False(t, b.agent.Status().Ready, "the lease is not confirmed")
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.129.0/24")})}
	b.eventually("it is as the store says", func() bool {
		s := b.agent.Status()
		return s.Ready && s.Lease.Subnets[0] == "10.244.129.0/24" && s.Store.Recalled == nil &&
			b.kernel.get(routeKey(130)) != nil && b.kernel.get(routeKey(3)) == nil && b.kernel.get(left.Key()) == nil
	})
}

func TestWhatIsOutdatedIsNotRecalled(t *testing.T) {
	for name, edit := range map[string]func(*lastgood.State){
		"older than leases last": func(s *lastgood.State) { s.Saved = time.Now().Add(-25 * time.Hour) },
		"our lease has ended":    func(s *lastgood.State) { s.Own.Expires = time.Now().Add(-time.Second) },
		"from the future":        func(s *lastgood.State) { s.Saved = time.Now().Add(time.Hour) },
		"another node's":         func(s *lastgood.State) { s.Node = "n9" },
		"another store's":        func(s *lastgood.State) { s.Store = "etcd http://127.0.0.1:2379 /other" },
	} {
		t.Run(name, func(t *testing.T) {
			state := remembered(time.Minute)
			edit(&state)
			path := keep(t, state)
			b := start(t, func(c *Config, _ *memKernel) { c.LastGood, c.LeaseTTL = path, 24*time.Hour })
			b.never("anything is recalled", func() bool { return b.agent.Status().Lease != nil })
			b.ready(peer(2, "n2"))
			require.Nil(t, b.kernel.get(routeKey(3)))
			require.Nil(t, b.agent.Status().Store.Recalled)
		})
	}
}

// Where leases have no end, as in a cluster, there is none to what was known.
func TestWhatIsOldIsRecalledWhereLeasesHaveNoEnd(t *testing.T) {
	state := remembered(90 * 24 * time.Hour)
	state.Own.Expires = time.Time{}
	path := keep(t, state)
	b := start(t, func(c *Config, _ *memKernel) { c.LastGood = path })
	b.eventually("the ways to the peers are there", func() bool { return b.kernel.get(routeKey(2)) != nil })
}

// Where the daemon alone was started anew, the kernel is newer than the file.
func TestTheKernelKnowsBetter(t *testing.T) {
	moved := backend.FDB{Link: "twill.1", MAC: subnet.MAC{2, 0, 0, 0, 0, 2}, Dst: netip.MustParseAddr("192.168.0.99")}
	link := backend.Link{Name: "twill.1", Up: true}
	path := keep(t, remembered(time.Minute))
	b := start(t, func(c *Config, k *memKernel) {
		c.LastGood, c.LeaseTTL = path, 24*time.Hour
		k.state = backend.NewState(link, moved)
		c.FullPass = 300 * time.Millisecond
	})
	b.never("anything is recalled", func() bool { return b.agent.Status().Lease != nil })
	require.Equal(t, moved, b.kernel.get(moved.Key()))

	b.kernel.mu.Lock()
	clear(b.kernel.state)
	b.kernel.mu.Unlock()
	b.eventually("with the device goes what the kernel knew", func() bool { return b.kernel.get(routeKey(2)) != nil })
}

// The store's answer counts, however it goes with what was recalled.
func TestConfigIsConfirmed(t *testing.T) {
	path := keep(t, remembered(time.Minute))
	b := start(t, func(c *Config, _ *memKernel) { c.LastGood, c.LeaseTTL = path, 24*time.Hour })
	b.eventually("recalled", func() bool { return b.kernel.get(routeKey(2)) != nil })
	b.store.updates <- subnet.Update{Full: true, Put: []subnet.Record{peer(2, "n2")}}
	b.never("it is ready without a config in the store", func() bool { return b.agent.Status().Ready })
	b.store.configs <- []byte(netConf)
	claim := <-b.store.claims
	b.store.helds <- subnet.Held{Lease: claim.Announcement(claim.Previous)}
	b.eventually("ready", func() bool { return b.agent.Status().Ready })
}

// A lease that is another's is nothing to remember, and no pod gets an address
// of it.
func TestLostLeaseIsForgotten(t *testing.T) {
	path := keep(t, remembered(time.Minute))
	var env string
	b := start(t, func(c *Config, _ *memKernel) {
		c.LastGood, c.LeaseTTL, c.RecallAfter, env = path, time.Hour, time.Hour, c.SubnetFile
	})
	b.ready(peer(2, "n2"))
	require.FileExists(t, env)
	b.store.lose <- subnet.ErrExhausted
	b.eventually("subnet.env is withdrawn", func() bool { _, err := os.Stat(env); return os.IsNotExist(err) })
	b.eventually("the state is gone", func() bool { _, err := os.Stat(path); return os.IsNotExist(err) })
	claim := <-b.store.claims
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.9.0/24")})}
	b.eventually("with another lease it is there again", func() bool { _, err := os.Stat(env); return err == nil })
}

// Nor is it remembered again by whoever was just writing it down.
func TestLostLeaseStaysForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), lastgood.FileName)
	b := start(t, func(c *Config, _ *memKernel) {
		c.LastGood, c.LeaseTTL, c.RecallAfter = path, time.Hour, time.Hour
	})
	b.ready(peer(2, "n2"))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				b.agent.rememberNow(&memory{})
			}
		}
	}()
	b.eventually("it is written down", func() bool { _, err := os.Stat(path); return err == nil })
	b.store.lose <- subnet.ErrExhausted
	b.eventually("the lease is tried again", func() bool { return len(b.store.claims) > 0 })
	close(stop)
	<-stopped
	require.NoFileExists(t, path)
}

// What one run learns, the next one knows; a run that learned nothing leaves it.
func TestRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), lastgood.FileName)
	with := func(c *Config, _ *memKernel) {
		c.LastGood, c.LeaseTTL, c.RecallAfter = path, time.Hour, time.Millisecond
	}
	t.Run("first", func(t *testing.T) {
		b := start(t, with)
		b.ready(peer(2, "n2"), peer(3, "n3"))
	})
	s, err := lastgood.Read(path)
	require.NoError(t, err)
	require.Len(t, s.Records, 2)
	require.Equal(t, netConf, strings.TrimSpace(strings.ReplaceAll(string(s.Config), `:"`, `: "`)))
	require.WithinDuration(t, time.Now(), s.Saved, time.Minute)
	t.Run("second", func(t *testing.T) {
		b := start(t, with)
		b.eventually("the ways to the peers are there", func() bool { return b.kernel.get(routeKey(2)) != nil })
	})
	again, err := lastgood.Read(path)
	require.NoError(t, err)
	require.Equal(t, s.Saved.UnixNano(), again.Saved.UnixNano(), "it knew nothing new")
}

// Daemon and store were started anew, and the store has lost its data: the ways
// to the nodes that have yet to announce themselves again stay for a while.
func TestStoreWentBackBetweenRuns(t *testing.T) {
	for name, recallAfter := range map[string]time.Duration{"first list": time.Hour, "first list, after a recall": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			var path string
			kernel := ranBefore(t, &path)
			synctest.Test(t, func(t *testing.T) { storeWentBack(t, path, kernel, recallAfter) })
		})
	}
}

func storeWentBack(t *testing.T, path string, kernel backend.State, recallAfter time.Duration) {
	written := readFile(t, path)
	require.Contains(t, written, `"position":"there"`)
	if recallAfter < time.Second { // only a kernel without our devices is recalled to
		kernel = backend.State{}
	}
	moved := backend.Route{Dst: routeKey(8).Prefix, Metric: routeKey(8).Metric} // n3, after that was written
	kernel[moved.Key()] = moved
	b := start(t, func(c *Config, k *memKernel) {
		c.LastGood, c.LeaseTTL, c.RecallAfter = path, time.Hour, recallAfter
		c.Position = func() string { return "elsewhere" }
		k.state = kernel
	})
	if recallAfter < time.Second {
		b.eventually("recalled", func() bool { return b.kernel.get(routeKey(3)) != nil })
	}
	b.store.configs <- []byte(netConf)
	claim := <-b.store.claims
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})}
	b.store.updates <- subnet.Update{Full: true, WentBack: true, Put: []subnet.Record{peer(4, "n4"), peer(7, "n6")}}
	b.eventually("the list was taken", func() bool { return b.agent.Status().Ready && b.kernel.get(routeKey(4)) != nil })
	b.eventually("n6 is where it announced itself", func() bool { return b.kernel.get(routeKey(7)) != nil })
	b.kernel.set(moved.Key(), moved) // as when somebody replaced it by itself
	b.never("what is told of goes no sooner", func() bool { return b.kernel.get(moved.Key()) == nil })
	b.store.updates <- subnet.Update{Put: []subnet.Record{peer(2, "n2")}}
	b.store.updates <- subnet.Update{Put: []subnet.Record{peer(5, "n5")}} // in order behind the others
	b.eventually("that was taken", func() bool { return b.kernel.get(routeKey(5)) != nil })
	require.NotNil(t, b.kernel.get(routeKey(3)), "n3 has time to announce itself again")

	m := &memory{position: b.agent.rememberedPosition()}
	b.agent.rememberNow(m)
	require.Contains(t, readFile(t, path), `"position":"there"`, "another start within that time doubts the store, too")
	require.ElementsMatch(t, []string{"n2", "n3", "n4", "n5", "n6"}, rememberedNodes(t, path), "and knows who is new")
	require.NotNil(t, b.kernel.get(routeKey(8)), "the kernel alone knows where n3 has moved")
	b.agent.inbox.expire(time.Now().Add(removalDelay + time.Second))
	b.agent.inbox.poke()
	b.eventually("n3 did not", func() bool { return b.kernel.get(routeKey(3)) == nil })
	b.eventually("what nobody wants is gone", func() bool { return b.kernel.get(routeKey(6)) == nil && b.kernel.get(routeKey(8)) == nil })
	require.NotNil(t, b.kernel.get(routeKey(2)))
	require.NotContains(t, b.kernel.deleted, routeKey(2), "at no time")
	b.agent.rememberNow(m)
	require.Contains(t, readFile(t, path), `"position":"elsewhere"`)
	require.ElementsMatch(t, []string{"n2", "n4", "n5", "n6"}, rememberedNodes(t, path))
}

func rememberedNodes(t *testing.T, path string) (nodes []string) {
	t.Helper()
	s, err := lastgood.Read(path)
	require.NoError(t, err)
	for _, r := range s.Records {
		nodes = append(nodes, r.Lease.Node)
	}
	return nodes
}

// A node that is killed seconds after it joined knows what it was told.
func TestRememberedSoonAfterTheFirstList(t *testing.T) {
	synctest.Test(t, rememberedSoonAfterTheFirstList)
}

func rememberedSoonAfterTheFirstList(t *testing.T) {
	path := filepath.Join(t.TempDir(), lastgood.FileName)
	b := start(t, func(c *Config, _ *memKernel) {
		c.LastGood, c.LeaseTTL, c.RecallAfter = path, time.Hour, time.Hour
		c.Position = func() string { return "there" }
	})
	b.ready(peer(2, "n2"))
	for i := byte(3); ; i++ { // the store goes on telling
		b.store.updates <- subnet.Update{Put: []subnet.Record{peer(3+i%100, "n3")}}
		<-time.After(time.Millisecond) // by the bubble's clock
		if _, err := os.Stat(path); err == nil {
			break
		}
		require.Less(t, time.Since(b.agent.Status().Started), rememberInterval, "it waits for quiet")
	}
	require.Contains(t, rememberedNodes(t, path), "n2")
}

// Where no position is known from before the store went back, what is doubtful
// is not written: the next run would take it for what the store holds.
func TestDoubtsWithoutAPosition(t *testing.T) { synctest.Test(t, doubtsWithoutAPosition) }

func doubtsWithoutAPosition(t *testing.T) {
	path := filepath.Join(t.TempDir(), lastgood.FileName)
	b := start(t, func(c *Config, _ *memKernel) {
		c.LastGood, c.LeaseTTL, c.RecallAfter = path, time.Hour, time.Hour
		c.Position = func() string { return "elsewhere" }
	})
	b.ready(peer(2, "n2"), peer(3, "n3"))
	m := &memory{}
	b.store.updates <- subnet.Update{Full: true, WentBack: true, Put: []subnet.Record{peer(2, "n2")}}
	b.store.updates <- subnet.Update{Put: []subnet.Record{peer(4, "n4")}}
	b.eventually("both were taken", func() bool { return b.kernel.get(routeKey(4)) != nil })
	require.NoError(t, os.RemoveAll(path))
	b.agent.rememberNow(m)
	require.NoFileExists(t, path)
}

// ranBefore lets a run know the peers n2, n3 and n6, and returns what it leaves: the
// state of the kernel, and at path the file. The clock is a bubble's, and begins
// when that of the next bubble does.
func ranBefore(t *testing.T, path *string) (kernel backend.State) {
	*path = filepath.Join(t.TempDir(), lastgood.FileName)
	synctest.Test(t, func(t *testing.T) {
		b := start(t, func(c *Config, _ *memKernel) {
			c.LastGood, c.LeaseTTL, c.RecallAfter = *path, time.Hour, time.Hour
			c.Position = func() string { return "there" }
		})
		moved := peer(6, "n6")
		moved.Modified = 9000
		b.ready(peer(2, "n2"), peer(3, "n3"), moved)
		kernel = b.kernel.state
	})
	return kernel
}

// What must not be used does not keep a way either.
func TestWhatIsOutdatedIsNotDoubted(t *testing.T) {
	state := remembered(25 * time.Hour)
	path := keep(t, state)
	b := start(t, func(c *Config, _ *memKernel) { c.LastGood, c.LeaseTTL, c.RecallAfter = path, 24*time.Hour, time.Hour })
	b.store.configs <- []byte(netConf)
	claim := <-b.store.claims
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})}
	b.store.updates <- subnet.Update{Full: true, WentBack: true, Put: []subnet.Record{peer(2, "n2")}}
	b.eventually("the list was taken", func() bool { return b.agent.Status().Ready && b.kernel.get(routeKey(2)) != nil })
	require.Nil(t, b.kernel.get(routeKey(3)))
}
