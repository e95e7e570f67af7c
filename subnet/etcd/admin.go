package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd/acquire"
	"github.com/twill-net/twill/subnet/internal/tasks"
)

func (s *Store) configKey() string { return s.root + "/config" }

// ErrNoConfig says that the network config is missing.
var ErrNoConfig = errors.New("there is no network config in etcd; write one with: twill config set FILE")

// Config returns the network config as it stands in etcd and its revision, for
// SetConfig. It wraps ErrNoConfig where there is none; the revision is 0 then.
func (s *Store) Config(ctx context.Context) (raw []byte, revision int64, err error) {
	kv, _, err := s.get(ctx, s.configKey())
	switch {
	case err != nil:
		return nil, 0, err
	case kv == nil:
		return nil, 0, fmt.Errorf("reading %s: %w", s.configKey(), ErrNoConfig)
	}
	return kv.Value, kv.ModRevision, nil
}

// SetConfig writes the network config, if it is still the one of that
// revision.
func (s *Store) SetConfig(ctx context.Context, raw []byte, revision int64) error {
	key := s.configKey()
	resp, err := s.txn(ctx, "writing "+key,
		[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", revision)}, []clientv3.Op{clientv3.OpPut(key, string(raw))})
	if err == nil && !resp.Succeeded {
		err = fmt.Errorf("writing %s: somebody else has written it meanwhile; look at it with twill config get, then try again", key)
	}
	return err
}

// Entry is a record and when it ends.
type Entry struct {
	subnet.Record
	Expires time.Time // zero for a reservation, and for a lease that ended meanwhile
}

// parallel is how many requests List has under way.
const parallel = 32

// Records returns all records, sorted by key.
func (s *Store) Records(ctx context.Context) ([]subnet.Record, error) {
	list, err := s.list(ctx)
	return list.records, err
}

// List returns all records, sorted by key. It asks etcd for the end of each,
// which is no way to watch them: see WatchLeases.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	list, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Entry, len(list.records))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, r := range list.records {
		out[i].Record = r
		if r.Reserved {
			continue
		}
		g.Go(func() error {
			resp, err := s.timeToLive(ctx, list.leases[i])
			if resp != nil {
				out[i].Expires = time.Now().Add(time.Duration(resp.TTL) * time.Second).Truncate(time.Second)
			}
			return err
		})
	}
	return out, g.Wait()
}

// Reserve keeps subnets for a node for ever. node may be "" if public IPs name
// it, as flannel's reservations do. A lease that the node has of the subnets is
// made permanent as it is. Anybody else's that overlaps is an error.
func (s *Store) Reserve(ctx context.Context, node string, ips subnet.PerFamily[netip.Addr], subnets subnet.PerFamily[netip.Prefix]) error {
	want := subnet.Lease{Node: node, PublicIPs: ips, Subnets: subnets}
	for {
		list, err := s.list(ctx)
		if err != nil {
			return err
		}
		err = s.reserve(ctx, want, list)
		if !errors.Is(err, errConflict) {
			return err
		}
		if err := tasks.Pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

func (s *Store) reserve(ctx context.Context, want subnet.Lease, list listing) error {
	key := subnet.EncodeKey(want.Subnets)
	choice := acquire.Choice{Key: key, Lease: want}
	// What is reserved already may have been so a moment ago only, by somebody
	// who is about to yield to an older one.
	var own subnet.Record
	done := false
	for _, r := range list.records {
		if r.Key == key && sameNode(r.Lease, want) && r.Reserved && r.Invalid == "" {
			own, done = r, true
		}
	}
	for _, r := range list.records {
		switch {
		case r.Key == key && sameNode(r.Lease, want):
			choice.Taken, choice.Own = true, r
			choice.Own.Reserved = true
			if r.Invalid == "" {
				choice.Lease = r.Lease
				choice.Lease.Node = cmp.Or(r.Lease.Node, want.Node)
			}
		case acquire.Overlap(r.Lease, want) && !(done && r.Created > own.Created): // else that one yields
			return fmt.Errorf("reserving %s for %s: it overlaps %s, which %s holds; release that first, or choose another subnet",
				key, want.ID(), r.Key, holderOf(r))
		}
	}
	if done {
		return nil
	}
	_, err := s.write(ctx, choice, owned{held: subnet.Held{Lease: choice.Lease, Key: key}, mod: choice.Own.Modified}, list.at.rev)
	return err
}

// sameNode reports whether a record is of the node that a reservation is for.
func sameNode(l, want subnet.Lease) bool {
	if want.Node != "" && l.Node != "" {
		return l.Node == want.Node
	}
	for f, ip := range want.PublicIPs {
		if ip.IsValid() && ip == l.PublicIPs[f] {
			return true
		}
	}
	return false
}

func holderOf(r subnet.Record) string {
	if id := r.Lease.ID(); id != "" {
		return "node " + id
	}
	return "an unreadable record"
}

// Remove deletes the records that match picks, unless they have changed since
// it saw them, and returns those that it deleted. A node that runs takes its
// lease again.
func (s *Store) Remove(ctx context.Context, match func(subnet.Record) bool) ([]subnet.Record, error) {
	list, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	var removed []subnet.Record
	for _, r := range list.records {
		if !match(r) {
			continue
		}
		key := s.leases + r.Key
		resp, err := s.txn(ctx, "deleting lease "+r.Key,
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", r.Modified)}, []clientv3.Op{clientv3.OpDelete(key)})
		if err == nil && !resp.Succeeded {
			err = fmt.Errorf("deleting lease %s: it has changed meanwhile; look at it with twill leases, then try again", r.Key)
		}
		if err != nil {
			return removed, err
		}
		removed = append(removed, r)
	}
	return removed, nil
}
