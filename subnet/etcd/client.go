package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"

	"github.com/twill-net/twill/subnet/internal/tasks"
)

// How soon a dead connection is noticed and a new one made. etcd refuses pings
// more often than every 5 s, gRPC sends none more often than every 10 s.
const (
	pingInterval = 10 * time.Second
	pingTimeout  = 5 * time.Second
	reconnectMin = 100 * time.Millisecond
	reconnectMax = time.Second // an etcd that is back is found within this, and 20 % of jitter
	synTimeout   = 1500 * time.Millisecond
)

// Store is a connection to etcd. Its methods may run at the same time.
type Store struct {
	cfg    Config
	root   string // prefix of all keys
	leases string // prefix of the leases' keys
	log    *logrus.Entry
	health tasks.Health

	progress tasks.Progress
	quiet    time.Duration // see quietMost

	life context.Context // ends with Close
	end  context.CancelFunc

	connections connections

	mu     sync.Mutex
	client *clientv3.Client // nil until first needed
	flight *flight          // nil while nobody lists

	seen  position         // of the last list or event that WatchLeases passed on
	own   owned            // what Hold last held, for Release
	grant clientv3.LeaseID // our etcd lease, not known to be gone
}

// New returns a store which connects when it is first used, so that etcd need
// not be there yet. It reads the TLS files.
func New(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if _, err := cfg.tlsConfig(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, root: cfg.root(), log: cfg.Logger, health: tasks.Health{Tell: cfg.Health}, quiet: quietMost}
	s.leases = s.root + "/subnets/"
	if s.log == nil {
		quiet := logrus.New()
		quiet.SetLevel(logrus.PanicLevel)
		s.log = logrus.NewEntry(quiet)
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// Close ends the connection. The node's lease stays, see Release.
func (s *Store) Close() error {
	s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return nil
	}
	err := s.client.Close()
	s.client = nil
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("closing the connection to etcd: %w", err)
	}
	return nil
}

// connect returns the client. With a password, etcd must be there to make one.
func (s *Store) connect(ctx context.Context) (*clientv3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	if s.life.Err() != nil {
		return nil, errors.New("the store is closed")
	}
	tlsConfig, err := s.cfg.tlsConfig()
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(s.life)
	forget := context.AfterFunc(ctx, end)
	client, err := clientv3.New(clientv3.Config{
		Context:              life,
		Endpoints:            s.cfg.Endpoints,
		DialTimeout:          s.cfg.DialTimeout,
		DialKeepAliveTime:    pingInterval,
		DialKeepAliveTimeout: pingTimeout,
		// No PermitWithoutStream: of several endpoints some have no stream of
		// ours, and etcd ends a connection that pings without one.
		MaxUnaryRetries: 4, // a new token needs two; else we retry ourselves, and say so
		TLS:             tlsConfig,
		Username:        s.cfg.Username,
		Password:        string(s.cfg.Password),
		Logger:          zap.NewNop(), // it writes to stderr otherwise
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: reconnectMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax},
				MinConnectTimeout: s.cfg.DialTimeout,
			}),
			grpc.WithContextDialer(s.connections.dial),
			grpc.WithChainUnaryInterceptor(failFast),
		},
	})
	if !forget() && err == nil {
		_ = client.Close()
		err = ctx.Err()
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("connecting to etcd: %w", s.cfg.Hint(answer(err)))
	}
	s.client = client
	return client, nil
}

// failFast makes a request fail while there is no connection, with the reason
// that dialing gave. The etcd client would wait for one until its timeout, and
// then know no reason.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// request runs one request with a timeout.
func (s *Store) request(ctx context.Context, do func(context.Context, *clientv3.Client) error) error {
	client, err := s.connect(ctx)
	if err != nil {
		return err
	}
	bound, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()
	err = do(bound, client)
	if err != nil && ctx.Err() == nil && bound.Err() != nil {
		return fmt.Errorf("%w within %s", errTimeout, s.cfg.DialTimeout)
	}
	return s.cfg.Hint(answer(err))
}

// awaitConnection waits at most for d, until there is a connection.
func (s *Store) awaitConnection(ctx context.Context, d time.Duration) {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	conn := client.ActiveConnection()
	for state := conn.GetState(); state == connectivity.Connecting || state == connectivity.TransientFailure; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}
