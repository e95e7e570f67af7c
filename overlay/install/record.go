package install

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/twill-net/twill/overlay/pods"
)

// recordName is the file, among the plugins, that says which of them were not
// there before us, and what they are: lines as sha256sum(1) writes them.
const recordName = ".twill-installed"

// record has the sums of plugins by their names.
type record map[string]string

func readRecord(dir string) (record, error) {
	f, err := os.Open(filepath.Join(dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading which CNI plugins were installed: %w", err)
	}
	defer f.Close()
	r := record{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if sum, name, ok := strings.Cut(lines.Text(), "  "); ok && filepath.IsLocal(name) && filepath.Base(name) == name {
			r[name] = sum
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading which CNI plugins were installed: %w", err)
	}
	return r, nil
}

func (r record) write(dir string) error {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r)) {
		fmt.Fprintf(&b, "%s  %s\n", r[name], name)
	}
	if err := renameio.WriteFile(filepath.Join(dir, recordName), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("writing which CNI plugins were installed: %w", err)
	}
	return nil
}

// recordNew notes those plugins that are not there yet, or were noted before, as
// they are at their source. The one that has our name is ours, whoever put it.
func recordNew(from, to string, names []string) error {
	r, err := readRecord(to)
	if err != nil {
		return err
	}
	before := maps.Clone(r)
	for _, name := range names {
		_, err := os.Lstat(filepath.Join(to, name))
		if _, noted := r[name]; !noted && err == nil && name != pods.Type {
			continue
		}
		s, err := sum(filepath.Join(from, name))
		if err != nil {
			return fmt.Errorf("reading the CNI plugin to install: %w", err)
		}
		r[name] = hex.EncodeToString(s)
	}
	if maps.Equal(before, r) {
		return nil
	}
	return r.write(to)
}

// RemovePlugins removes the plugins that Plugins put where there were none, and
// that nobody has replaced since, and returns what it removed.
func RemovePlugins(dir string) (removed []string, err error) {
	r, err := readRecord(dir)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r)) {
		path := filepath.Join(dir, name)
		have, err := sum(path)
		if err == nil && hex.EncodeToString(have) == r[name] {
			err = os.Remove(path)
			removed = append(removed, "file "+path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing the CNI plugin: %w", err))
		}
	}
	if len(errs) > 0 {
		return removed, errors.Join(errs...)
	}
	switch err := os.Remove(filepath.Join(dir, recordName)); {
	case err == nil:
		removed = append(removed, "file "+filepath.Join(dir, recordName))
	case !errors.Is(err, fs.ErrNotExist):
		return removed, fmt.Errorf("removing the record of CNI plugins: %w", err)
	}
	if os.Remove(dir) == nil { // it was made for us
		removed = append(removed, "directory "+dir)
	}
	return removed, nil
}
