package etcdserver

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

// requestTimeout is for a request where the client's config has none.
const requestTimeout = 5 * time.Second

// ask makes a request with a timeout.
func ask(ctx context.Context, cfg clientv3.Config, do func(context.Context) error) error {
	timeout := cfg.DialTimeout
	if timeout <= 0 {
		timeout = requestTimeout
	}
	bound, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	err := do(bound)
	if err != nil && bound.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", context.Cause(bound), err)
	}
	return err
}

// FailFast makes requests of a client fail while nobody can be reached, with
// the reason that dialing gave. They would wait for a connection until their
// timeout otherwise, and then know no reason.
func FailFast(cfg clientv3.Config) clientv3.Config {
	cfg.MaxUnaryRetries = 1 // etcd's client counts tries
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
		}))
	return cfg
}

// Status is how one endpoint of an etcd is.
type Status struct {
	Endpoint  string
	Version   string
	ClusterID uint64
	MemberID  uint64
	Leader    bool
	Revision  int64
	Size      int64 // of the database, bytes
	InUse     int64 // of it
	Quota     int64 // writes are refused beyond it; zero: unknown
	Alarms    []string
}

// Ask asks an endpoint how it is.
func Ask(ctx context.Context, cfg clientv3.Config, endpoint string) (s Status, err error) {
	cfg.Endpoints = []string{endpoint}
	client, err := clientv3.New(cfg)
	if err != nil {
		return s, fmt.Errorf("connecting to %s: %w", endpoint, err)
	}
	defer client.Close()
	err = ask(ctx, cfg, func(ctx context.Context) error {
		st, err := client.Status(ctx, endpoint)
		if err != nil {
			return err
		}
		s = Status{
			Endpoint: endpoint, Version: st.Version, ClusterID: st.Header.ClusterId, MemberID: st.Header.MemberId,
			Leader: st.Leader == st.Header.MemberId, Revision: st.Header.Revision,
			Size: st.DbSize, InUse: st.DbSizeInUse, Quota: st.DbSizeQuota,
		}
		alarms, err := client.AlarmList(ctx)
		if err != nil {
			return err
		}
		for _, a := range alarms.Alarms {
			if a.MemberID == s.MemberID {
				s.Alarms = append(s.Alarms, a.Alarm.String())
			}
		}
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("asking %s how it is: %w", endpoint, err)
	}
	return s, nil
}

// Defrag gives back what an etcd needs no longer: it forgets all old
// revisions, defragments each endpoint's database, and lifts the alarm that
// stops writes when there is no space. While it runs an endpoint does not
// answer: some seconds for a gigabyte.
func Defrag(ctx context.Context, cfg clientv3.Config) error {
	client, err := clientv3.New(cfg)
	if err != nil {
		return fmt.Errorf("connecting to etcd: %w", err)
	}
	defer client.Close()
	var revision int64
	err = ask(ctx, cfg, func(ctx context.Context) error {
		st, err := client.Status(ctx, cfg.Endpoints[0])
		if err == nil {
			revision = st.Header.Revision
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("asking %s for its revision: %w", cfg.Endpoints[0], err)
	}
	if err := compact(ctx, client, revision); err != nil {
		return err
	}
	for _, endpoint := range cfg.Endpoints {
		if _, err := client.Defragment(ctx, endpoint); err != nil {
			return fmt.Errorf("defragmenting %s: %w", endpoint, err)
		}
	}
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("listing alarms: %w", err)
	}
	for _, a := range alarms.Alarms {
		if a.Alarm != pb.AlarmType_NOSPACE {
			continue
		}
		if _, err := client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: a.MemberID, Alarm: a.Alarm}); err != nil {
			return fmt.Errorf("lifting the alarm %s: %w", a.Alarm, err)
		}
	}
	return nil
}

// compact forgets what was before revision.
func compact(ctx context.Context, client *clientv3.Client, revision int64) error {
	_, err := client.Compact(ctx, revision, clientv3.WithCompactPhysical())
	// There is nothing before the first revision, and that of another caller
	// is as good.
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compacting to revision %d: %w", revision, err)
	}
	return nil
}
