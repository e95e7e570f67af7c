package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/internal/tasks"
)

// WatchConfig calls on with the network config as it is, and after each
// change, one call at a time, until ctx ends (nil) or etcd refuses to tell. It
// waits for a config that is missing; one that goes missing is logged and the
// last one stands.
func (s *Store) WatchConfig(ctx context.Context, on func(raw []byte)) error {
	var last []byte
	have, missing := false, false
	key := s.configKey()
	err := s.watch(ctx, taskConfig, func(ctx context.Context, good func()) error {
		return s.follow(ctx, taskConfig, key, good, func(kv *mvccpb.KeyValue) error {
			switch {
			case kv == nil && !missing && have:
				s.log.WithField("key", key).Warn("The network config was deleted from etcd; the last one stays in force")
			case kv == nil && !missing:
				s.log.WithField("key", key).Warn("There is no network config in etcd; waiting for one: twill config set FILE")
			case kv != nil && (!have || !bytes.Equal(kv.Value, last)):
				have, last = true, kv.Value
				on(bytes.Clone(kv.Value))
			}
			missing = kv == nil
			return nil
		})
	})
	return unlessEnded(ctx, err)
}

// unlessEnded makes the end of ctx a success.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// WatchLeases calls on with all leases, and then with what changes, one call
// at a time, until ctx ends (nil) or etcd refuses to tell; called again, it
// begins with a full list again. A stream that breaks is resumed where it
// stood, if the store still knows that place in its history; else all leases
// are listed, with WentBack where the history is another one.
//
// Records that cannot be used are passed on with Record.Invalid set.
func (s *Store) WatchLeases(ctx context.Context, on func(subnet.Update)) error {
	var at position // zero: list first
	back, crowd := false, 0
	err := s.watch(ctx, taskLeases, func(ctx context.Context, good func()) error {
		if at.rev == 0 {
			l, err := s.listTogether(ctx)
			if err != nil {
				return err
			}
			if !back {
				if back, err = s.wentBack(ctx, l.at); err != nil {
					return err
				}
			}
			at, crowd = l.at, len(l.records)
			good()
			if back {
				s.log.WithField("store", s.cfg.Endpoints).Warn("The store went back in time: it was restored from a backup, or is another one")
			}
			on(subnet.Update{Full: true, WentBack: back, Put: l.records})
			s.see(at)
			back = false
		}
		err := s.resume(ctx, &at, good, on)
		switch {
		case errors.Is(err, errWentBack):
			at, back = position{}, true
			return makeWay(ctx, crowd)
		case errors.Is(err, rpctypes.ErrCompacted):
			s.log.WithField("revision", at.rev).Info("The store has forgotten what changed since; listing all leases")
			at = position{}
			return makeWay(ctx, crowd)
		}
		return err
	})
	return unlessEnded(ctx, err)
}

// makeWay waits before a listing that every node wants at the same time, the
// longer the more there are: a full list of 20 000 leases costs etcd 50 ms.
func makeWay(ctx context.Context, crowd int) error {
	if err := tasks.Pause(ctx, rand.N(time.Duration(crowd)*time.Millisecond+1)); err != nil {
		return err
	}
	return errAgain
}

// see notes how far WatchLeases has come, for good: a later call begins with a
// list, too, but must know that the list is older than what was told before.
func (s *Store) see(at position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = at
}

// wentBack reports whether a list is of another history than what was told
// before. A history that has been compacted meanwhile gets the benefit of the doubt.
func (s *Store) wentBack(ctx context.Context, list position) (bool, error) {
	s.mu.Lock()
	seen := s.seen
	s.mu.Unlock()
	switch {
	case seen.rev == 0:
		return false, nil
	case list.cluster != seen.cluster || list.rev < seen.rev:
		return true, nil
	}
	err := s.verify(ctx, seen)
	switch {
	case errors.Is(err, errWentBack):
		return true, nil
	case errors.Is(err, rpctypes.ErrCompacted):
		return false, nil
	}
	return false, err
}

// positionForm is that of a position in words: cluster, revision, the anchor's
// revision and the anchor.
const positionForm = "%x %d %d %q"

// Position returns how far WatchLeases has come, for Resume; "" before its
// first list.
func (s *Store) Position() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen.rev == 0 {
		return ""
	}
	return fmt.Sprintf(positionForm, s.seen.cluster, s.seen.rev, s.seen.anchorRev, s.seen.anchor)
}

// Resume takes the Position of an earlier run as how far WatchLeases has come:
// its first list then says WentBack if the store is older than that, or another
// one. It is to be called before WatchLeases.
func (s *Store) Resume(at string) error {
	var p position
	if _, err := fmt.Sscanf(at, positionForm, &p.cluster, &p.rev, &p.anchorRev, &p.anchor); err != nil || p.rev <= 0 {
		return fmt.Errorf("taking up position %q in etcd's history: it is not one that Position returned", at)
	}
	s.see(p)
	return nil
}

var errWentBack = errors.New("the store went back in time")

// resume passes on what changes after at, and moves at along.
func (s *Store) resume(ctx context.Context, at *position, good func(), on func(subnet.Update)) error {
	opened := func(ctx context.Context) error {
		// Only now: a store that is replaced after this ends the stream.
		if err := s.verify(ctx, *at); err != nil {
			return err
		}
		good()
		return nil
	}
	return s.stream(ctx, taskLeases, s.leases, clientv3.GetPrefixRangeEnd(s.leases), at.rev+1, opened, func(resp *pb.WatchResponse) error {
		if len(resp.Events) == 0 {
			// A progress notification: we have all up to its revision.
			at.rev = max(at.rev, resp.Header.Revision)
		} else {
			on(s.delta(resp.Events, at))
		}
		s.see(*at)
		return nil
	})
}

// verify checks that the history up to at is still the store's own.
func (s *Store) verify(ctx context.Context, at position) error {
	key := at.anchor
	if key == "" {
		key = s.leases // is no lease's key: it is missing, as it should be
	}
	kv, resp, err := s.get(ctx, key, clientv3.WithRev(at.rev))
	switch {
	case errors.Is(err, rpctypes.ErrFutureRev):
		return errWentBack
	case err != nil:
		return fmt.Errorf("checking the store's history at revision %d: %w", at.rev, err)
	case resp.Header.ClusterId != at.cluster:
		return errWentBack
	case kv == nil && at.anchorRev != 0, kv != nil && kv.ModRevision != at.anchorRev:
		return errWentBack
	}
	return nil
}

// delta turns events into an update; of several on one key the last counts.
func (s *Store) delta(events []*mvccpb.Event, at *position) subnet.Update {
	var u subnet.Update
	last := make(map[string]int, len(events))
	for i, e := range events {
		last[string(e.Kv.Key)] = i
	}
	for i, e := range events {
		key := string(e.Kv.Key)
		at.rev, at.anchor, at.anchorRev = e.Kv.ModRevision, key, e.Kv.ModRevision
		if e.Type == mvccpb.Event_DELETE {
			at.anchorRev = 0
		}
		if last[key] != i {
			continue
		}
		r := s.decode(e.Kv)
		if e.Type == mvccpb.Event_DELETE {
			u.Gone = append(u.Gone, r.Key)
		} else {
			u.Put = append(u.Put, r)
		}
	}
	return u
}
