// Package statedir is the directory that a daemon keeps over restarts
// (--state-dir), and the lock on it: one twilld for each.
package statedir

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is a locked state directory.
type Dir struct {
	path string
	lock *os.File
}

// errRemoved says that the lock file was removed by another process while this
// one was about to lock it.
var errRemoved = errors.New("other processes keep removing its lock file")

// Open makes the directory if need be, and locks it for as long as the process
// lives or until Close.
func Open(path string) (d *Dir, err error) {
	const tries = 10
	for range tries {
		d, err = open(path)
		// os.MkdirAll finds the directory, and then does not, when another
		// process removes it in between.
		if !errors.Is(err, errRemoved) && !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return d, err
}

func open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("making the state directory (--state-dir): %w", err)
	}
	name := filepath.Join(path, "lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // the directory went
		return nil, fmt.Errorf("locking the state directory %s: %w", path, errRemoved)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the state directory (--state-dir): %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another twilld works in %s: stop it first", path)
		}
		return nil, fmt.Errorf("locking the state directory %s: %w", path, err)
	}
	// A lock on a file that is no longer there excludes nobody.
	locked, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading the lock of the state directory (--state-dir): %w", err)
	}
	if there, err := os.Stat(name); err != nil || !os.SameFile(locked, there) {
		f.Close()
		return nil, fmt.Errorf("locking the state directory %s: %w", path, errRemoved)
	}
	return &Dir{path: path, lock: f}, nil
}

// Close unlocks the directory.
func (d *Dir) Close() error { return d.lock.Close() }

// Remove removes the lock file, and the directory unless something else is in
// it, and unlocks it.
func (d *Dir) Remove() error {
	defer d.lock.Close() // last, so that nobody comes in between
	if err := os.Remove(d.lock.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the lock of the state directory: %w", err)
	}
	err := unix.Rmdir(d.path)
	for _, stays := range []error{
		unix.ENOENT, unix.ENOTEMPTY, unix.EEXIST,
		unix.EBUSY,   // a mount point: a container's volume
		unix.ENOTDIR, // a symbolic link: the operator's
	} {
		if errors.Is(err, stays) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("removing the state directory %s: %w", d.path, err)
	}
	return nil
}

// MachineID returns what tells this machine from others of its name, made from
// a machine-id file such that the ID itself stays secret (machine-id(5));
// "" when there is none.
func MachineID(path string) string {
	b, err := os.ReadFile(path)
	id := strings.TrimSpace(string(b))
	if err != nil || id == "" || id == "uninitialized" {
		return ""
	}
	h := hmac.New(sha256.New, []byte(id))
	h.Write([]byte("github.com/twill-net/twill"))
	return hex.EncodeToString(h.Sum(nil)[:16])
}
