package overlay

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/install"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
)

// heard is what an operator of the cluster was told.
type heard struct {
	mu  sync.Mutex
	all []subnet.Notice
}

func (h *heard) announce(ctx context.Context, notices <-chan subnet.Notice) error {
	return relay(ctx, notices, func(n subnet.Notice) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all = append(h.all, n)
	})
}

// of returns the messages of a reason.
func (h *heard) of(reason string) (messages []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.all {
		if n.Reason == reason {
			messages = append(messages, n.Message)
		}
	}
	return messages
}

func TestNotices(t *testing.T) { synctest.Test(t, notices) }

func notices(t *testing.T) {
	var h heard
	var say chan<- underlay.Node
	filter := backend.Sysctl{Name: "net/ipv4/conf/twill.1/rp_filter", Value: "2"}
	b := start(t, func(c *Config, k *memKernel) {
		say = inCluster(c, k)
		c.Announce = h.announce
		k.broken[filter.Key()] = os.ErrPermission
	})
	told := func(reason string, times int, contains string) {
		t.Helper()
		b.eventually(reason, func() bool {
			m := h.of(reason)
			return len(m) == times && strings.Contains(m[times-1], contains)
		})
	}
	told("TwillNotReady", 1, "no usable network config yet")
	say <- internal("192.0.2.1")
	thief := peer(1, "thief")
	b.ready(peer(2, "n2"), thief, peer(3, "n3"), peer(3, "n4"))
	told("TwillReady", 1, "up")
	told("WrongSysctl", 1, "permission denied")
	told("RecordRefused", 1, "thief")
	require.Empty(t, h.of("UnderlayChanged"), "what it is at first is no news")
	say <- internal("203.0.113.7")
	told("UnderlayChanged", 1, "203.0.113.7, on eth0")
	told("NodeAddress", 1, "behind NAT")
	b.store.configs <- []byte(`{"Network": "10.99.0.0/16"}`)
	told("NetworkConfigRefused", 1, "network config: IPv4 network 10.99.0.0/16 no longer leases this node's subnet 10.244.1.0/24")
	require.Len(t, h.of("TwillReady"), 1)
	require.Len(t, h.of("TwillNotReady"), 1)
	require.Len(t, h.of("RecordRefused"), 1, "what concerns others is theirs")

	// What a pass mends is no news, what lasts is.
	b.store.lose <- subnet.ErrNoLease
	told("TwillNotReady", 2, "the lease is lost")
}

// Of a Node that was made anew nothing was told yet: Events are of one object,
// and go with it.
func TestNoticesOfANodeMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heard
		b := start(t, func(c *Config, _ *memKernel) { c.Announce = h.announce })
		b.store.configs <- []byte(netConf)
		lease := (<-b.store.claims).Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})
		b.store.updates <- subnet.Update{Full: true}
		for n, held := range []subnet.Held{
			{Lease: lease, Created: 1700000000},
			{Lease: lease, Created: 1700000000, Key: "n1"}, // it is the same one
			{Lease: lease, Created: 1700000060},
		} {
			b.store.helds <- held
			<-time.After(time.Minute) // by the bubble's clock
			require.Len(t, h.of("TwillReady"), []int{1, 1, 2}[n])
		}
	})
}

// What lasts is told once, in whichever words, and again when it has been away.
func TestNoticesOfWhatLasts(t *testing.T) {
	ready := subnet.Notice{Reason: "TwillReady", Message: "up"}
	down, other := subnet.Notice{Warning: true, Reason: "TwillNotReady", Message: "no lease"}, subnet.Notice{Warning: true, Reason: "TwillNotReady", Message: "no config"}
	is := func(n subnet.Notice) map[string]subnet.Notice { return map[string]subnet.Notice{"ready": n} }
	told := told{}
	for _, step := range []struct {
		before, now map[string]subnet.Notice
		news        []subnet.Notice
	}{
		{is(down), is(ready), nil},
		{is(ready), is(ready), []subnet.Notice{ready}},
		{is(ready), is(down), nil},
		{is(down), is(ready), nil}, // it was a moment's
		{is(ready), is(ready), nil},
		{is(down), is(other), []subnet.Notice{other}},
		{is(other), is(other), nil},
		{is(other), nil, nil},
		{nil, is(other), nil},
		{is(other), is(other), []subnet.Notice{other}}, // it came back
	} {
		require.Equal(t, step.news, told.news(step.before, step.now))
	}
}

// What comes and what goes has the facts looked at again.
func TestBoardTellsOfChanges(t *testing.T) {
	b := newBoard(Config{})
	changed := func() bool {
		select {
		case <-b.changed:
			return true
		default:
			return false
		}
	}
	failure := errors.New("read-only file system")
	key := backend.Key{Kind: backend.KindSysctl, Name: "net/ipv4/ip_forward"}
	b.problem(partConfig, nil)
	require.False(t, changed())
	for range 2 {
		b.problem(partConfig, failure)
		require.True(t, changed())
		b.problem(partConfig, nil)
		require.True(t, changed())
		b.objectFailed(key, failure)
		require.True(t, changed())
		b.objectWorks(key)
		require.True(t, changed())
	}
}

// Of a whole table that somebody works against a few entries are told, and
// beside them all else.
func TestNoticesOfManyThings(t *testing.T) {
	b := newBoard(Config{})
	all := map[backend.Key]int{}
	for i := range byte(100) {
		all[routeKey(i)] = contended
	}
	b.contention(all)
	facts := b.facts()
	require.Len(t, facts, 1+fewAlike)
	require.Contains(t, facts, "ready")
}

// Nobody waits for one who does not listen, and the newest is what he hears.
func TestNoticesThatNobodyTakes(t *testing.T) {
	told := make(chan subnet.Notice, noticesWaiting)
	for range 10 * noticesWaiting {
		newest(told, subnet.Notice{Reason: "Old"})
	}
	newest(told, subnet.Notice{Reason: "New"})
	require.Len(t, told, noticesWaiting)
	var last subnet.Notice
	for range noticesWaiting {
		last = <-told
	}
	require.Equal(t, "New", last.Reason)
}

// Another's CNI config before ours is told, and stays; what is to be installed
// may change while we run.
func TestForeignCNIConf(t *testing.T) {
	const cilium = `{"name":"cilium","cniVersion":"1.0.0","plugins":[{"type":"cilium-cni"}]}`
	dir := t.TempDir()
	source, netd := filepath.Join(dir, "source"), filepath.Join(dir, "net.d")
	write := func(path, content string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
	write(source, `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"twill"}]}`)
	write(filepath.Join(netd, "05-cilium.conflist"), cilium)
	write(filepath.Join(netd, "87-podman.conflist"), cilium)
	conf, err := install.ReadConflist(source, filepath.Join(netd, "10-twill.conflist"))
	require.NoError(t, err)
	var h heard
	b := start(t, func(c *Config, _ *memKernel) {
		c.CNIConf, c.CNIConfSource, c.CNIConfDir, c.FullPass, c.Announce = conf, source, netd, 50*time.Millisecond, h.announce
	})
	problem := func(part, contains string) func() bool {
		return func() bool {
			return slices.ContainsFunc(b.agent.Status().Problems, func(p Problem) bool { return p.What == part && strings.Contains(p.Error, contains) })
		}
	}
	b.eventually("it is told before ours is there", problem(partCNI, "05-cilium.conflist (network cilium, cilium-cni), which sorts before ours"))
	b.ready()
	b.eventually("ours is there", func() bool { _, err := os.Stat(conf.Path); return err == nil })
	require.True(t, problem(partCNI, "05-cilium.conflist")())
	require.Equal(t, []string{"87-podman.conflist (network cilium, cilium-cni)"}, b.agent.Status().OtherCNI)
	require.Equal(t, map[string]int{"before": 1, "behind": 1}, b.agent.counts().cni)
	b.eventually("the operator hears of it", func() bool { return len(h.of("ForeignCNIConfig")) == 1 && len(h.of("OtherCNIConfig")) == 1 })
	require.FileExists(t, filepath.Join(netd, "05-cilium.conflist"), "it is not ours to delete")
	require.NoError(t, os.Remove(filepath.Join(netd, "05-cilium.conflist")))
	b.eventually("it has gone", func() bool { return len(b.agent.Status().Problems) == 0 && b.agent.counts().cni["before"] == 0 })

	next := `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"twill"},{"type":"portmap"}]}`
	write(source, next)
	b.eventually("another one is taken", func() bool { have, err := os.ReadFile(conf.Path); return err == nil && string(have) == next })
	write(source, `{`)
	b.eventually("one that cannot be used is told", problem(partInstall, "the one before stays"))
	have, err := os.ReadFile(conf.Path)
	require.NoError(t, err)
	require.Equal(t, next, string(have))
	write(source, next)
	b.eventually("all is well", func() bool { return len(b.agent.Status().Problems) == 0 })
}
