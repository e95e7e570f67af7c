package netlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine asks for nodes that are fit for a container runtime and a kubelet,
// which write wherever they like: /opt/cni/bin and /etc/cni/net.d are empty and
// each node's own, /tmp is a tmpfs, the machine's root file system is
// read-only, and mounts propagate from the node into its containers.
type Machine struct {
	// Keep are directories that start empty and survive a reboot, such as
	// /var/lib/kubelet. They are on the file system of the lab's directory.
	Keep []string
	// Etc are files of /etc, by their names there.
	Etc map[string]string
	// Pretend are files of /proc/sys that are the whole machine's: the node
	// reads these values, and what it writes stays with it.
	Pretend map[string]string
	// Cgroup is a name for a cgroup of the lab's in each hierarchy. Each node
	// has one below it, CGROUP/NODE. They are removed with the lab.
	Cgroup string
}

// machineFile is where the first process of a node finds its Machine.
const machineFile = "machine.json"

// diskDir returns where a directory of a node is kept on its disk.
func diskDir(target string) string {
	return strings.ReplaceAll(strings.Trim(target, "/"), "/", "-")
}

// prepareDisk writes what the first process of the node needs to know.
func (m *Machine) prepareDisk(disk string) error {
	for _, d := range append([]string{"/opt/cni/bin"}, m.Keep...) {
		if err := os.MkdirAll(filepath.Join(disk, diskDir(d)), 0o755); err != nil {
			return err
		}
	}
	for file, content := range m.Etc {
		if err := os.WriteFile(filepath.Join(disk, "etc", file), []byte(content), 0o644); err != nil {
			return err
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(disk, machineFile), text, 0o644)
}

// readMachine returns nil for a host that is none.
func readMachine(disk string) (*Machine, error) {
	text, err := os.ReadFile(filepath.Join(disk, machineFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := new(Machine)
	return m, json.Unmarshal(text, m)
}

// mounts returns what the node keeps on its disk.
func (m *Machine) mounts(disk string) (kept []keptMount) {
	for _, d := range append([]string{"/opt/cni/bin"}, m.Keep...) {
		kept = append(kept, keptMount{source: filepath.Join(disk, diskDir(d)), target: d})
	}
	return kept
}

// freshCgroup makes a node's cgroup, without what a run before it has left.
func (m *Machine) freshCgroup(ctx context.Context, name string) error {
	name = m.Cgroup + "/" + name
	if err := removeCgroup(ctx, name); err != nil {
		return err
	}
	return makeCgroup(name)
}

// furnish ends the making of the node's view: /proc and /run are its own by now.
func (m *Machine) furnish() error {
	for key, value := range m.Pretend {
		file := filepath.Join("/run/sysctl", key)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, filepath.Join("/proc/sys", key), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("binding a file to /proc/sys/%s: %w", key, err)
		}
	}
	if err := unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777"); err != nil {
		return fmt.Errorf("mounting a tmpfs on /tmp: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_RELATIME, ""); err != nil {
		return fmt.Errorf("making the root file system read-only: %w", err)
	}
	// Kubelets give containers volumes whose mounts propagate.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("making mounts shared: %w", err)
	}
	return nil
}
