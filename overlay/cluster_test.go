package overlay

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/install"
	"github.com/twill-net/twill/subnet"
)

// Where somebody else assigns subnets, their length is theirs, too.
func TestReservedLeaseOfAnotherLength(t *testing.T) {
	p := netip.MustParsePrefix("10.244.1.0/25")
	reserved := subnet.Held{Lease: subnet.Lease{Subnets: subnet.PerFamily[netip.Prefix]{p}}}
	leased := reserved
	leased.Expires = time.Now().Add(time.Hour)
	parse := func(raw string) subnet.Config {
		c, err := subnet.ParseConfig([]byte(raw))
		require.NoError(t, err)
		return c
	}
	old := parse(`{"Network": "10.244.0.0/16", "SubnetLen": 25}`)
	for _, raw := range []string{
		`{"Network": "10.244.0.0/16", "SubnetLen": 24}`,
		`{"Network": "10.244.0.0/16", "SubnetLen": 25, "SubnetMin": "10.244.9.0"}`,
	} {
		require.NoError(t, admissible(old, parse(raw), reserved), raw)
		require.ErrorContains(t, admissible(old, parse(raw), leased), "no longer leases", raw)
	}
	require.ErrorContains(t, admissible(old, parse(`{"Network": "10.9.0.0/16"}`), reserved), "no longer leases")
}

// A store whose server is away goes on trying; one that stands still hangs.
func TestStoreThatStandsStillIsDead(t *testing.T) {
	store := newScript()
	a := New(Config{FullPass: time.Minute, Metrics: prometheus.NewRegistry()}, store, newMemKernel(), &memFirewall{}, nil)
	now := time.Now()
	store.stands.Store(&now)
	patience := 4*time.Minute + 10*time.Second
	for after, want := range map[time.Duration]string{
		patience + storeSilence - time.Second: "",
		patience + storeSilence + time.Second: "the store's watch of the leases has made no progress for 7m11s",
	} {
		a.board.readBack(now.Add(after))
		require.Equal(t, want, a.dead(now.Add(after)))
	}
	later := now.Add(time.Hour)
	a.board.readBack(later)
	store.stands.Store(&later)
	require.Empty(t, a.dead(later))
}

// The cluster is told when the node is ready and each time that this turns, and
// nothing by a node that starts.
func TestReportToTheCluster(t *testing.T) {
	told := make(chan subnet.NetworkState)
	b := start(t, func(c *Config, _ *memKernel) {
		c.ReportNetwork = func(ctx context.Context, states <-chan subnet.NetworkState) error {
			return relay(ctx, states, func(s subnet.NetworkState) {
				select {
				case told <- s:
				case <-ctx.Done():
				}
			})
		}
	})
	b.eventually("it starts", func() bool { return len(b.agent.Status().NotReady) == 2 })
	b.ready(peer(2, "n2"))
	require.Equal(t, subnet.NetworkState{Up: true, Message: "the overlay network is up"}, <-told, "the first word")
	b.store.updates <- subnet.Update{Put: []subnet.Record{peer(3, "n3")}}
	b.eventually("the peer is there", func() bool { return b.kernel.get(routeKey(3)) != nil })
	b.store.lose <- subnet.ErrExhausted
	down := <-told // and not the peer
	require.False(t, down.Up)
	require.Contains(t, down.Message, "the lease is lost")
	claim := <-b.store.claims
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})}
	require.True(t, (<-told).Up)
}

// A node that starts while the store is away says nothing of itself before the
// store has answered for a while: it would be another thing a moment later.
func TestReportOfAStartWithoutAStore(t *testing.T) {
	a := New(Config{ReportNetwork: func(context.Context, <-chan subnet.NetworkState) error { return nil }}, newScript(), newMemKernel(), &memFirewall{}, nil)
	reported := func() bool {
		a.report([]string{"no lease yet"})
		select {
		case s := <-a.network:
			require.Equal(t, subnet.NetworkState{Message: "no lease yet"}, s)
			return true
		default:
			return false
		}
	}
	pass := func(d time.Duration) { a.board.answers = a.board.answers.Add(-d) }
	require.False(t, reported(), "it starts")
	a.board.storeHealth(errors.New("connection refused"))
	pass(time.Hour)
	require.False(t, reported())
	a.board.storeHealth(nil)
	a.board.storeHealth(nil)
	require.False(t, reported(), "it can start now")
	pass(reportAfter)
	require.True(t, reported())
	require.False(t, reported(), "once")
}

// The runtime finds the network when the node is ready, not before; and again
// when somebody took it away.
func TestCNIConfIsInstalled(t *testing.T) {
	dir := t.TempDir()
	source, path := filepath.Join(dir, "source"), filepath.Join(dir, "net.d", "10-twill.conflist")
	require.NoError(t, os.WriteFile(source, []byte(`{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"twill"}]}`), 0o644))
	conf, err := install.ReadConflist(source, path)
	require.NoError(t, err)
	b := start(t, func(c *Config, _ *memKernel) { c.CNIConf, c.FullPass = conf, 50*time.Millisecond })
	b.eventually("it starts", func() bool { return len(b.agent.Status().NotReady) == 2 })
	require.NoFileExists(t, path)
	there := func() bool { _, err := os.Stat(path); return err == nil }
	b.ready()
	b.eventually("it is there", there)
	require.NoError(t, os.Remove(path))
	b.eventually("it is back", there)

	b.eventually("a file is in the directory's place", func() bool { // unless it was made again in between
		return os.RemoveAll(filepath.Dir(path)) == nil && os.WriteFile(filepath.Dir(path), nil, 0o644) == nil
	})
	b.eventually("trouble is told", func() bool {
		p := b.agent.Status().Problems
		return len(p) == 1 && p[0].What == partInstall && strings.Contains(p[0].Error, path)
	})
	require.NoError(t, os.Remove(filepath.Dir(path)))
	b.eventually("it is back", there)
	b.eventually("and all is well", func() bool { return len(b.agent.Status().Problems) == 0 })
}
