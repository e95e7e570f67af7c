package netlabtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/subnet"
)

// Leases is where the leases are in etcd, with the default --etcd-prefix.
const Leases = "/coreos.com/network/subnets/"

// Record is what stands in etcd of a node, read without the daemon's code.
type Record struct {
	Key     string                         `json:"-"` // below Leases
	LeaseID clientv3.LeaseID               `json:"-"` // 0: a reservation
	Created int64                          `json:"-"` // revision
	Subnets subnet.PerFamily[netip.Prefix] `json:"-"`

	NodeName      string `json:",omitempty"`
	MachineID     string `json:",omitempty"`
	PublicIP      string
	PublicIPv6    *string
	BackendType   string
	BackendData   *VTEP `json:",omitempty"`
	BackendV6Data *VTEP `json:",omitempty"`
}

// VTEP is a record's BackendData.
type VTEP struct {
	VNI     int
	VtepMAC string
}

// MAC returns the VTEP's MAC in the tunnel of a family; empty where the record
// has none, as while a node's uplink has no address of that family.
func (r Record) MAC(f subnet.Family) string {
	data := r.BackendData
	if f == subnet.IPv6 {
		data = r.BackendV6Data
	}
	if data == nil {
		return ""
	}
	return data.VtepMAC
}

// Announced returns the public IP of a family, as written; empty where there is
// none.
func (r Record) Announced(f subnet.Family) string {
	switch {
	case f == subnet.IPv4:
		return r.PublicIP
	case r.PublicIPv6 == nil:
		return ""
	}
	return *r.PublicIPv6
}

// Records returns all leases that can be read, sorted by key.
func Records(ctx context.Context, etcd *clientv3.Client) ([]Record, error) {
	resp, err := etcd.Get(ctx, Leases, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	var all []Record
	for _, kv := range resp.Kvs {
		if r, err := decodeRecord(kv); err == nil {
			all = append(all, r)
		}
	}
	return all, nil
}

func decodeRecord(kv *mvccpb.KeyValue) (Record, error) {
	r := Record{Key: strings.TrimPrefix(string(kv.Key), Leases), LeaseID: clientv3.LeaseID(kv.Lease), Created: kv.CreateRevision}
	for part := range strings.SplitSeq(r.Key, "&") { // 10.5.52.0-24&fd00:12:13::-56
		addr, bits, _ := strings.Cut(part, "-")
		p, err := netip.ParsePrefix(addr + "/" + bits)
		if err != nil {
			return r, err
		}
		r.Subnets[subnet.FamilyOf(p.Addr())] = p
	}
	err := json.Unmarshal(kv.Value, &r)
	return r, err
}
