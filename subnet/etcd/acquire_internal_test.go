package etcd

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

// Others are faster, between our listing and our transaction. What acquire is
// told as good comes just there.
func TestAcquireInARace(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Options{})
	client := server.Client(t)
	cfg, err := subnet.ParseConfig([]byte(`{"Network": "10.5.0.0/20", "SubnetMin": "10.5.0.0", "EnableIPv6": true, "IPv6Network": "fd00:5::/48"}`))
	require.NoError(t, err)
	wanted := subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("fd00:5:0:1::/64")}
	const other = `{"PublicIP":"192.168.64.3","BackendType":"vxlan","NodeName":"other"}`
	for name, tt := range map[string]struct {
		before, during []string // keys of others
		gone           string   // one that is deleted at the second listing
		ours           []string // keys that we had, in order; "" for any
	}{
		"nobody":                    {ours: []string{"10.5.1.0-24&fd00:5:0:1::-64"}},
		"somebody elsewhere":        {during: []string{"10.5.2.0-24&fd00:5:0:2::-64"}, ours: []string{"10.5.1.0-24&fd00:5:0:1::-64"}},
		"the same key":              {during: []string{"10.5.1.0-24&fd00:5:0:1::-64"}, ours: []string{""}},
		"the same IPv4 subnet":      {during: []string{"10.5.1.0-24&fd00:5:0:2::-64"}, ours: []string{""}},
		"the IPv4 subnet alone":     {during: []string{"10.5.1.0-24"}, ours: []string{""}},
		"the same IPv6 subnet":      {during: []string{"10.5.2.0-24&fd00:5:0:1::-64"}, ours: []string{"10.5.1.0-24&fd00:5:0:1::-64", ""}},
		"a part of the IPv4 subnet": {during: []string{"10.5.1.128-25"}, ours: []string{"10.5.1.0-24&fd00:5:0:1::-64", ""}},
		"more than ours":            {during: []string{"10.5.0.0-22"}, ours: []string{"10.5.1.0-24&fd00:5:0:1::-64", ""}},
		"full for a moment":         {before: []string{"10.5.0.0-20"}, gone: "10.5.0.0-20", ours: []string{"10.5.1.0-24&fd00:5:0:1::-64"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := DefaultConfig()
			config.Endpoints, config.Prefix = []string{server.Endpoint}, "/"+name
			config.DialTimeout = subnettest.Patience
			s, err := New(config)
			require.NoError(t, err)
			defer s.Close()
			put := func(keys []string) (revision int64) {
				for _, k := range keys {
					resp, err := client.Put(t.Context(), s.leases+k, other)
					require.NoError(t, err)
					revision = resp.Header.Revision
				}
				return revision
			}
			put(tt.before)
			from := put([]string{"10.99.0.0-24"})
			listings := 0
			own, err := s.acquire(t.Context(), subnet.Claim{
				Node: "n1", Config: cfg, Previous: wanted, BackendType: subnet.BackendVXLAN,
			}, func() {
				switch listings++; {
				case listings == 1:
					put(tt.during)
				case listings == 2 && tt.gone != "":
					_, err := client.Delete(t.Context(), s.leases+tt.gone)
					require.NoError(t, err)
				}
			})
			require.NoError(t, err)
			had := written(t, s, client, from)
			require.Len(t, had, len(tt.ours), "%v", had)
			require.Equal(t, own.held.Key, had[len(had)-1])
			for i := range tt.ours {
				if tt.ours[i] == "" {
					had[i] = ""
				}
			}
			require.Equal(t, tt.ours, had)
			list, err := s.Records(t.Context())
			require.NoError(t, err)
			mine := 0
			for _, r := range list {
				if r.Lease.Node == "n1" {
					mine++
				}
			}
			require.Equal(t, 1, mine)
		})
	}
}

// written returns the keys that n1 has written since a revision, in order.
func written(t *testing.T, s *Store, client *clientv3.Client, from int64) (keys []string) {
	t.Helper()
	end, err := client.Put(t.Context(), s.root+"/end", "")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for resp := range client.Watch(ctx, s.root, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		require.NoError(t, resp.Err())
		for _, e := range resp.Events {
			if e.Kv.ModRevision == end.Header.Revision {
				return keys
			}
			if r := s.decode(e.Kv); e.Type == clientv3.EventTypePut && r.Lease.Node == "n1" {
				keys = append(keys, r.Key)
			}
		}
	}
	return keys
}
