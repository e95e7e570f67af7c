package lifecycle

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// outage is how long the store is away at least.
func outage() time.Duration {
	if os.Getenv("TWILL_LONG") != "" {
		return time.Minute
	}
	return 5 * time.Second
}

// A store that is away, refusing connections or silent, costs no packet, no
// pod and no readiness; who came meanwhile is there afterwards.
func TestOutageOfTheStore(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		begin, end func(*testing.T, *cluster)
	}{
		{"killed", func(t *testing.T, c *cluster) { require.NoError(t, c.Store.Kill(t.Context())) }, func(t *testing.T, c *cluster) { c.restartStore(t) }},
		{"hanging", func(t *testing.T, c *cluster) { require.NoError(t, c.Store.Signal(syscall.SIGSTOP)) },
			func(t *testing.T, c *cluster) { require.NoError(t, c.Store.Signal(syscall.SIGCONT)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, netlab.Options{Nodes: 3})
			old, late := c.Nodes[:2], c.Node(3)
			pods := c.deploy(t, old)
			tr := startTraffic(t, pods)
			began := time.Now()
			tt.begin(t, c)
			for _, n := range old {
				awaitStatus(t, n, "degraded", func(s overlay.Status) bool { return s.Store.Degraded != nil && s.Ready })
			}
			for _, n := range old {
				code, body := health(t, n, "/readyz")
				require.Equal(t, http.StatusOK, code, "ready as before")
				require.Contains(t, body, "degraded since 20")
				require.Equal(t, "0", metric(t, n, "twill_store_up"))
			}
			c.launch(t, late)
			requirePings(t, append(pods, netlabtest.AddPod(t, old[0], "meanwhile"))...)
			netlabtest.Run(t, &old[1].Host, "ip link set twill.1 mtu 1400")
			awaitStatus(t, old[1], "repairs go on", func(s overlay.Status) bool { return s.Repairs.ByKind["link"] > 0 })
			for time.Since(began) < outage() {
				tr.Await(t, 10)
			}
			code, _ := health(t, late, "/readyz")
			require.Equal(t, http.StatusServiceUnavailable, code, "the late one has nothing yet")
			tt.end(t, c)
			over := time.Now()
			c.put(t, numbered(250), peer(250))
			netlabtest.Eventually(t, "a way to the first new peer", func() error {
				if !slices.ContainsFunc(ways(t, old[0]), func(w string) bool { return strings.HasPrefix(w, "route 10.244.250.0/24 ") }) {
					return errors.New("there is none")
				}
				return nil
			})
			t.Logf("a way to the first new peer %v later", time.Since(over).Round(time.Millisecond))

			c.delete(t, numbered(250))
			c.awaitReady(t, late)
			pods = append(pods, netlabtest.AddPod(t, late, "pod"))
			for _, n := range c.Nodes {
				awaitStatus(t, n, "not degraded", func(s overlay.Status) bool { return s.Store.Degraded == nil && s.Ready })
				c.awaitWays(t, n)
				require.Equal(t, "1", metric(t, n, "twill_store_up"))
			}
			t.Logf("the store was away for %v; all was well %v later", over.Sub(began).Round(time.Second), time.Since(over).Round(time.Second))
			tr.RequireNoLoss(t)
			requirePings(t, pods...)
		})
	}
}

// compact makes etcd forget all that was before now.
func (c *cluster) compact(t *testing.T) {
	t.Helper()
	resp, err := c.etcd.Get(t.Context(), leases, clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(t, err)
	_, err = c.etcd.Compact(t.Context(), resp.Header.Revision, clientv3.WithCompactPhysical())
	require.NoError(t, err)
}

// A compaction hurts neither a watch that is up to date nor one that has to
// ask for what is forgotten.
func TestCompaction(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 2})
	n := c.Node(1)
	const first, second = "10.244.250.0-24&fd00:244:0:fa::-64", "10.244.251.0-24&fd00:244:0:fb::-64"

	t.Run("while watching", func(t *testing.T) {
		unharmed(t, pods, func() {
			c.put(t, first, peer(250))
			c.compact(t)
			c.awaitWays(t, n)
			c.put(t, second, peer(251))
			c.awaitWays(t, n)
			c.compact(t)
			c.delete(t, first)
			c.awaitWays(t, n)
		})
		require.Zero(t, logged(t, c.daemon(n), "compacted"))
		require.Zero(t, logged(t, c.daemon(n), "listing all leases"))
	})

	t.Run("while stopped and cut off", func(t *testing.T) {
		unharmed(t, pods, func() {
			require.NoError(t, c.daemon(n).Signal(syscall.SIGSTOP))
			require.NoError(t, c.Store.Kill(t.Context())) // ends the connection of the daemon, which does not see it
			c.restartStore(t)
			c.delete(t, second)
			changed := peer(252)
			c.put(t, first, peer(250))
			c.put(t, first, changed)
			c.compact(t)
			require.NoError(t, c.daemon(n).Signal(syscall.SIGCONT))
			c.awaitWays(t, n)
		})
		awaitLogged(t, c.daemon(n), "listing all leases")
		require.True(t, status(t, n).Ready)
		require.Zero(t, status(t, n).Repairs.Total)
		c.delete(t, first)
		c.awaitWays(t, n)
	})

	t.Run("while the daemon is down", func(t *testing.T) {
		unharmed(t, pods, func() {
			c.kill(t, n)
			c.put(t, second, peer(251))
			c.compact(t)
			c.restart(t, n)
			c.awaitWays(t, n)
		})
	})
}

// A store that comes back empty takes nothing with it: every node announces
// itself again, with the subnet it has.
func TestStoreLosesItsData(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 3})
	before := c.records(t)
	unharmed(t, pods, func() {
		require.NoError(t, c.Store.Kill(t.Context()))
		data := filepath.Join(filepath.Dir(filepath.Dir(c.Store.Log)), "store")
		require.DirExists(t, filepath.Join(data, "member"))
		require.NoError(t, os.RemoveAll(data))
		c.restartStore(t)
		netlabtest.Eventually(t, "all are there again", func() error {
			var was, is []string
			for _, r := range before {
				was = append(was, r.Key+" "+r.NodeName)
			}
			for _, r := range c.records(t) {
				is = append(is, r.Key+" "+r.NodeName)
			}
			return equalLines(was, is)
		})
		for _, n := range c.Nodes {
			c.awaitWays(t, n)
			s := awaitStatus(t, n, "in sync", func(s overlay.Status) bool { return s.Ready && s.Store.Degraded == nil && len(s.Peers) == 2 })
			require.Zero(t, s.Repairs.Total)
		}
	})
}
