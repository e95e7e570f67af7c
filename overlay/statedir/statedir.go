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
	lock *os.File
}

// Open makes the directory if need be, and locks it for as long as the process
// lives or until Close.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("making the state directory (--state-dir): %w", err)
	}
	f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the state directory (--state-dir): %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another twilld works in %s: stop it first, or give this one a --state-dir of its own", path)
		}
		return nil, fmt.Errorf("locking the state directory %s: %w", path, err)
	}
	return &Dir{lock: f}, nil
}

// Close unlocks the directory.
func (d *Dir) Close() error { return d.lock.Close() }

// Remove removes the lock and, when nothing else is in it, the directory; then
// it unlocks.
func (d *Dir) Remove() error {
	defer d.Close()
	name := d.lock.Name()
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the lock of the state directory: %w", err)
	}
	if err := os.Remove(filepath.Dir(name)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("removing the state directory: %w", err)
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
