package lifecycle

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// badRecord is a record that must not count: one as peer(n) would have it, but
// for one thing.
type badRecord struct {
	name   string
	v4     string              // the key's first part where it is not numbered(n)'s; with a "-" in it
	spoil  func(r *record) any // what it is instead, nil for the record as spoiled
	reason string
}

// badRecords returns bad records as of the leases of node1 and node2.
func badRecords(one, two record) []badRecord {
	text := func(s string) func(*record) any { return func(*record) any { return s } }
	edit := func(change func(*record)) func(*record) any { return func(r *record) any { change(r); return nil } }
	v4 := func(r record) string { return r.Subnets[subnet.IPv4].String() }
	key := func(r record) string { return strings.Replace(v4(r), "/", "-", 1) }
	return []badRecord{
		{"bad JSON", "", text(`{"PublicIP":"192.168.77.250"`), "must be one JSON object"},
		{"no object", "", text(`["PublicIP"]`), "must be one JSON object"},
		{"nothing", "", text(``), "must be one JSON object"},
		{"a public IP that is none", "", edit(func(r *record) { r.PublicIP = "192.168.77.256" }), `PublicIP: "192.168.77.256" is not an IPv4 address`},
		{"a multicast public IP", "", edit(func(r *record) { r.PublicIP = "224.0.0.1" }), "224.0.0.1 cannot be the address of a node"},
		{"the subnet of another", key(two), nil, "overlaps " + v4(two)},
		{"a half of the subnet of another", strings.Replace(key(two), "-24", "-25", 1), nil, "overlaps " + v4(two)},
		{"our own subnet", key(one), nil, "overlaps " + v4(one)},
		{"the whole network", "10.244.0.0-16", nil, "overlaps "},
		{"our own public IP", "", edit(func(r *record) { r.PublicIP = one.PublicIP }), "public IP " + one.PublicIP + " is also that of"},
		{"the public IP of another", "", edit(func(r *record) { r.PublicIPv6 = two.PublicIPv6 }), "public IP " + *two.PublicIPv6 + " is also that of"},
		{"a multicast MAC", "", edit(func(r *record) { r.BackendData.VtepMAC = "01:00:5e:00:00:01" }), "VtepMAC 01:00:5e:00:00:01 is not a unicast address"},
		{"a zero MAC", "", edit(func(r *record) { r.BackendV6Data.VtepMAC = "00:00:00:00:00:00" }), "VtepMAC 00:00:00:00:00:00 is not a unicast address"},
		{"the MAC of another", "", edit(func(r *record) { r.BackendData.VtepMAC = two.MAC(subnet.IPv4) }), "VTEP MAC " + two.MAC(subnet.IPv4) + " (IPv4 tunnel) is also that of"},
		{"our own MAC", "", edit(func(r *record) { r.BackendV6Data.VtepMAC = one.MAC(subnet.IPv6) }), "VTEP MAC " + one.MAC(subnet.IPv6) + " (IPv6 tunnel) is also that of"},
		{"another VNI", "", edit(func(r *record) { r.BackendData.VNI = 9 }), "VNI 9 is not this network's 1"},
		{"another backend", "", edit(func(r *record) { r.BackendType = "host-gw" }), `backend type "host-gw" is not "vxlan"`},
		{"no backend data", "", edit(func(r *record) { r.BackendData, r.BackendV6Data = nil, nil }), "it has no BackendData"},
		{"a subnet around its own public IP", "10.244.249.0-24", edit(func(r *record) { r.PublicIP = "10.244.249.9" }), "holds its own public IP 10.244.249.9"},
		{"a subnet out of the network", "10.99.250.0-24", nil, "its subnet 10.99.250.0/24 is not in the network 10.244.0.0/16"},
		{"a key that is no subnet", "non-sense", nil, "lease key"},
		{"a key with host bits", "10.244.248.1-24", nil, "10.244.248.1/24 has host bits set"},
		{"nobody's", "", edit(func(r *record) { r.NodeName, r.PublicIP, r.PublicIPv6 = "", "", nil }), "neither a node name nor a public IP"},
	}
}

// put writes the record, as of peer(number).
func (b badRecord) put(t *testing.T, c *cluster, number int) (key string) {
	t.Helper()
	r := peer(number)
	var value any
	if b.spoil != nil {
		value = b.spoil(&r)
	}
	if value == nil {
		value = r
	}
	key = numbered(number)
	if _, v6, _ := strings.Cut(key, "&"); b.v4 != "" {
		key = b.v4 + "&" + v6
	}
	c.put(t, key, value)
	return key
}

// A record that nobody can use, or that would take from another what is its
// own, is refused by name on every node, and nobody's packets notice.
func TestBadRecords(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 3})
	bad := badRecords(c.record(t, "node1"), c.record(t, "node2"))
	before := map[*netlab.Node][]string{}
	for _, n := range c.Nodes {
		before[n] = ways(t, n)
	}
	tr := startTraffic(t, pods)
	for _, b := range bad {
		t.Run(b.name, func(t *testing.T) {
			key := b.put(t, c, 250)
			for _, n := range c.Nodes {
				s := awaitStatus(t, n, "refused", func(s overlay.Status) bool { return len(s.Refused) == 1 })
				require.Equal(t, key, s.Refused[0].Key)
				require.Contains(t, s.Refused[0].Reason, b.reason)
				require.Len(t, s.Peers, 2)
				require.NoError(t, equalLines(before[n], ways(t, n)))
			}
			c.delete(t, key)
			for _, n := range c.Nodes {
				awaitStatus(t, n, "forgotten", func(s overlay.Status) bool { return len(s.Refused) == 0 })
			}
		})
	}

	t.Run("all at once", func(t *testing.T) {
		keys := map[string]string{}
		for i, b := range bad {
			keys[b.put(t, c, 200+i)] = b.reason
		}
		require.Len(t, keys, len(bad))
		refused := func(n *netlab.Node) {
			t.Helper()
			s := awaitStatus(t, n, "all are refused", func(s overlay.Status) bool { return len(s.Refused) == len(bad) && len(s.Peers) == 2 })
			for _, r := range s.Refused {
				require.Contains(t, r.Reason, keys[r.Key], r.Key)
			}
			require.True(t, s.Ready)
			require.NoError(t, equalLines(before[n], ways(t, n)))
			require.Equal(t, strconv.Itoa(len(bad)), metric(t, n, "twill_refused_records"))
			var printed overlay.Status
			require.NoError(t, json.Unmarshal([]byte(netlabtest.Run(t, &n.Host, "twill status -o json")), &printed))
			require.Equal(t, s.Refused, printed.Refused)
		}
		for _, n := range c.Nodes {
			refused(n)
		}
		// Also by a daemon that starts among them.
		c.kill(t, c.Node(1))
		c.restart(t, c.Node(1))
		refused(c.Node(1))
	})
	tr.RequireNoLoss(t)
	for _, n := range c.Nodes {
		require.Zero(t, status(t, n).Repairs.Total)
		require.Zero(t, logged(t, c.daemon(n), "level=error"))
	}
}
