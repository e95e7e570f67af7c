package etcd

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/internal/tasks"
)

// How often a lease that is lost again and again is taken anew.
const (
	retakeMin = time.Second
	retakeMax = 30 * time.Second
	retakeOK  = time.Minute // held for this long, it counts as settled
)

// Hold takes a lease for the claim, announces it and keeps it until ctx ends
// (nil). The lease stays then: a later Hold, with the same claim or another
// one of this node, takes it over as it is. held is called with the lease once
// it is ours, after each renewal, and when it has become another; one call at
// a time.
//
// A key that is gone or somebody else's is taken again, the same subnets if
// they are free. Hold gives up with an acquire.DuplicateError, with
// subnet.ErrExhausted, or when etcd refuses what it needs; nothing is lost by
// calling it again.
func (s *Store) Hold(ctx context.Context, claim subnet.Claim, held func(subnet.Held)) error {
	s.connections.dropStranded() // another claim may mean another address of ours
	h := &holder{Store: s, claim: claim, held: held, log: s.log.WithField("node", claim.Node)}
	return unlessEnded(ctx, h.run(ctx))
}

type holder struct {
	*Store
	claim subnet.Claim
	held  func(subnet.Held)
	log   *logrus.Entry
	own   owned // zero before the first
}

func (h *holder) run(ctx context.Context) error {
	pace := tasks.NewPace(retakeMin, retakeMax)
	for retakes := 0; ; retakes++ {
		if err := h.take(ctx); err != nil {
			return err
		}
		since := time.Now()
		err := h.keep(ctx)
		lost := &lostError{}
		if !errors.As(err, &lost) {
			return err
		}
		h.log.WithFields(logrus.Fields{"lease": h.own.held.Key, "reason": lost.reason}).Warn("Our lease is not as we wrote it; acquiring it again")
		h.claim.Previous, h.claim.InUse, h.claim.Since = h.own.held.Lease.Subnets, true, h.own.since
		if time.Since(since) > retakeOK {
			pace.Reset()
			retakes = 0
		}
		if retakes > 0 { // at first at once
			if err := tasks.Pause(ctx, pace.NextBackOff()); err != nil {
				return err
			}
		}
	}
}

// take acquires the lease and tells of it.
func (h *holder) take(ctx context.Context) error {
	var own owned
	err := h.persist(ctx, taskOwn, func(ctx context.Context, good func()) (err error) {
		own, err = h.acquire(ctx, h.claim, good)
		return err
	})
	if err != nil {
		return err
	}
	before, unused := h.own.held, h.own.term.id
	h.own = own
	h.mu.Lock()
	h.Store.own = own
	h.mu.Unlock()
	if own.term.id == clientv3.NoLease && unused != clientv3.NoLease { // reserved meanwhile
		if err := h.revoke(ctx, unused, nil); err != nil {
			h.log.WithError(err).Debug("An etcd lease that holds nothing any more is left to end by itself")
		}
	}
	log := h.log.WithFields(logrus.Fields{"lease": own.held.Key, "reserved": own.term.id == clientv3.NoLease})
	switch {
	case before.Key == "":
		log.Info("Holding a lease")
	case before.Lease.Subnets != own.held.Lease.Subnets:
		log.WithField("previous", before.Key).Warn("The subnet of this node has changed: the previous one is another node's now")
	case before.Created != own.held.Created:
		log.Info("Took the lease again")
	}
	h.held(own.held)
	return nil
}

// lostError says that our key is not as we wrote it.
type lostError struct{ reason string }

func (e *lostError) Error() string { return "the lease was lost: " + e.reason }

// keep renews the etcd lease and watches the key, until either says that the
// lease must be acquired again: with a *lostError.
func (h *holder) keep(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.watch(ctx, taskOwn, h.watchOwn) })
	if h.own.term.id != clientv3.NoLease {
		g.Go(func() error { return h.persist(ctx, taskRenew, h.renew) })
	}
	return g.Wait()
}

func (h *holder) watchOwn(ctx context.Context, good func()) error {
	return h.follow(ctx, taskOwn, h.leases+h.own.held.Key, good, func(kv *mvccpb.KeyValue) error {
		switch {
		case kv == nil:
			return &lostError{"it is gone from etcd"}
		case kv.ModRevision != h.own.mod:
			return &lostError{"somebody else wrote it"}
		}
		return nil
	})
}

func (h *holder) renew(ctx context.Context, good func()) error {
	for {
		// Up to a tenth early, so that nodes which started together part.
		due := h.cfg.renewInterval()
		due -= rand.N(due/10 + 1)
		if err := tasks.Pause(ctx, time.Until(h.own.term.renewed.Add(due))); err != nil {
			return err
		}
		t, err := h.keepAlive(ctx, h.own.term.id)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return &lostError{"its etcd lease has ended"}
		}
		if err != nil {
			return err
		}
		good()
		h.own.term = t
		h.own.held.Expires = t.expires()
		h.held(h.own.held)
	}
}

// Release gives up the lease that Hold, which must have ended, last held: it
// deletes the key if nobody else has written it since, and revokes the etcd
// lease. A reservation stays, without the announcement.
func (s *Store) Release(ctx context.Context) error {
	s.mu.Lock()
	own := s.own
	s.mu.Unlock()
	if own.held.Key == "" {
		return nil
	}
	key := s.leases + own.held.Key
	op := clientv3.OpDelete(key)
	if own.term.id == clientv3.NoLease {
		var err error
		if op, err = s.park(subnet.Record{Key: own.held.Key, Lease: own.held.Lease}); err != nil {
			return err
		}
	}
	_, err := s.txn(ctx, "releasing lease "+own.held.Key,
		[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", own.mod)}, []clientv3.Op{op})
	if err != nil || own.term.id == clientv3.NoLease {
		return err
	}
	return s.revoke(ctx, own.term.id, map[string]bool{key: true})
}
