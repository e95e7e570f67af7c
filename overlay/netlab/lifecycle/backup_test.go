package lifecycle

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
)

// The life of a store as Documentation/store.md has it, command by command,
// while pods talk on: from plain HTTP to TLS, killed in the middle of writes
// and without its disk, back from a backup, and at last a cluster of three of
// etcd's own that takes over.
func TestLifeOfAStore(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 3})
	pods := c.deploy(t, c.Nodes[:2])
	s := &tlsStore{cluster: c, data: filepath.Join(filepath.Dir(filepath.Dir(c.Store.Log)), "store")}

	t.Run("from HTTP to TLS", func(t *testing.T) {
		before := c.records(t)
		unharmed(t, pods, func() {
			out := netlabtest.Run(t, c.Lan, "twill store init --host 192.168.77.1,store.example.com --client node2")
			require.Contains(t, out, "TWILLD_ETCD_ENDPOINTS=https://192.168.77.1:2379\n")
			for _, n := range c.Nodes {
				copyFiles(t, n, c.Lan, "/etc/twill/tls", "ca.crt", "client.crt", "client.key")
			}
			copyFiles(t, c.Node(2), c.Lan, "/etc/twill/tls", "client-node2.crt", "client-node2.key")
			require.NoError(t, c.Store.Stop(t.Context()))
			s.start(t)
			for _, n := range c.Nodes[:2] {
				awaitStatus(t, n, "degraded", func(st overlay.Status) bool { return st.Store.Degraded != nil && st.Ready })
			}
			s.relaunch(t, c.Nodes[:2], s.endpoint())
		})
		require.Equal(t, before, c.records(t))
	})
	if t.Failed() {
		return
	}

	// Node 3 comes after the backup.
	backup := filepath.Join(t.TempDir(), "backup.db")
	const fake = "10.244.250.0-24&fd00:244:0:fa::-64"
	c.put(t, fake, peer(250))
	out := netlabtest.Run(t, c.Lan, s.client()+"twill store backup "+backup+"; twill store status")
	require.Contains(t, out, "saved "+backup+": ")
	require.Contains(t, out, ", leader\n")
	s.relaunch(t, c.Nodes[2:], s.endpoint())
	pods = append(pods, netlabtest.AddPod(t, c.Node(3), "pod"))
	for _, n := range c.Nodes {
		c.awaitWays(t, n)
	}

	t.Run("killed while writing, without its disk, from a backup", func(t *testing.T) {
		before := c.records(t)
		require.Len(t, before, 4)
		tr := startTraffic(t, pods)
		written := s.killWhileWriting(t, fake)
		require.NoError(t, os.RemoveAll(s.data))
		tr.Await(t, 50)
		out := netlabtest.Run(t, c.Lan, s.client()+"twill store restore --data-dir "+s.data+" "+backup)
		require.Contains(t, out, "restored "+backup+": ")
		lost := time.Now()
		s.start(t)
		netlabtest.Eventually(t, "all are there again", func() error { return equalLines(holdersOf(before), holdersOf(c.records(t))) })
		t.Logf("%d writes, then killed; all leases are there %v after the start from the backup", written, time.Since(lost).Round(time.Millisecond))
		s.requireIntact(t, before)
		tr.RequireNoLoss(t)
		for _, n := range c.Nodes {
			awaitLogged(t, c.daemon(n), "The store went back in time") // it doubts a restored store
		}
	})
	if t.Failed() {
		return
	}

	t.Run("a cluster of three takes over", func(t *testing.T) {
		before := c.records(t)
		tr := startTraffic(t, pods)
		require.NoError(t, s.process.Stop(t.Context()))
		last := filepath.Join(t.TempDir(), "last.db")
		netlabtest.Run(t, c.Lan, "twill store backup --from-data-dir "+s.data+" "+last)
		netlabtest.Run(t, c.Lan, "twill store init --renew --host 192.168.77.11,192.168.77.12,192.168.77.13")
		members := s.startMembers(t, last)
		endpoints := "https://192.168.77.11:2379,https://192.168.77.12:2379,https://192.168.77.13:2379"
		s.relaunch(t, c.Nodes, endpoints)
		s.requireIntact(t, before)

		// Any two of them are enough, also if the third was the leader.
		require.NoError(t, members[0].Kill(t.Context()))
		netlabtest.Eventually(t, "two members take a write", func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := c.etcd.Put(ctx, leases+fake, `{"NodeName":"peer250","PublicIP":"192.168.77.251","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:04:fb"}}`)
			return err
		})
		for _, n := range c.Nodes {
			c.awaitWays(t, n)
			awaitStatus(t, n, "not degraded", func(st overlay.Status) bool { return st.Store.Degraded == nil && st.Ready })
		}
		tr.RequireNoLoss(t)
	})
}

// tlsStore is the store of a cluster with certificates of `twill store init`,
// or what has taken over from it.
type tlsStore struct {
	*cluster
	data    string
	process *netlab.Process
}

func (s *tlsStore) endpoint() string { return "https://192.168.77.1:2379" }

// client sets what the store's environment file has for `twill store backup`.
func (s *tlsStore) client() string {
	return "export TWILLD_ETCD_ENDPOINTS=https://127.0.0.1:2379 TWILLD_ETCD_CAFILE=/etc/twill/tls/ca.crt " +
		"TWILLD_ETCD_CERTFILE=/etc/twill/tls/server.crt TWILLD_ETCD_KEYFILE=/etc/twill/tls/server.key; "
}

// start starts the store, or starts it again, and connects to it.
func (s *tlsStore) start(t *testing.T) {
	t.Helper()
	if s.process == nil {
		var err error
		s.process, err = s.Lan.Start("tls-store", "env", "TWILL_STORE_TLS_DIR=/etc/twill/tls", "TWILL_STORE_DATA_DIR="+s.data,
			"twill", "store", "--listen-client-urls=https://[::]:2379")
		require.NoError(t, err)
	} else {
		require.NoError(t, s.process.Restart())
	}
	s.connectTLS(t, s.endpoint())
}

// connectTLS connects the test to etcd, from the lan, with a node's
// certificate.
func (s *tlsStore) connectTLS(t *testing.T, endpoints string) {
	t.Helper()
	dir := s.Lan.Path("/etc/twill/tls")
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"))
	require.NoError(t, err)
	cfg := s.EtcdConfig()
	cfg.Endpoints = strings.Split(endpoints, ",")
	cfg.TLS = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}
	netlabtest.Eventually(t, "etcd answers", func() error {
		require.NoError(t, s.etcd.Close())
		s.etcd, err = clientv3.New(cfg)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := s.etcd.Get(ctx, leases)
		return err
	})
}

// relaunch starts daemons, one by one, with a store that has TLS; those that
// ran are stopped before.
func (s *tlsStore) relaunch(t *testing.T, nodes []*netlab.Node, endpoints string) {
	t.Helper()
	for _, n := range nodes {
		if p := s.daemon(n); p != nil {
			s.stop(t, n)
		}
		client := "client"
		if _, err := os.Stat(n.Path("/etc/twill/tls/client-" + n.Name + ".crt")); err == nil {
			client += "-" + n.Name
		}
		p, err := n.Start("twilld", "env", "TWILLD_ETCD_ENDPOINTS="+endpoints, "TWILLD_ETCD_CAFILE=/etc/twill/tls/ca.crt",
			"TWILLD_ETCD_CERTFILE=/etc/twill/tls/"+client+".crt", "TWILLD_ETCD_KEYFILE=/etc/twill/tls/"+client+".key",
			"twilld", "--node-name="+n.Name, "--ip-masq", "--healthz-ip=127.0.0.1", "--healthz-port=8471")
		require.NoError(t, err)
		s.mu.Lock()
		s.daemons[n] = p
		s.mu.Unlock()
		s.awaitReady(t, n)
	}
	for _, n := range nodes {
		s.awaitWays(t, n)
	}
}

// killWhileWriting rewrites a lease again and again and kills the store in the
// middle of it. It returns how many writes were acknowledged.
func (s *tlsStore) killWhileWriting(t *testing.T, key string) int {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	enough, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			// With a field that says nothing to a node: there is nothing for the
			// kernel in it.
			value := fmt.Sprintf(`{"NodeName":"peer250","PublicIP":"192.168.77.250","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:04:fa"},"N":%d}`, n)
			if _, err := s.etcd.Put(ctx, leases+key, value); err != nil {
				done <- n
				return
			}
			if n == 100 {
				close(enough)
			}
		}
	}()
	select {
	case <-enough:
	case <-time.After(patience):
		require.FailNow(t, "no writes")
	}
	require.NoError(t, s.process.Kill(t.Context()))
	cancel()
	return <-done
}

// requireIntact fails unless all nodes hold the subnets they had, see each
// other, and had nothing to repair.
func (s *tlsStore) requireIntact(t *testing.T, before []record) {
	t.Helper()
	require.NoError(t, equalLines(holdersOf(before), holdersOf(s.records(t))))
	for _, n := range s.Nodes {
		s.awaitWays(t, n)
		st := awaitStatus(t, n, "in sync", func(st overlay.Status) bool {
			return st.Ready && st.Store.Degraded == nil && len(st.Peers) == len(before)-1
		})
		require.Zero(t, st.Repairs.Total)
		require.Equal(t, s.record(t, n.Name).Subnets[0].String(), st.Lease.Subnets[0])
	}
}

// holdersOf tells who holds what.
func holdersOf(records []record) (lines []string) {
	for _, r := range records {
		lines = append(lines, r.Key+" "+r.NodeName)
	}
	return lines
}

// copyFiles copies files of a directory from one host to another.
func copyFiles(t *testing.T, to *netlab.Node, from *netlab.Host, dir string, names ...string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(to.Path(dir), 0o755))
	for _, name := range names {
		text, err := os.ReadFile(from.Path(filepath.Join(dir, name)))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to.Path(filepath.Join(dir, name)), text, 0o600))
	}
}

// startMembers makes an etcd of three members from a backup, one on each node,
// as the documentation says.
func (s *tlsStore) startMembers(t *testing.T, backup string) (members []*netlab.Process) {
	t.Helper()
	etcd, etcdutl := etcdtest.Build(t), buildEtcdutl(t)
	var cluster, endpoints []string
	for _, n := range s.Nodes {
		ip := n.Addrs[0].String()
		cluster = append(cluster, n.Name+"=https://"+ip+":2380")
		endpoints = append(endpoints, "https://"+ip+":2379")
	}
	for i, n := range s.Nodes {
		copyFiles(t, n, s.Lan, "/etc/twill/tls", "ca.crt", "server.crt", "server.key")
		peerURL := strings.TrimPrefix(cluster[i], n.Name+"=")
		netlabtest.Run(t, &n.Host, fmt.Sprintf("%s snapshot restore %s --name %s --data-dir /var/lib/etcd --initial-cluster %s "+
			"--initial-cluster-token twill-1 --initial-advertise-peer-urls %s --bump-revision 1000000000 --mark-compacted",
			etcdutl, backup, n.Name, strings.Join(cluster, ","), peerURL))
	}
	for i, n := range s.Nodes {
		peerURL := strings.TrimPrefix(cluster[i], n.Name+"=")
		p, err := n.Start("etcd", etcd, "--name="+n.Name, "--data-dir=/var/lib/etcd", "--log-level=warn",
			"--listen-client-urls="+endpoints[i]+",https://127.0.0.1:2379", "--advertise-client-urls="+endpoints[i],
			"--cert-file=/etc/twill/tls/server.crt", "--key-file=/etc/twill/tls/server.key",
			"--trusted-ca-file=/etc/twill/tls/ca.crt", "--client-cert-auth",
			"--listen-peer-urls="+peerURL, "--initial-advertise-peer-urls="+peerURL,
			"--initial-cluster="+strings.Join(cluster, ","), "--initial-cluster-token=twill-1", "--initial-cluster-state=existing",
			"--peer-cert-file=/etc/twill/tls/server.crt", "--peer-key-file=/etc/twill/tls/server.key",
			"--peer-trusted-ca-file=/etc/twill/tls/ca.crt", "--peer-client-cert-auth")
		require.NoError(t, err)
		members = append(members, p)
	}
	s.connectTLS(t, strings.Join(endpoints, ","))
	return members
}

// buildEtcdutl builds etcd's offline tool from the version that dist/etcd pins.
func buildEtcdutl(t *testing.T) string {
	t.Helper()
	gomod, err := exec.CommandContext(t.Context(), "go", "env", "GOMOD").Output()
	require.NoError(t, err)
	root := filepath.Dir(strings.TrimSpace(string(gomod)))
	dir := filepath.Join(root, ".cache", "etcd", "tool")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/", "tool")
	cmd.Dir, cmd.Env = filepath.Join(root, "dist/etcd"), append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return filepath.Join(dir, "etcdutl")
}
