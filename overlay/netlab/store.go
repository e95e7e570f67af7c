package netlab

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// ConfigKey is where the daemons read the network config, with the default
// --etcd-prefix.
const ConfigKey = "/coreos.com/network/config"

// EtcdEndpoints returns the URLs of etcd in the lab, one for each family of
// the underlay.
func (l *Lab) EtcdEndpoints() []string {
	var urls []string
	for _, f := range l.opts.Underlay.Families() {
		urls = append(urls, "http://"+net.JoinHostPort(l.Lan.Addrs[f].String(), "2379"))
	}
	return urls
}

// EtcdConfig returns the configuration of a client that reaches the lab's etcd
// from this process.
func (l *Lab) EtcdConfig() clientv3.Config {
	return clientv3.Config{
		Endpoints:   l.EtcdEndpoints(),
		DialTimeout: 10 * time.Second,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return l.Lan.DialContext(ctx, "tcp", addr)
		})},
	}
}

// startStore starts etcd and puts the network config.
func (l *Lab) startStore(ctx context.Context) (err error) {
	l.record.Etcd = l.EtcdEndpoints()
	l.Store, err = l.Lan.Start("store", l.opts.Binaries.Twill, "store",
		"--data-dir="+filepath.Join(l.opts.Dir, "store"),
		"--listen-client-urls="+strings.Join(l.EtcdEndpoints(), ","),
		"--unsafe-no-fsync")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// A client that finds nobody listening waits a second before it tries
	// again.
	err = poll(ctx, 10*time.Millisecond, func() (bool, error) {
		conn, err := l.Lan.DialContext(ctx, "tcp", strings.TrimPrefix(l.EtcdEndpoints()[0], "http://"))
		if err == nil {
			conn.Close()
			return true, nil
		}
		if !l.Store.Running() {
			return false, l.Store.Wait(ctx)
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for etcd: %w", l.Store.explain(err))
	}
	client, err := clientv3.New(l.EtcdConfig())
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err = client.Put(ctx, ConfigKey, l.opts.NetConf); err != nil {
		return fmt.Errorf("putting the network config into etcd: %w", l.Store.explain(err))
	}
	return nil
}
