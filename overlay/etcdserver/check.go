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

	"github.com/twill-net/twill/overlay/etcdserver/internal/durable"
)

// unborn is where data goes that a first start did not finish.
const unborn = ".unborn" + durable.Suffix

// checkData reads the data of a member before etcd does, for what etcd would
// not notice:
//   - A first start that was killed between making the log and writing that
//     there is one member leaves data with which no member ever leads, and
//     etcd waits for ever. Nothing can be in it: it is removed.
//   - On a log that has lost its end etcd starts, and then drops, without a
//     word, as many new writes as the log lacks: they have numbers that its
//     database has seen.
func checkData(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, unborn)); err != nil {
		return fmt.Errorf("removing what a first start has left: %w", err)
	}
	log, err := readLog(filepath.Join(dir, "member/wal"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a first start makes it last
		return damaged{fmt.Errorf("reading the log %s: %w", filepath.Join(dir, "member/wal"), err)}
	}
	missing := err != nil
	db := filepath.Join(dir, "member/snap/db")
	stored, err := lastStored(db)
	if info, serr := os.Stat(db); missing && err != nil && serr == nil && info.Size() <= newPages*int64(os.Getpagesize()) {
		return removeUnborn(dir)
	}
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist): // etcd makes it of the log
		return damaged{fmt.Errorf("reading the database %s: %w", db, err)}
	case stored > log.last:
		return damaged{fmt.Errorf("the log ends at entry %d and the database has entry %d: the end of the log is lost", log.last, stored)}
	case !missing && log.committed == 0 && stored == 0:
		return removeUnborn(dir)
	}
	return nil
}

// newPages is the size of a database in which nothing has been written yet.
const newPages = 4

func removeUnborn(dir string) error {
	err := os.Rename(filepath.Join(dir, "member"), filepath.Join(dir, unborn))
	if err == nil {
		err = os.RemoveAll(filepath.Join(dir, unborn))
	}
	if err != nil {
		return fmt.Errorf("removing what a first start has left: %w", err)
	}
	return nil
}

// logEnd is how far a log goes: numbers of entries.
type logEnd struct{ last, committed uint64 }

// sane calls read, and makes an error of a panic, also of one that comes from
// a mapped file which is shorter than it says.
func sane(read func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it makes no sense: %v", p)
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return read()
}

// readLog reads a write-ahead log. An end that is torn does not count, as with
// etcd.
func readLog(dir string) (end logEnd, err error) {
	err = sane(func() error {
		snaps, err := wal.ValidSnapshotEntries(zap.NewNop(), dir)
		if err != nil {
			return err
		}
		if len(snaps) == 0 {
			return wal.ErrSnapshotNotFound
		}
		last := snaps[len(snaps)-1]
		w, err := wal.OpenForRead(zap.NewNop(), dir, last)
		if err != nil {
			return err
		}
		defer w.Close()
		_, state, entries, err := w.ReadAll()
		if err != nil {
			return err
		}
		end = logEnd{last: last.GetIndex(), committed: max(last.GetIndex(), state.GetCommit())}
		if len(entries) > 0 {
			end.last = entries[len(entries)-1].GetIndex()
		}
		return nil
	})
	return end, err
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
func viewDB(file string, read func(*bolt.Tx) error) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return errors.New("it is empty") // the library would make a new one
	}
	return sane(func() error {
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
	})
}
