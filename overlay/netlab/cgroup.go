package netlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchies returns the mount points of the cgroup hierarchies: one of
// version 2, or one for each controller of version 1; cgroups(7).
func hierarchies() (dirs []string, err error) {
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		return []string{cgroupRoot}, nil
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		dir := filepath.Join(cgroupRoot, e.Name())
		var s unix.Statfs_t
		if !e.IsDir() || unix.Statfs(dir, &s) != nil { // cpu is a link to cpu,cpuacct
			continue
		}
		if s.Type == unix.CGROUP_SUPER_MAGIC || s.Type == unix.CGROUP2_SUPER_MAGIC {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// makeCgroup makes a cgroup and those above it in each hierarchy, so that a
// kubelet can use it as its root.
func makeCgroup(name string) error {
	dirs, err := hierarchies()
	if err != nil {
		return fmt.Errorf("finding the cgroup hierarchies: %w", err)
	}
	for _, dir := range dirs {
		for part := range strings.SplitSeq(name, "/") {
			above := dir
			if err := delegateControllers(above); err != nil {
				return err
			}
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("making a cgroup: %w", err)
			}
			if err := inheritCPUs(above, dir); err != nil {
				return err
			}
		}
		if err := delegateControllers(dir); err != nil {
			return err
		}
	}
	return nil
}

// delegateControllers lets the groups below a group of version 2 have all
// controllers that it has itself.
func delegateControllers(dir string) error {
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // version 1
	}
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return fmt.Errorf("enabling the controller %s below the cgroup %s: %w: are there processes in it? (cgroups(7), no internal processes)", c, dir, err)
		}
	}
	return nil
}

// inheritCPUs fills a new cpuset of version 1, which takes no process before.
func inheritCPUs(above, dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil || strings.TrimSpace(string(have)) != "" {
			continue // another controller, or version 2, or filled by the kernel
		}
		set, err := os.ReadFile(filepath.Join(above, f))
		if err == nil && len(set) > 0 {
			err = os.WriteFile(filepath.Join(dir, f), set, 0)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("filling %s of a cgroup: %w", f, err)
		}
	}
	return nil
}

// removeCgroup removes a cgroup and those below it from all hierarchies. The
// kernel lets go of the last process some time after its end.
func removeCgroup(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	dirs, err := hierarchies()
	if err != nil {
		return fmt.Errorf("finding the cgroup hierarchies: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var last error
	err = poll(ctx, 20*time.Millisecond, func() (bool, error) {
		last = nil
		for _, dir := range dirs {
			last = errors.Join(last, removeGroups(filepath.Join(dir, name)))
		}
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("removing the cgroup %s: %w", name, last)
	}
	return nil
}

// removeGroups removes the groups of a tree, the lowest first; their files go
// with them.
func removeGroups(top string) error {
	var groups []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			groups = append(groups, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, g := range slices.Backward(groups) {
		if e := os.Remove(g); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
