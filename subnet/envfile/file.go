package envfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// Read returns what the file says. A file that is not there is an error with
// fs.ErrNotExist in its chain.
func Read(path string) (Env, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Env{}, fmt.Errorf("reading the node's subnet: %w", err)
	}
	e, err := Parse(b)
	if err != nil {
		return Env{}, fmt.Errorf("reading the node's subnet from %s: %w", path, err)
	}
	return e, nil
}

// Write makes the file say e and reports whether that changed it; when it says
// so already it is left alone. Readers see the old content or the new, never a
// part: it is written beside, synced and renamed. The file gets mode 0644, and
// its directory is created.
func Write(path string, e Env) (changed bool, err error) {
	b, err := e.MarshalText()
	if err != nil {
		return false, fmt.Errorf("writing the node's subnet to %s: %w", path, err)
	}
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, b) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("writing the node's subnet: %w", err)
	}
	if err := replace(path, b); err != nil {
		return false, fmt.Errorf("writing the node's subnet to %s: %w", path, err)
	}
	return true, nil
}

func replace(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := fill(f, b); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// fill syncs before the rename: without it some file systems bring back a
// file of zero length after a power loss.
func fill(f *os.File, b []byte) error {
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}
