package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd/acquire"
	"github.com/twill-net/twill/subnet/internal/tasks"
)

// owned is our lease as we last wrote or read it.
type owned struct {
	held  subnet.Held
	mod   int64 // revision of our key
	since int64 // as of which the subnets are ours
	term  term
}

// errConflict says that somebody was faster: list again.
var errConflict = errors.New("the leases have changed since they were listed")

// exhaustedTries bounds how often an exhausted network is looked at anew: of
// nodes that start at once some hold a subnet for a moment, until they see
// that another was faster.
const exhaustedTries = 6

// acquire gets the lease that acquire.Choose chooses.
func (s *Store) acquire(ctx context.Context, claim subnet.Claim, good func()) (owned, error) {
	delay := 10 * time.Millisecond
	// What WatchLeases is reading just now will do at first: what has changed
	// since makes a conflict.
	list := s.listTogether
	for exhausted := 0; ; list = s.list {
		own, err := s.tryAcquire(ctx, claim, list, good)
		switch {
		case errors.Is(err, subnet.ErrExhausted) && exhausted < exhaustedTries:
			exhausted++
		case !errors.Is(err, errConflict):
			return own, err
		}
		// Who fails makes way for somebody else's success, so this ends.
		if err := tasks.Pause(ctx, rand.N(delay)+delay/4); err != nil {
			return owned{}, err
		}
		delay = min(2*delay, 500*time.Millisecond)
	}
}

func (s *Store) tryAcquire(ctx context.Context, claim subnet.Claim, read func(context.Context) (listing, error), good func()) (owned, error) {
	list, err := read(ctx)
	if err != nil {
		return owned{}, err
	}
	good()
	choice, err := acquire.Choose(claim, list.records)
	if err != nil {
		return owned{}, err
	}
	own := owned{held: subnet.Held{Lease: choice.Lease, Key: choice.Key, Created: choice.Own.Created}, mod: choice.Own.Modified, since: choice.Own.Created}
	attached := list.leaseOf(choice.Own.Key)
	if !choice.Reserved() {
		if own.term, err = s.secure(ctx, attached, s.oursOf(choice)); err != nil {
			return owned{}, err
		}
	}
	own.held.Expires = own.term.expires()
	if choice.Written() && own.term.id == attached {
		return own, nil
	}
	for _, err := range choice.Unused {
		s.log.WithError(err).Warn("A reservation of this node is left alone; release it or reserve another")
	}
	return s.write(ctx, choice, own, list.at.rev)
}

// oursOf returns the full keys that a choice says are ours.
func (s *Store) oursOf(choice acquire.Choice) map[string]bool {
	ours := map[string]bool{s.leases + choice.Key: true}
	for _, r := range choice.Delete {
		ours[s.leases+r.Key] = true
	}
	return ours
}

// write makes the choice real if nothing of it has changed since the listing.
func (s *Store) write(ctx context.Context, choice acquire.Choice, own owned, listed int64) (owned, error) {
	key := s.leases + choice.Key
	value, err := subnet.EncodeValue(choice.Lease)
	if err != nil {
		return owned{}, err
	}
	cmps := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", cmp.Or(own.mod, choice.Undone.Modified))}
	if !choice.Taken {
		cmps = append(cmps, s.untouched(choice.Lease, listed)...)
	}
	ops := []clientv3.Op{clientv3.OpPut(key, string(value), clientv3.WithLease(own.term.id))}
	more, moreOps, err := s.tidy(choice)
	if err != nil {
		return owned{}, err
	}
	resp, err := s.txn(ctx, "writing lease "+choice.Key, append(cmps, more...), append(ops, moreOps...))
	if err != nil {
		return owned{}, err
	}
	if !resp.Succeeded {
		return owned{}, errConflict
	}
	own.mod = resp.Header.Revision
	if choice.Taken {
		return own, nil
	}
	own.since = own.mod
	own.held.Created = cmp.Or(choice.Undone.Created, own.mod)
	return own, s.yield(ctx, own, listed)
}

// untouched demands that no key which begins with the IPv4 subnet has been
// created since the listing: neither of it alone, nor with any IPv6 subnet.
func (s *Store) untouched(l subnet.Lease, listed int64) []clientv3.Cmp {
	if !l.Subnets[subnet.IPv4].IsValid() {
		return nil
	}
	part, _, _ := strings.Cut(subnet.EncodeKey(l.Subnets), "&")
	return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(s.leases+part).WithPrefix(), "<", listed+1)}
}

// tidy removes our further leases and parks our reservations that cannot serve.
func (s *Store) tidy(choice acquire.Choice) (cmps []clientv3.Cmp, ops []clientv3.Op, err error) {
	for _, r := range choice.Delete {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(s.leases+r.Key), "=", r.Modified))
		ops = append(ops, clientv3.OpDelete(s.leases+r.Key))
	}
	for _, r := range choice.Park {
		op, err := s.park(r)
		if err != nil {
			return nil, nil, err
		}
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(s.leases+r.Key), "=", r.Modified))
		ops = append(ops, op)
	}
	return cmps, ops, nil
}

// park takes the announcement out of a reservation.
func (s *Store) park(r subnet.Record) (clientv3.Op, error) {
	value, err := subnet.EncodeValue(acquire.Parked(r.Lease))
	return clientv3.OpPut(s.leases+r.Key, string(value)), err
}

// yield gives a new lease up again if another, written since our listing and
// before it, has an address or the node in common with it. What the keys
// cannot show, an overlap of IPv6 subnets or of other lengths, is settled so:
// of two that did not see each other, the younger sees the older here.
func (s *Store) yield(ctx context.Context, own owned, listed int64) error {
	if own.mod == listed+1 {
		return nil
	}
	var resp *clientv3.GetResponse
	err := s.request(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Get(ctx, s.leases, clientv3.WithPrefix(), clientv3.WithMinModRev(listed+1), clientv3.WithMaxCreateRev(own.mod-1))
		return err
	})
	if err != nil {
		return fmt.Errorf("looking for leases older than %s: %w", own.held.Key, err)
	}
	for _, kv := range resp.Kvs {
		r := s.decode(kv)
		if !acquire.Overlap(r.Lease, own.held.Lease) && (r.Lease.Node == "" || r.Lease.Node != own.held.Lease.Node) {
			continue
		}
		key := s.leases + own.held.Key
		_, err := s.txn(ctx, "giving up lease "+own.held.Key+" to "+r.Key,
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", own.mod)}, []clientv3.Op{clientv3.OpDelete(key)})
		return errors.Join(errConflict, err)
	}
	return nil
}
