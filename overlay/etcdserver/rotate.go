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

const (
	backupPrefix, backupSuffix = "twill-store-", ".db"
	backupTime                 = "20060102T150405Z"
)

// abandoned is the age at which a file in the making is nobody's any more.
const abandoned = time.Hour

// BackupInto is Backup to a file in dir that is named by the time, such as
// twill-store-20261121T140000Z.db. Afterwards, if that succeeded, all but the
// newest keep backups of that name are deleted: of those up to now. Backups
// named later than now are returned, and neither counted nor deleted: the clock
// was wrong when they were made, or is wrong now.
func BackupInto(ctx context.Context, cfg clientv3.Config, dir string, keep int, now time.Time) (s Snapshot, later []string, err error) {
	if keep < 1 {
		return Snapshot{}, nil, fmt.Errorf("--backup-keep is %d, must be 1 at least", keep)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Snapshot{}, nil, fmt.Errorf("creating --backup-dir: %w", err)
	}
	s, err = Backup(ctx, cfg, filepath.Join(dir, backupPrefix+now.UTC().Format(backupTime)+backupSuffix))
	if err != nil {
		return s, nil, err
	}
	later, err = rotate(dir, keep, now)
	if err != nil {
		return s, later, fmt.Errorf("deleting old backups: %w", err)
	}
	return s, later, nil
}

func rotate(dir string, keep int, now time.Time) (later []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var backups, drop []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), backupPrefix) || !e.Type().IsRegular() {
			continue
		}
		if strings.HasSuffix(e.Name(), durable.Suffix) {
			if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) > abandoned {
				drop = append(drop, e.Name())
			}
			continue
		}
		switch made, err := time.Parse(backupPrefix+backupTime+backupSuffix, e.Name()); {
		case err != nil: // somebody else's
		case made.After(now):
			later = append(later, e.Name())
		default:
			backups = append(backups, e.Name())
		}
	}
	slices.Sort(backups) // by time: the one just made is the last
	drop = append(drop, backups[:max(0, len(backups)-keep)]...)
	var errs []error
	for _, name := range drop {
		errs = append(errs, os.Remove(filepath.Join(dir, name)))
	}
	return later, errors.Join(errs...)
}
