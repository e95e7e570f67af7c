package etcdserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

// checkData reads the data of a member before etcd does. Etcd starts on a log
// that has lost its end, and then drops, without a word, as many new writes as
// the log lacks: they have numbers that its database has seen.
func checkData(dir string) error {
	logged, err := lastLogged(filepath.Join(dir, "member/wal"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no data yet; a database alone is etcd's to judge
	} else if err != nil {
		return damaged{fmt.Errorf("reading the log %s: %w", filepath.Join(dir, "member/wal"), err)}
	}
	stored, err := lastStored(filepath.Join(dir, "member/snap/db"))
	switch {
	case errors.Is(err, fs.ErrNotExist): // etcd makes it of the log
	case err != nil:
		return damaged{fmt.Errorf("reading the database %s: %w", filepath.Join(dir, "member/snap/db"), err)}
	case stored > logged:
		return damaged{fmt.Errorf("the log ends at entry %d and the database has entry %d: the end of the log is lost", logged, stored)}
	}
	return nil
}

// recovered makes an error of a panic, also of one that comes from a mapped
// file which is shorter than it says.
func recovered(err *error) (restore func()) {
	was := debug.SetPanicOnFault(true)
	return func() {
		if p := recover(); p != nil {
			*err = fmt.Errorf("it makes no sense: %v", p)
		}
		debug.SetPanicOnFault(was)
	}
}

// lastLogged returns the number of the last entry of a write-ahead log. An end
// that is torn does not count, as with etcd.
func lastLogged(dir string) (index uint64, err error) {
	defer recovered(&err)()
	snaps, err := wal.ValidSnapshotEntries(zap.NewNop(), dir)
	if err != nil {
		return 0, err
	}
	if len(snaps) == 0 {
		return 0, wal.ErrSnapshotNotFound
	}
	last := snaps[len(snaps)-1]
	w, err := wal.OpenForRead(zap.NewNop(), dir, last)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	_, _, entries, err := w.ReadAll()
	if err != nil {
		return 0, err
	}
	if n := len(entries); n > 0 {
		return entries[n-1].GetIndex(), nil
	}
	return last.GetIndex(), nil
}

// lastStored returns the number of the last log entry that is in a database.
func lastStored(file string) (index uint64, err error) {
	err = viewDB(file, func(tx *bolt.Tx) error {
		if meta := tx.Bucket(schema.Meta.Name()); meta != nil {
			if b := meta.Get(schema.MetaConsistentIndexKeyName); len(b) == 8 {
				index = binary.BigEndian.Uint64(b)
			}
		}
		return nil
	})
	return index, err
}

// walkDB reads all of a database. The library's own check does so in a
// goroutine of its own, where a page that makes no sense ends the process.
func walkDB(file string) error {
	return viewDB(file, func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	})
}

// viewDB reads a database, of which no byte may be missing at the end.
func viewDB(file string, read func(*bolt.Tx) error) (err error) {
	defer recovered(&err)()
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return errors.New("it is empty") // the library would make a new one
	}
	db, err := bolt.Open(file, 0, &bolt.Options{ReadOnly: true, Timeout: 10 * time.Second})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		if tx.Size() > info.Size() {
			return fmt.Errorf("it has %d bytes of %d: its end is cut off", info.Size(), tx.Size())
		}
		return read(tx)
	})
}
