package install

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Plugins copies the executables of one directory into another, which it makes
// where it is missing, and returns the names of those that were not there, or
// others. What else is there stays. A plugin that runs goes on with its old
// file (rename(2)). A record of those which were not there before is kept beside
// them, for RemovePlugins.
func Plugins(from, to string) (changed []string, err error) {
	names, err := executables(from)
	if err != nil {
		return nil, fmt.Errorf("listing the CNI plugins to install: %w", err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of CNI plugins: %w", err)
	}
	// The record comes first: what is in it and not there does no harm.
	if err := recordNew(from, to, names); err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range names {
		source, target := filepath.Join(from, name), filepath.Join(to, name)
		same, err := equal(source, target)
		if err == nil && !same {
			err = replace(source, target)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("installing the CNI plugin %s: %w", target, err))
		} else if !same {
			changed = append(changed, name)
		}
	}
	return changed, errors.Join(errs...)
}

// executables returns the names of a directory's programs.
func executables(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// equal reports whether the target is an executable with the same content.
func equal(source, target string) (bool, error) {
	info, err := os.Stat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o755 {
		return false, err
	}
	var sums [2][]byte
	for i, path := range []string{source, target} {
		if sums[i], err = sum(path); err != nil {
			return false, err
		}
	}
	return bytes.Equal(sums[0], sums[1]), nil
}

func sum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return h.Sum(nil), err
}

// replace copies a file to another place, there in one step.
func replace(source, target string) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := renameio.NewPendingFile(target, renameio.WithStaticPermissions(0o755))
	if err != nil {
		return err
	}
	defer func() { _ = out.Cleanup() }() // nothing to do once it is in place
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.CloseAtomicallyReplace()
}
