package etcdserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/overlay/etcdserver/internal/durable"
)

const backupPrefix, backupSuffix = "twill-store-", ".db"

// abandoned is the age at which a file in the making is nobody's any more.
const abandoned = time.Hour

// BackupInto is Backup to a file in dir that is named by the time, such as
// twill-store-20261121T140000Z.db. Afterwards, if that succeeded, all but the
// newest keep backups of that name are deleted.
func BackupInto(ctx context.Context, cfg clientv3.Config, dir string, keep int, now time.Time) (Snapshot, error) {
	if keep < 1 {
		return Snapshot{}, fmt.Errorf("--backup-keep is %d, must be 1 at least", keep)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Snapshot{}, fmt.Errorf("creating --backup-dir: %w", err)
	}
	s, err := Backup(ctx, cfg, filepath.Join(dir, backupPrefix+now.UTC().Format("20060102T150405Z")+backupSuffix))
	if err != nil {
		return s, err
	}
	if err := rotate(dir, keep, now); err != nil {
		return s, fmt.Errorf("deleting old backups: %w", err)
	}
	return s, nil
}

func rotate(dir string, keep int, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var backups, drop []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), backupPrefix) || !e.Type().IsRegular() {
			continue
		}
		switch {
		case strings.HasSuffix(e.Name(), backupSuffix):
			backups = append(backups, e.Name())
		case strings.HasSuffix(e.Name(), durable.Suffix):
			if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) > abandoned {
				drop = append(drop, e.Name())
			}
		}
	}
	slices.Sort(backups) // by time
	drop = append(drop, backups[:max(0, len(backups)-keep)]...)
	var errs []error
	for _, name := range drop {
		errs = append(errs, os.Remove(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}
