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

// record is one as etcd holds it.
type record struct {
	subnet.Record
	lease clientv3.LeaseID // 0 for a reservation
}

// listing is what the store held at one revision.
type listing struct {
	records []record
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
			l.records = make([]record, 0, resp.Count)
		}
		for _, kv := range resp.Kvs {
			l.records = append(l.records, s.decode(kv))
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

// plain returns the records as every store knows them.
func (l listing) plain() []subnet.Record {
	out := make([]subnet.Record, len(l.records))
	for i, r := range l.records {
		out[i] = r.Record
	}
	return out
}

// find returns what etcd knows of a record of the listing.
func (l listing) find(key string) record {
	for _, r := range l.records {
		if r.Key == key {
			return r
		}
	}
	return record{}
}

// decode never fails: what cannot be used says why.
func (s *Store) decode(kv *mvccpb.KeyValue) record {
	r := record{lease: clientv3.LeaseID(kv.Lease)}
	r.Key = strings.TrimPrefix(string(kv.Key), s.leases)
	r.Created, r.Modified, r.Reserved = kv.CreateRevision, kv.ModRevision, kv.Lease == 0
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
