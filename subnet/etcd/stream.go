package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// stream watches [key, end), or key alone, from a revision on, 0 for now, until
// something breaks or etcd, asked, gives no sign of life on it. It calls opened
// when etcd has set the watch up, and then each with every answer. Each of
// etcd's signs of life is noted as progress of the task.
//
// It speaks to etcd's Watch service itself, because clientv3's Watcher opens a
// broken stream again behind our back, at the revision that comes next. In a
// store restored from a backup that revision may lie far ahead: such a watch
// is silent and lost. Here each new stream is seen, and checked by opened.
func (s *Store) stream(ctx context.Context, task, key, end string, from int64, opened func(context.Context) error, each func(*pb.WatchResponse) error) error {
	client, err := s.connect(ctx)
	if err != nil {
		return err
	}
	// A member cut off from its leader must end the stream, not fall silent.
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	late := time.AfterFunc(s.cfg.DialTimeout, func() { cancel(errTimeout) })
	defer late.Stop()
	broken := func(err error) error {
		if cause := context.Cause(ctx); errors.Is(cause, errTimeout) {
			err = cause
		}
		return fmt.Errorf("watching %s: %w", key, s.cfg.Hint(answer(err)))
	}
	watch, err := pb.NewWatchClient(client.ActiveConnection()).Watch(ctx, grpc.WaitForReady(false), grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		return broken(err)
	}
	create := &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end), StartRevision: from, ProgressNotify: from > 0}
	// An error of Send is io.EOF; Recv knows the reason.
	_ = watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	p := pulse{watch: watch, key: key, answered: make(chan int64, 1)}
	wg.Go(func() { p.run(ctx, s.quiet, s.cfg.DialTimeout, cancel) })
	for ours := int64(clientv3.InvalidWatchID); ; {
		p.waits.Store(time.Now().UnixNano())
		resp, err := watch.Recv()
		p.waits.Store(0)
		s.progress.Beat(task)
		if err == nil && (ours < 0 || resp.WatchId == ours) {
			err = canceled(resp)
		}
		switch {
		case err != nil:
			return broken(err)
		case ours < 0 && resp.Created:
			ours = resp.WatchId
			if !late.Stop() { // ctx has ended, or is about to
				return broken(errTimeout)
			}
			if err := opened(ctx); err != nil {
				return err
			}
		case resp.WatchId != ours:
			p.answer(resp)
		default:
			if err := each(resp); err != nil {
				return err
			}
		}
	}
}

// canceled returns the reason why etcd ended a watch, as an error that
// rpctypes.Error knows.
func canceled(resp *pb.WatchResponse) error {
	switch {
	case resp.CompactRevision != 0:
		return rpctypes.ErrGRPCCompacted
	case resp.Canceled:
		// The reason is an error as it prints: "rpc error: code = … desc = …".
		reason := resp.CancelReason
		if _, desc, ok := strings.Cut(reason, " desc = "); ok {
			reason = desc
		}
		return status.Error(codes.FailedPrecondition, reason)
	}
	return nil
}

// follow calls on with the value of one key, nil while it is missing: first,
// after each change, and whenever the stream had to be opened again. It reads
// the key each time, so that no order of events can mislead it.
func (s *Store) follow(ctx context.Context, task, key string, good func(), on func(*mvccpb.KeyValue) error) error {
	read := func(ctx context.Context) error {
		kv, _, err := s.get(ctx, key)
		if err != nil {
			return err
		}
		good()
		return on(kv)
	}
	return s.stream(ctx, task, key, "", 0, read, func(resp *pb.WatchResponse) error {
		if len(resp.Events) == 0 {
			return nil
		}
		return read(ctx)
	})
}
