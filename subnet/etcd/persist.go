package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/twill-net/twill/subnet/internal/tasks"
)

var (
	errTimeout = errors.New("etcd does not answer")
	// errAgain asks persist for another run although nothing is wrong with etcd.
	errAgain = errors.New("another run is needed")
)

// What a Store does at a time, for health.
const (
	taskConfig = "watching the network config"
	taskLeases = "watching the leases"
	taskOwn    = "holding our lease"
	taskRenew  = "renewing our lease"
)

// refresh is how often the reason is looked up anew while there is no
// connection.
const refresh = 10 * time.Second

// persist runs run until it succeeds, or fails in a way that time alone does
// not mend, or ctx ends. run calls good as soon as it is certain that etcd
// answers; health is told of all else.
func (s *Store) persist(ctx context.Context, task string, run func(ctx context.Context, good func()) error) error {
	pace := tasks.NewPace(reconnectMin, reconnectMax)
	for {
		err := run(ctx, func() {
			pace.Reset()
			s.health.Set(task, nil)
		})
		switch {
		case ctx.Err() != nil:
			s.health.Set(task, nil)
			return ctx.Err()
		case err == nil:
			s.health.Set(task, nil)
			return nil
		case errors.Is(err, errAgain):
		case transient(err):
			s.health.Set(task, err)
		case refused(err):
			s.health.Set(task, err)
			return err
		default:
			s.health.Set(task, nil)
			return err
		}
		if tasks.Pause(ctx, pace.NextBackOff()) == nil && !errors.Is(err, errAgain) {
			s.awaitConnection(ctx, refresh)
		}
	}
}

// transient reports whether a later try may well succeed with nobody doing
// anything about it: no connection, no leader, no answer, a token that ran out.
func transient(err error) bool {
	if errors.Is(err, errTimeout) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	code := status.Code(err)
	if e := (rpctypes.EtcdError{}); errors.As(err, &e) {
		code = e.Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Aborted, codes.Canceled:
		return true
	}
	for _, e := range []error{rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision, rpctypes.ErrUserEmpty} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// grpcError is an error of gRPC's which prints without its framing.
type grpcError struct{ *status.Status }

func (e grpcError) Error() string              { return e.Message() }
func (e grpcError) GRPCStatus() *status.Status { return e.Status }

// answer makes an error of etcd's one that rpctypes knows, or plain to read.
func answer(err error) error {
	if err == nil {
		return nil
	}
	err = rpctypes.Error(err)
	if e := (rpctypes.EtcdError{}); errors.As(err, &e) {
		return err
	}
	if st, ok := status.FromError(err); ok {
		return grpcError{st}
	}
	return err
}

// refused reports whether err is an answer of etcd's, unlike one of our own
// that says why etcd was not asked at all.
func refused(err error) bool {
	e := rpctypes.EtcdError{}
	_, ok := status.FromError(err)
	return ok || errors.As(err, &e)
}
