package etcd_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Options{})
	client := server.Client(t)
	var n atomic.Int64
	t.Run("", func(t *testing.T) { // so that the server outlives the parallel tests
		subnettest.Contract(t, func(*testing.T) subnettest.Backend {
			return backend{server: server, client: client, prefix: fmt.Sprintf("/test/%d", n.Add(1))}
		})
	})
}

// backend is an etcd, or a part of one, as the contract sees it.
type backend struct {
	server *etcdtest.Server
	client *clientv3.Client
	prefix string
	change func(*etcd.Config)
}

func newBackend(t *testing.T, o etcdtest.Options) backend {
	server := etcdtest.Start(t, o)
	return backend{server: server, client: server.Client(t), prefix: "/coreos.com/network"}
}

func (b backend) config() etcd.Config {
	cfg := etcd.DefaultConfig()
	cfg.Endpoints, cfg.Prefix = []string{b.server.Endpoint}, b.prefix
	cfg.DialTimeout = subnettest.Patience // an etcd that is slow is no trouble here; what hangs has tests of its own
	if b.change != nil {
		b.change(&cfg)
	}
	return cfg
}

func (b backend) Open(t *testing.T) subnettest.Store { return b.open(t) }

func (b backend) open(t *testing.T) *etcd.Store { return b.openFor(t) }

func (b backend) openFor(t testing.TB) *etcd.Store {
	t.Helper()
	s, err := etcd.New(b.config())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func (b backend) key(k string) string { return b.prefix + "/subnets/" + k }

func (b backend) SetConfig(t *testing.T, raw []byte) {
	t.Helper()
	var err error
	if raw == nil {
		_, err = b.client.Delete(t.Context(), b.prefix+"/config")
	} else {
		_, err = b.client.Put(t.Context(), b.prefix+"/config", string(raw))
	}
	require.NoError(t, err)
}

func (b backend) Put(t *testing.T, key, value string, reserved bool) {
	t.Helper()
	var opts []clientv3.OpOption
	if !reserved {
		resp, err := b.client.Grant(t.Context(), 3600)
		require.NoError(t, err)
		opts = append(opts, clientv3.WithLease(resp.ID))
	}
	_, err := b.client.Put(t.Context(), b.key(key), value, opts...)
	require.NoError(t, err)
}

func (b backend) Delete(t *testing.T, key string) {
	t.Helper()
	_, err := b.client.Delete(t.Context(), b.key(key))
	require.NoError(t, err)
}

func (b backend) Records(t *testing.T) []subnet.Record {
	t.Helper()
	resp, err := b.client.Get(t.Context(), b.key(""), clientv3.WithPrefix())
	require.NoError(t, err)
	out := make([]subnet.Record, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		r := subnet.DecodeRecord(strings.TrimPrefix(string(kv.Key), b.key("")), kv.Value)
		r.Created, r.Modified, r.Reserved = kv.CreateRevision, kv.ModRevision, kv.Lease == 0
		out = append(out, r)
	}
	return out
}

// etcdLease returns the etcd lease that a key hangs on.
func (b backend) etcdLease(t *testing.T, key string) clientv3.LeaseID {
	t.Helper()
	resp, err := b.client.Get(t.Context(), b.key(key))
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	return clientv3.LeaseID(resp.Kvs[0].Lease)
}
