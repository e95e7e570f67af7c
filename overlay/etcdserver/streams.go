package etcdserver

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// endStreams returns a server option that ends every watch and keepalive
// stream when ctx is done. Etcd waits for them to end by themselves, seven
// seconds long, in which it serves no new client; clients reconnect anyhow.
func endStreams(ctx context.Context) grpc.ServerOption {
	return grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		streamCtx, cancel := context.WithCancel(s.Context())
		defer cancel()
		stop := context.AfterFunc(ctx, cancel)
		defer stop()
		err := handle(srv, stream{s, streamCtx})
		if ctx.Err() != nil {
			// Clients resume a watch after Unavailable and give it up
			// after Canceled.
			return status.Error(codes.Unavailable, "the store is shutting down")
		}
		return err
	})
}

// stream is a server stream with a context of ours.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the context that endStreams cancels.
func (s stream) Context() context.Context { return s.ctx }
