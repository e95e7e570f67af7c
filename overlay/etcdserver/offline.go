package etcdserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// BackupOffline saves a snapshot of a data directory that nobody serves, with
// the last write that was acknowledged. It starts the member for that, on a
// socket of its own which only this user reaches: the end of the log may not
// be in the database yet.
func BackupOffline(ctx context.Context, dataDir, path string) (s Snapshot, err error) {
	if _, err := os.Stat(filepath.Join(dataDir, "member")); err != nil {
		return Snapshot{}, fmt.Errorf("looking for the data of a store: %w", err)
	}
	tmp, err := os.MkdirTemp("", "twill-store-")
	if err != nil {
		return Snapshot{}, fmt.Errorf("making a directory for a socket: %w", err)
	}
	defer os.RemoveAll(tmp)
	socket := "unix://" + filepath.Join(tmp, "s")

	c := DefaultConfig()
	c.DataDir, c.ListenClientURLs = dataDir, []string{socket}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- Run(ctx, c, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		return Snapshot{}, errors.Join(err, ctx.Err())
	}
	s, err = Backup(ctx, clientv3.Config{Endpoints: []string{socket}, DialTimeout: requestTimeout, Logger: zap.NewNop()}, path)
	stop()
	return s, errors.Join(err, <-done)
}
