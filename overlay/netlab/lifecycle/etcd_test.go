package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

const leases = netlabtest.Leases

// record is what stands in etcd of a node.
type record = netlabtest.Record

// records returns all leases that can be read, sorted by key. An etcd that has
// just started or lost its leader may fail to answer at first.
func (c *cluster) records(t *testing.T) (all []record) {
	t.Helper()
	netlabtest.Eventually(t, "etcd lists the leases", func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		all, err = netlabtest.Records(ctx, c.etcd)
		return err
	})
	return all
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
		BackendData:   &netlabtest.VTEP{VNI: 1, VtepMAC: fmt.Sprintf("02:00:00:00:04:%02x", number)},
		BackendV6Data: &netlabtest.VTEP{VNI: 1, VtepMAC: fmt.Sprintf("02:00:00:00:06:%02x", number)},
	}
}
