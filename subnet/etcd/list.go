package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/subnet"
)

// pageSize is how many records one request reads: some 1.5 MB, which neither
// etcd nor we hold for long.
const pageSize = 4096

// listing is what the store held at one revision.
type listing struct {
	records []subnet.Record    // sorted by key
	leases  []clientv3.LeaseID // of each; 0 for a reservation
	at      position
}

// position is a place in a store's history. The anchor is the write nearest to
// it that we know: where the history is another one, the anchor is missing.
type position struct {
	cluster   uint64
	rev       int64
	anchor    string // full key; "" for none
	anchorRev int64  // when it was written; 0: it was deleted
}

// list reads all leases as of one revision, the latest.
func (s *Store) list(ctx context.Context) (listing, error) {
	var l listing
	from, end := s.leases, clientv3.GetPrefixRangeEnd(s.leases)
	for more := true; more; {
		var resp *clientv3.GetResponse
		err := s.request(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
			resp, err = c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(l.at.rev))
			return err
		})
		if err != nil {
			return listing{}, fmt.Errorf("listing the leases under %s: %w", s.leases, err)
		}
		if l.at.rev == 0 {
			l.at.rev, l.at.cluster = resp.Header.Revision, resp.Header.ClusterId
			l.records = make([]subnet.Record, 0, resp.Count)
			l.leases = make([]clientv3.LeaseID, 0, resp.Count)
		}
		for _, kv := range resp.Kvs {
			l.records = append(l.records, s.decode(kv))
			l.leases = append(l.leases, clientv3.LeaseID(kv.Lease))
			if kv.ModRevision > l.at.anchorRev {
				l.at.anchor, l.at.anchorRev = string(kv.Key), kv.ModRevision
			}
		}
		if more = resp.More && len(resp.Kvs) > 0; more {
			from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		}
	}
	return l, nil
}

// leaseOf returns the etcd lease that a key of the listing hangs on, 0 for
// none.
func (l listing) leaseOf(key string) clientv3.LeaseID {
	for i, r := range l.records {
		if r.Key == key {
			return l.leases[i]
		}
	}
	return clientv3.NoLease
}

// decode never fails: what cannot be used says why.
func (s *Store) decode(kv *mvccpb.KeyValue) subnet.Record {
	r := subnet.Record{
		Key:     strings.TrimPrefix(string(kv.Key), s.leases),
		Created: kv.CreateRevision, Modified: kv.ModRevision, Reserved: kv.Lease == 0,
	}
	subnets, err := subnet.DecodeKey(r.Key)
	if err != nil {
		r.Invalid = err.Error()
		subnets = subnet.PerFamily[netip.Prefix]{}
	}
	if r.Lease, err = subnet.DecodeValue(subnets, kv.Value); err != nil && r.Invalid == "" {
		r.Invalid = err.Error()
	}
	return r
}

// get reads one key; nil when it is missing.
func (s *Store) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*mvccpb.KeyValue, *clientv3.GetResponse, error) {
	var resp *clientv3.GetResponse
	err := s.request(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Get(ctx, key, opts...)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", key, err)
	}
	if len(resp.Kvs) == 0 {
		return nil, resp, nil
	}
	return resp.Kvs[0], resp, nil
}

// txn runs one transaction. Its outcome is unknown when it fails: read again.
func (s *Store) txn(ctx context.Context, what string, cmps []clientv3.Cmp, ops []clientv3.Op) (*clientv3.TxnResponse, error) {
	var resp *clientv3.TxnResponse
	err := s.request(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Txn(ctx).If(cmps...).Then(ops...).Commit()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return resp, nil
}
