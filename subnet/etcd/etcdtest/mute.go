package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Relay is a way to a plain server that passes gRPC on call by call, so that
// watches can be made to hang while everything else is answered.
type Relay struct {
	Endpoint string

	conn    *grpc.ClientConn
	watches atomic.Int64
	mu      sync.Mutex
	muted   chan struct{} // closed when the watches that are open hang
}

const watchMethod = "/etcdserverpb.Watch/Watch"

// Relay opens a way to the server, until the test ends.
func (s *Server) Relay(t testing.TB) *Relay {
	t.Helper()
	_, target, _ := strings.Cut(s.Endpoint, "://")
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(asIs{}), grpc.MaxCallRecvMsgSize(1<<30)))
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &Relay{Endpoint: "http://" + l.Addr().String(), conn: conn, muted: make(chan struct{})}
	server := grpc.NewServer(grpc.ForceServerCodec(asIs{}), grpc.MaxRecvMsgSize(1<<30), grpc.UnknownServiceHandler(r.pass))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		require.NoError(t, <-served)
		require.NoError(t, conn.Close())
	})
	return r
}

// Mute makes the watches that are open now hang: nothing of them arrives any
// more, and nothing breaks.
func (r *Relay) Mute() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.muted)
	r.muted = make(chan struct{})
}

// Watches returns how many watches were opened so far.
func (r *Relay) Watches() int { return int(r.watches.Load()) }

// pass serves one call.
func (r *Relay) pass(_ any, down grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(down)
	r.mu.Lock()
	muted := r.muted
	r.mu.Unlock()
	if method == watchMethod {
		r.watches.Add(1)
	} else {
		muted = nil
	}
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	up, err := grpc.NewClientStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, r.conn, method)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		if copyMessages(up, down, nil) == nil {
			_ = up.CloseSend()
		}
	})
	return copyMessages(down, up, muted)
}

// copyMessages passes messages on until there are no more; once muted is
// closed they are lost.
func copyMessages(to interface{ SendMsg(any) error }, from interface{ RecvMsg(any) error }, muted <-chan struct{}) error {
	for {
		var message []byte
		err := from.RecvMsg(&message)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-muted:
			continue
		default:
		}
		if err := to.SendMsg(&message); err != nil {
			return err
		}
	}
}

// asIs leaves messages as they are on the wire.
type asIs struct{}

func (asIs) Name() string { return "as-is" }

func (asIs) Marshal(v any) ([]byte, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("marshaling a %T", v)
	}
	return *b, nil
}

func (asIs) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("unmarshaling into a %T", v)
	}
	*b = append([]byte(nil), data...)
	return nil
}
