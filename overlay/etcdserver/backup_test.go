package etcdserver_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/overlay/etcdserver"
)

// A store that has lost its disk comes back from a backup with all that was in
// that, leases included; as another cluster, and later than it ever was.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.start(t)
	c := s.client(t)
	lease, err := c.Grant(t.Context(), 3600)
	require.NoError(t, err)
	put(t, c, "leased", "1", clientv3.WithLease(lease.ID))
	put(t, c, "kept", "1")
	file := filepath.Join(t.TempDir(), "backup.db")
	saved, err := etcdserver.Backup(t.Context(), s.clientConfig(), file)
	require.NoError(t, err)
	require.Equal(t, 2, saved.Keys)
	require.EqualValues(t, 3, saved.Revision)
	require.Equal(t, file, saved.Path)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	for range 50 {
		put(t, c, "kept", "2")
	}
	put(t, c, "later", "1")
	before, err := c.Get(t.Context(), "kept")
	require.NoError(t, err)
	_, err = c.Delete(t.Context(), "leased")
	require.NoError(t, err)

	s.end(syscall.SIGKILL)
	require.NoError(t, os.RemoveAll(s.cfg.DataDir))
	restore := etcdserver.RestoreConfig{Snapshot: file, DataDir: s.cfg.DataDir, Name: "twill", BumpRevision: 1000}
	restored, err := etcdserver.Restore(restore)
	require.NoError(t, err)
	require.Equal(t, saved, restored)
	_, err = etcdserver.Restore(restore)
	require.ErrorContains(t, err, s.cfg.DataDir+" is not empty (member): a restore overwrites nothing")

	s.start(t)
	_, err = etcdserver.Restore(restore)
	require.ErrorContains(t, err, "another process serves it")
	c = s.client(t)
	require.Equal(t, map[string]string{"leased": "1", "kept": "1"}, content(t, c))
	after, err := c.Get(t.Context(), "kept")
	require.NoError(t, err)
	require.NotEqual(t, before.Header.ClusterId, after.Header.ClusterId)
	require.Greater(t, after.Header.Revision, before.Header.Revision)
	left, err := c.TimeToLive(t.Context(), lease.ID, clientv3.WithAttachedKeys())
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("leased")}, left.Keys)
	require.Greater(t, left.TTL, int64(3500))
	resp := <-c.Watch(t.Context(), "kept", clientv3.WithRev(before.Header.Revision))
	require.ErrorIs(t, resp.Err(), rpctypes.ErrCompacted, "a watch of before is told that it has missed something")
	put(t, c, "kept", "3")

	// It is a store as any other: it can be stopped, backed up and restored.
	s.end(syscall.SIGTERM)
	s.start(t)
	require.Equal(t, "3", content(t, s.client(t))["kept"])
	_, err = etcdserver.Backup(t.Context(), s.clientConfig(), file)
	require.NoError(t, err)
	again := newStore(t)
	restore.DataDir = again.cfg.DataDir
	_, err = etcdserver.Restore(restore)
	require.NoError(t, err)
	again.start(t)
	require.Equal(t, "3", content(t, again.client(t))["kept"])
}

// A backup of the data of a store that was killed has the last write that was
// acknowledged; those data remain usable.
func TestBackupOffline(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.start(t)
	file := filepath.Join(t.TempDir(), "backup.db")
	_, err := etcdserver.BackupOffline(t.Context(), s.cfg.DataDir, file)
	require.ErrorContains(t, err, "another process serves it")
	require.NoFileExists(t, file)
	acked := s.writeUntilKilled(t, make([]int, 3), 100)
	_, err = etcdserver.BackupOffline(t.Context(), s.cfg.DataDir, file)
	require.NoError(t, err)
	copied := newStore(t)
	_, err = etcdserver.Restore(etcdserver.RestoreConfig{Snapshot: file, DataDir: copied.cfg.DataDir, Name: "twill"})
	require.NoError(t, err)
	for _, s := range []*store{copied, s} {
		s.start(t)
		s.requireAcked(t, acked)
	}
	_, err = etcdserver.BackupOffline(t.Context(), t.TempDir(), file)
	require.ErrorContains(t, err, "looking for the data of a store")
}

// What is no whole snapshot is refused, and nothing is made of it.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.start(t)
	put(t, s.client(t), "k", "1")
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	_, err := etcdserver.Backup(t.Context(), s.clientConfig(), good)
	require.NoError(t, err)
	text, err := os.ReadFile(good)
	require.NoError(t, err)
	altered := bytes.Clone(text)
	altered[len(altered)/2] ^= 1
	for name, tt := range map[string]struct {
		text []byte
		want string
	}{
		"altered":    {altered, "its content does not match the hash at its end"},
		"cut off":    {text[:len(text)-1], "there is no hash at its end"},
		"half":       {append(bytes.Clone(text[:8192]), text[:32]...), "its content does not match the hash"},
		"without it": {text[:len(text)-32], "--skip-hash-check"},
		"empty":      {nil, "there is no hash at its end"},
		"only it":    {text[len(text)-32:], "its content does not match"},
		"text":       {[]byte("hello"), "there is no hash at its end"},
		"no file":    {nil, "no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			file, data := filepath.Join(dir, name), filepath.Join(t.TempDir(), "data")
			if name != "no file" {
				require.NoError(t, os.WriteFile(file, tt.text, 0o600))
			}
			_, err := etcdserver.Restore(etcdserver.RestoreConfig{Snapshot: file, DataDir: data, Name: "twill"})
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, err, file)
			require.NoDirExists(t, data)
		})
	}

	// A restore that was killed stays in nobody's way; another's file does.
	data := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.MkdirAll(filepath.Join(data, ".restore.part", "member", "snap"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(data, "notes"), nil, 0o600))
	c := etcdserver.RestoreConfig{Snapshot: good, DataDir: data, Name: "twill"}
	_, err = etcdserver.Restore(c)
	require.ErrorContains(t, err, "is not empty (notes)")
	require.NoError(t, os.Remove(filepath.Join(data, "notes")))
	_, err = etcdserver.Restore(c)
	require.NoError(t, err)
	entries, err := os.ReadDir(data)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

// What root restores belongs to whom the data directory belongs to.
func TestRestoreKeepsTheOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives files to another user")
	}
	s := newStore(t)
	s.start(t)
	file := filepath.Join(t.TempDir(), "backup.db")
	_, err := etcdserver.Backup(t.Context(), s.clientConfig(), file)
	require.NoError(t, err)
	data := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.Mkdir(data, 0o700))
	require.NoError(t, os.Chown(data, 65534, 65534))
	_, err = etcdserver.Restore(etcdserver.RestoreConfig{Snapshot: file, DataDir: data, Name: "twill"})
	require.NoError(t, err)
	require.NoError(t, filepath.WalkDir(data, func(p string, e fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := e.Info()
		require.NoError(t, err)
		require.EqualValues(t, 65534, info.Sys().(*syscall.Stat_t).Uid, p)
		return nil
	}))
}

// A backup that fails leaves the last good one as it was.
func TestBackupFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "backup.db")
	require.NoError(t, os.WriteFile(file, []byte("the last good one"), 0o600))
	s := newStore(t)
	cfg := s.clientConfig()
	_, err := etcdserver.Backup(t.Context(), cfg, file)
	require.ErrorContains(t, err, "saving a snapshot of "+cfg.Endpoints[0])
	require.ErrorContains(t, err, "no such file or directory")

	s.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = etcdserver.Backup(ctx, cfg, file)
	require.ErrorIs(t, err, context.Canceled)

	require.NoError(t, s.cmd.Process.Signal(syscall.SIGSTOP))
	hasty := cfg
	hasty.DialTimeout = time.Second
	_, err = etcdserver.Backup(t.Context(), hasty, file)
	require.ErrorContains(t, err, "no answer within 1s")
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGCONT))
	_, err = etcdserver.Backup(t.Context(), cfg, filepath.Join(dir, "none", "backup.db"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file stays")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "the last good one", string(text))

	// Of several endpoints one is enough.
	cfg.Endpoints = append([]string{"unix:///nonexistent"}, cfg.Endpoints...)
	_, err = etcdserver.Backup(t.Context(), cfg, file)
	require.NoError(t, err)
	_, err = etcdserver.Inspect(file)
	require.NoError(t, err)
}

// The newest backups stay, and nothing else is touched.
func TestRotation(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.start(t)
	dir := filepath.Join(t.TempDir(), "backups")
	now := time.Now()
	require.NoError(t, os.Mkdir(dir, 0o700))
	foreign := []string{"notes.txt", "twill-store.db", "twill-store-before-upgrade.db", "other-20200101T000000Z.db"}
	abandoned, current := "twill-store-20200101T000000Z.db.1.part", "twill-store-20200101T000000Z.db.2.part"
	for _, name := range append(foreign, abandoned, current) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	require.NoError(t, os.Chtimes(filepath.Join(dir, abandoned), now.Add(-2*time.Hour), now.Add(-2*time.Hour)))
	var want []string
	for n := range 5 {
		saved, later, err := etcdserver.BackupInto(t.Context(), s.clientConfig(), dir, 3, now.Add(time.Duration(n)*time.Minute))
		require.NoError(t, err)
		require.Empty(t, later)
		want = append(want, filepath.Base(saved.Path))
	}
	var have []string
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		have = append(have, e.Name())
	}
	require.ElementsMatch(t, append(append(want[2:], foreign...), current), have)

	_, _, err = etcdserver.BackupInto(t.Context(), s.clientConfig(), dir, 0, now)
	require.ErrorContains(t, err, "--backup-keep is 0, must be 1 at least")
	s.end(syscall.SIGTERM)
	_, _, err = etcdserver.BackupInto(t.Context(), s.clientConfig(), dir, 1, now.Add(time.Hour))
	require.Error(t, err)
	entries, err = os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, len(have), "a backup that fails deletes none")
}

// The clock was ahead for a while: what was saved then deletes nothing that is
// saved now.
func TestRotationAfterAClockJump(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.start(t)
	dir := t.TempDir()
	const ahead = "twill-store-20990101T000000Z.db"
	require.NoError(t, os.WriteFile(filepath.Join(dir, ahead), nil, 0o600))
	now := time.Now()
	for n := range 2 {
		saved, later, err := etcdserver.BackupInto(t.Context(), s.clientConfig(), dir, 1, now.Add(time.Duration(n)*time.Minute))
		require.NoError(t, err)
		require.Equal(t, []string{ahead}, later)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 2)
		require.Equal(t, filepath.Base(saved.Path), entries[0].Name())
		require.Equal(t, ahead, entries[1].Name())
	}
}

// A database that has reached its quota takes no writes, says so, and is
// helped by Defrag.
func TestQuota(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.cfg.QuotaBackendBytes = 4 << 20
	s.start(t)
	c := s.client(t)
	value := strings.Repeat("x", 100<<10)
	var err error
	for range 200 {
		if _, err = c.Put(t.Context(), "k", value); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, rpctypes.ErrNoSpace)
	status := func() etcdserver.Status {
		st, err := etcdserver.Ask(t.Context(), s.clientConfig(), s.cfg.ListenClientURLs[0])
		require.NoError(t, err)
		return st
	}
	full := status()
	require.Equal(t, []string{"NOSPACE"}, full.Alarms)
	require.EqualValues(t, 4<<20, full.Quota)
	require.True(t, full.Leader)
	file := filepath.Join(t.TempDir(), "backup.db")
	_, err = etcdserver.Backup(t.Context(), s.clientConfig(), file)
	require.NoError(t, err, "a full store can be backed up")

	require.NoError(t, etcdserver.Defrag(t.Context(), s.clientConfig()))
	require.Empty(t, status().Alarms)
	require.Less(t, status().Size, full.Size/4)
	put(t, c, "k", "1")
	require.NoError(t, etcdserver.Defrag(t.Context(), s.clientConfig()), "it can be called at any time")
	require.NoError(t, etcdserver.Defrag(t.Context(), s.clientConfig()))
}
