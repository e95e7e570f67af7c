package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// term is an etcd lease as of its last renewal; the zero term is a
// reservation's, which has none.
type term struct {
	id      clientv3.LeaseID
	renewed time.Time
	ttl     time.Duration
}

func (t term) expires() time.Time {
	if t.id == clientv3.NoLease {
		return time.Time{}
	}
	return t.renewed.Add(t.ttl)
}

// secure returns an etcd lease for our key: the one it hangs on, or one that an
// earlier attempt was granted, if it lives, has the TTL that we want and holds
// no key but ours; else a new one.
func (s *Store) secure(ctx context.Context, attached clientv3.LeaseID, ours map[string]bool) (term, error) {
	s.mu.Lock()
	last := s.grant
	s.mu.Unlock()
	for _, id := range []clientv3.LeaseID{attached, last} {
		if id == clientv3.NoLease {
			continue
		}
		fits, err := s.fits(ctx, id, ours)
		if err != nil {
			return term{}, err
		}
		if !fits {
			continue
		}
		t, err := s.keepAlive(ctx, id)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			continue
		}
		if err == nil {
			s.granted(id)
		}
		return t, err
	}
	var t term
	err := s.request(ctx, func(ctx context.Context, c *clientv3.Client) error {
		t.renewed = time.Now()
		resp, err := c.Grant(ctx, int64(s.cfg.LeaseTTL/time.Second))
		if err == nil {
			t.id, t.ttl = resp.ID, time.Duration(resp.TTL)*time.Second
		}
		return err
	})
	if err != nil {
		return term{}, fmt.Errorf("granting an etcd lease of %s: %w", s.cfg.LeaseTTL, err)
	}
	s.granted(t.id)
	return t, nil
}

// granted notes an etcd lease of ours, for when its key is lost.
func (s *Store) granted(id clientv3.LeaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grant = id
}

func (s *Store) fits(ctx context.Context, id clientv3.LeaseID, ours map[string]bool) (bool, error) {
	resp, err := s.timeToLive(ctx, id, clientv3.WithAttachedKeys())
	if err != nil || resp == nil {
		return false, err
	}
	for _, key := range resp.Keys {
		if !ours[string(key)] {
			return false, nil
		}
	}
	return resp.GrantedTTL == int64(s.cfg.LeaseTTL/time.Second), nil
}

// timeToLive returns nil of an etcd lease that is gone.
func (s *Store) timeToLive(ctx context.Context, id clientv3.LeaseID, opts ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	var resp *clientv3.LeaseTimeToLiveResponse
	err := s.request(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.TimeToLive(ctx, id, opts...)
		return err
	})
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("asking for the end of etcd lease %x: %w", int64(id), err)
	case resp.TTL <= 0:
		return nil, nil
	}
	return resp, nil
}

// keepAlive renews an etcd lease once. It speaks to the service itself since
// clientv3's KeepAliveOnce tries again without a pause, for as long as etcd
// has no leader. It wraps rpctypes.ErrLeaseNotFound of a lease that is gone.
func (s *Store) keepAlive(ctx context.Context, id clientv3.LeaseID) (term, error) {
	t := term{id: id}
	err := s.request(ctx, func(ctx context.Context, c *clientv3.Client) error {
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		defer cancel()
		t.renewed = time.Now() // not later than etcd's own clock starts
		stream, err := pb.NewLeaseClient(c.ActiveConnection()).LeaseKeepAlive(ctx, grpc.WaitForReady(false))
		if err != nil {
			return err
		}
		// An error of Send is io.EOF; Recv knows the reason.
		_ = stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)})
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		if resp.TTL <= 0 {
			return rpctypes.ErrLeaseNotFound
		}
		t.ttl = time.Duration(resp.TTL) * time.Second
		return nil
	})
	if err != nil {
		return term{}, fmt.Errorf("renewing etcd lease %x: %w", int64(id), err)
	}
	return t, nil
}

// revoke drops an etcd lease that no key hangs on, or only ours.
func (s *Store) revoke(ctx context.Context, id clientv3.LeaseID, ours map[string]bool) error {
	resp, err := s.timeToLive(ctx, id, clientv3.WithAttachedKeys())
	if err != nil || resp == nil {
		return err
	}
	for _, key := range resp.Keys {
		if !ours[string(key)] {
			return nil
		}
	}
	err = s.request(ctx, func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Revoke(ctx, id)
		return err
	})
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("revoking etcd lease %x: %w", int64(id), err)
	}
	s.granted(clientv3.NoLease)
	return nil
}
