package etcdserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/twill-net/twill/overlay/etcdserver/internal/durable"
)

// Snapshot describes a backup: etcd's database with a SHA-256 of it at the
// end, as `etcdctl snapshot save` writes and `etcdutl snapshot restore` reads
// it.
type Snapshot struct {
	Path     string
	Revision int64
	Keys     int
	Size     int64  // bytes
	Version  string // of etcd that wrote it; empty before 3.6
}

// Backup saves a snapshot of the etcd that cfg leads to: of the first endpoint
// that answers. The file replaces path when it is complete, on disk and found
// sound; until then, and after an error, path is as before.
func Backup(ctx context.Context, cfg clientv3.Config, path string) (Snapshot, error) {
	var errs []error
	for _, endpoint := range cfg.Endpoints {
		one := cfg
		one.Endpoints = []string{endpoint}
		s, err := backup(ctx, one, path)
		if err == nil || ctx.Err() != nil || !errors.As(err, new(unreachable)) {
			return s, err
		}
		errs = append(errs, fmt.Errorf("saving a snapshot of %s: %w", endpoint, err))
	}
	return Snapshot{}, errors.Join(errs...)
}

// unreachable marks an error after which another endpoint may do.
type unreachable struct{ error }

func (u unreachable) Unwrap() error { return u.error }

func backup(ctx context.Context, cfg clientv3.Config, path string) (Snapshot, error) {
	f, err := durable.Create(path)
	if err != nil {
		return Snapshot{}, fmt.Errorf("creating a file for the snapshot: %w", err)
	}
	defer f.Abort()
	client, err := clientv3.New(cfg)
	if err != nil {
		return Snapshot{}, unreachable{err}
	}
	defer client.Close()
	// A snapshot has no timeout: it takes as long as it takes. That there is
	// somebody to ask shows sooner.
	if err := ask(ctx, cfg, func(ctx context.Context) error { _, err := client.Status(ctx, cfg.Endpoints[0]); return err }); err != nil {
		return Snapshot{}, unreachable{err}
	}
	r, err := client.Snapshot(ctx)
	if err != nil {
		return Snapshot{}, unreachable{err}
	}
	defer r.Close()
	if _, err := io.Copy(f, r); err != nil {
		return Snapshot{}, fmt.Errorf("saving a snapshot of %s in %s: %w", cfg.Endpoints[0], path, err)
	}
	s, err := Inspect(f.Name())
	if err != nil {
		return Snapshot{}, fmt.Errorf("%w: nothing was saved; try again", err)
	}
	if err := f.Commit(0o600); err != nil {
		return Snapshot{}, fmt.Errorf("saving the snapshot as %s: %w", path, err)
	}
	s.Path = path
	return s, nil
}

// Inspect reads a snapshot, and fails if it is not whole and sound.
func Inspect(path string) (Snapshot, error) {
	if err := checkHash(path); err != nil {
		return Snapshot{}, fmt.Errorf("checking the snapshot %s: %w", path, err)
	}
	return inspectDB(path)
}

func inspectDB(path string) (Snapshot, error) {
	st, err := readStatus(path)
	if err != nil {
		return Snapshot{}, fmt.Errorf("reading the database %s: %w", path, err)
	}
	return Snapshot{Path: path, Revision: st.Revision, Keys: st.TotalKey, Size: st.TotalSize, Version: st.Version}, nil
}

func readStatus(path string) (st snapshot.Status, err error) {
	if err := walkDB(path); err != nil {
		return st, err
	}
	err = sane(func() error {
		st, err = snapshot.NewV3(zap.NewNop()).Status(path)
		return err
	})
	return st, err
}

// checkHash compares the SHA-256 at the end of a snapshot with its content.
func checkHash(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// A database has whole pages.
	if info.Size()%512 != sha256.Size {
		return errNoHash
	}
	var sum hash.Hash = sha256.New()
	if _, err := io.CopyN(sum, f, info.Size()-sha256.Size); err != nil {
		return err
	}
	want, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, sum.Sum(nil)) {
		return errors.New("its content does not match the hash at its end: it was altered or damaged; take another backup")
	}
	return nil
}

var errNoHash = errors.New("there is no hash at its end: it is cut off, or no snapshot but the database of a data directory (for that: --skip-hash-check)")

// RestoreConfig says how a data directory is made from a snapshot.
type RestoreConfig struct {
	Snapshot string // file
	DataDir  string // must not hold data yet
	Name     string // of the member
	// BumpRevision is added to the store's revision, and all history up to
	// there counts as compacted: a client whose watch has seen more than the
	// backup has is told so, instead of waiting for a revision that it has
	// seen already. Zero: the revision is the backup's.
	BumpRevision  uint64
	SkipHashCheck bool // the file is a bare database
}

// Restore makes a data directory for Run: a new cluster of one member, with
// what is in the snapshot, leases included; these live for their whole TTL
// again. The data is there completely or not at all. Where root restores into
// a directory of another user, the data becomes that user's.
func Restore(c RestoreConfig) (Snapshot, error) {
	inspect := Inspect
	if c.SkipHashCheck {
		inspect = inspectDB
	}
	s, err := inspect(c.Snapshot)
	if err != nil {
		return Snapshot{}, err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return Snapshot{}, fmt.Errorf("creating the data directory: %w", err)
	}
	lock, err := lockDir(c.DataDir)
	if err != nil {
		return Snapshot{}, err
	}
	defer lock.Close()
	if err := vacant(c.DataDir); err != nil {
		return Snapshot{}, err
	}
	if err := c.restore(); err != nil {
		return Snapshot{}, fmt.Errorf("restoring %s into %s: %w%s", c.Snapshot, c.DataDir, err, hint(err, c.DataDir))
	}
	return s, nil
}

// making is where a data directory is made, below itself: it may be a mount
// point, or be given by a service manager.
const making = ".restore" + durable.Suffix

func (c RestoreConfig) restore() error {
	tmp := filepath.Join(c.DataDir, making)
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	cluster, peer := initialCluster(c.Name)
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: c.Snapshot, OutputDataDir: tmp, Name: c.Name,
		PeerURLs: []string{peer}, InitialCluster: cluster, InitialClusterToken: newToken(),
		RevisionBump: c.BumpRevision, MarkCompacted: c.BumpRevision > 0, SkipHashCheck: c.SkipHashCheck,
	})
	if err != nil {
		return err
	}
	if err := errors.Join(durable.Own(tmp, c.DataDir), durable.SyncTree(tmp)); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(tmp, "member"), filepath.Join(c.DataDir, "member")); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(c.DataDir), durable.SyncDir(filepath.Dir(filepath.Clean(c.DataDir))))
}

// vacant makes sure that nothing is in a data directory.
func vacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the data directory: %w", err)
	}
	for _, e := range entries {
		switch e.Name() {
		case making, unborn, "lost+found": // of a restore or a first start that was killed; of ext4
		default:
			return fmt.Errorf("%s is not empty (%s): a restore overwrites nothing; move it away, or give another --data-dir", dir, e.Name())
		}
	}
	return nil
}
