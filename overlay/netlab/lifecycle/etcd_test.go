package lifecycle

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/subnet"
)

const leases = "/coreos.com/network/subnets/"

// record is what stands in etcd of a node, read without the daemon's code.
type record struct {
	key      string // below leases
	created  int64
	reserved bool
	subnets  subnet.PerFamily[netip.Prefix]

	NodeName      string `json:",omitempty"`
	MachineID     string `json:",omitempty"`
	PublicIP      string
	PublicIPv6    *string
	BackendType   string
	BackendData   *vtep `json:",omitempty"`
	BackendV6Data *vtep `json:",omitempty"`
}

type vtep struct {
	VNI     int
	VtepMAC string
}

func (r record) mac(f subnet.Family) string {
	if f == subnet.IPv6 {
		return r.BackendV6Data.VtepMAC
	}
	return r.BackendData.VtepMAC
}

func (r record) publicIP(f subnet.Family) string {
	switch {
	case f == subnet.IPv4:
		return r.PublicIP
	case r.PublicIPv6 == nil: // the address is on its way
		return ""
	}
	return *r.PublicIPv6
}

// records returns all leases that can be read, sorted by key.
func (c *cluster) records(t *testing.T) []record {
	t.Helper()
	resp, err := c.etcd.Get(t.Context(), leases, clientv3.WithPrefix())
	require.NoError(t, err)
	var all []record
	for _, kv := range resp.Kvs {
		if r, err := decode(kv); err == nil {
			all = append(all, r)
		}
	}
	return all
}

func decode(kv *mvccpb.KeyValue) (record, error) {
	r := record{key: strings.TrimPrefix(string(kv.Key), leases), created: kv.CreateRevision, reserved: kv.Lease == 0}
	for part := range strings.SplitSeq(r.key, "&") { // 10.5.52.0-24&fd00:12:13::-56
		addr, bits, _ := strings.Cut(part, "-")
		p, err := netip.ParsePrefix(addr + "/" + bits)
		if err != nil {
			return r, err
		}
		r.subnets[subnet.FamilyOf(p.Addr())] = p
	}
	err := json.Unmarshal(kv.Value, &r)
	return r, err
}

// record returns the only lease of a node.
func (c *cluster) record(t *testing.T, node string) record {
	t.Helper()
	var found []record
	for _, r := range c.records(t) {
		if r.NodeName == node {
			found = append(found, r)
		}
	}
	require.Len(t, found, 1, "leases of %s", node)
	return found[0]
}

// put writes a lease that no daemon keeps; it stays until delete.
func (c *cluster) put(t *testing.T, key string, value any) {
	t.Helper()
	text, ok := value.(string)
	if !ok {
		b, err := json.Marshal(value)
		require.NoError(t, err)
		text = string(b)
	}
	_, err := c.etcd.Put(t.Context(), leases+key, text)
	require.NoError(t, err)
}

func (c *cluster) delete(t *testing.T, key string) {
	t.Helper()
	resp, err := c.etcd.Delete(t.Context(), leases+key)
	require.NoError(t, err)
	require.EqualValues(t, 1, resp.Deleted, key)
}

// peer returns the record of a node that there is only in etcd. Its number
// goes into its addresses.
func peer(number int) record {
	v6 := fmt.Sprintf("fd77::%x", number)
	return record{
		NodeName: fmt.Sprintf("peer%d", number), MachineID: fmt.Sprintf("%032x", number),
		PublicIP: fmt.Sprintf("192.168.77.%d", number), PublicIPv6: &v6, BackendType: "vxlan",
		BackendData:   &vtep{1, fmt.Sprintf("02:00:00:00:04:%02x", number)},
		BackendV6Data: &vtep{1, fmt.Sprintf("02:00:00:00:06:%02x", number)},
	}
}
