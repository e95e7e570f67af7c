package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/twill-net/twill/backend"
)

// Remover removes what is ours from a part of the host's packet filter.
type Remover interface {
	Remove(ctx context.Context) error
}

// Cleanup removes all that carries our mark from the host: devices, routes,
// rules, and the files named, with their directories where nothing else is in
// them. It returns what it removed, and goes on where something cannot be
// removed. Settings of the host that others may rely on by now, forwarding,
// stay.
func Cleanup(ctx context.Context, k Kernel, rules []Remover, files ...string) (removed []string, err error) {
	var errs []error
	have, err := k.Observe(ctx, nil)
	if err != nil {
		errs = append(errs, err)
	}
	changes := backend.Diff(nil, have)
	for i, err := range k.Apply(ctx, changes) {
		if err != nil {
			errs = append(errs, err)
		} else {
			removed = append(removed, changes[i].Key().String())
		}
	}
	for _, r := range rules {
		if err := r.Remove(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	for _, f := range files {
		switch err := os.Remove(f); {
		case err == nil:
			removed = append(removed, "file "+f)
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("removing what we wrote: %w", err))
		}
		// Its directory was made for it, and stays where others use it.
		if os.Remove(filepath.Dir(f)) == nil {
			removed = append(removed, "directory "+filepath.Dir(f))
		}
	}
	return removed, errors.Join(errs...)
}
