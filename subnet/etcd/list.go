package etcd

import (
	"bytes"
	"cmp"
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

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

// flight is a listing under way, for all who want one meanwhile.
type flight struct {
	done chan struct{} // closed when the rest is there
	list listing
	err  error
}

// listTogether is list, but where somebody lists already it waits for him: a
// node that starts reads 20 000 leases once, not once to hold and once to watch.
// What it returns may have been read before it was called.
func (s *Store) listTogether(ctx context.Context) (listing, error) {
	s.mu.Lock()
	f := s.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		s.flight = f
		s.mu.Unlock()
		f.list, f.err = s.list(ctx)
		s.mu.Lock()
		s.flight = nil
		s.mu.Unlock()
		close(f.done)
		return f.list, f.err
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return listing{}, ctx.Err()
	case <-f.done:
	}
	if f.err != nil { // perhaps he had no time left
		return s.list(ctx)
	}
	return f.list, nil
}

// list reads all leases as of one revision, the latest. While it decodes one
// page it reads the next.
func (s *Store) list(ctx context.Context) (listing, error) {
	var l listing
	g, ctx := errgroup.WithContext(ctx)
	pages := make(chan *clientv3.GetResponse)
	g.Go(func() error {
		defer close(pages)
		return s.pages(ctx, pages)
	})
	for resp := range pages {
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
	}
	if err := g.Wait(); err != nil {
		return listing{}, fmt.Errorf("listing the leases under %s: %w", s.leases, err)
	}
	return l, nil
}

// pages reads all leases as of one revision, a part at a time.
func (s *Store) pages(ctx context.Context, out chan<- *clientv3.GetResponse) error {
	var rev int64
	from, end := s.leases, clientv3.GetPrefixRangeEnd(s.leases)
	for {
		var resp *clientv3.GetResponse
		err := s.request(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
			resp, err = c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(rev))
			return err
		})
		if err != nil {
			return err
		}
		rev = cmp.Or(rev, resp.Header.Revision)
		more, last := resp.More, len(resp.Kvs)-1
		if more && last >= 0 {
			from = string(resp.Kvs[last].Key) + "\x00"
		}
		select {
		case out <- resp:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !more || last < 0 {
			return nil
		}
	}
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

func (s *Store) decode(kv *mvccpb.KeyValue) subnet.Record {
	r := subnet.DecodeRecord(string(bytes.TrimPrefix(kv.Key, []byte(s.leases))), kv.Value)
	r.Created, r.Modified, r.Reserved = kv.CreateRevision, kv.ModRevision, kv.Lease == 0
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
