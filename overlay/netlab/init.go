package netlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// initCommand is the hidden command line of the twill binary that runs
// NodeInit; the name of the node and the lab's directory follow it.
func initCommand(name, dir string) []string { return []string{"lab", "node-init", name, dir} }

// statusFD is where NodeInit reports that the node is made, or why not.
const statusFD = 3

const (
	statusReady = "ready\n"
	detachByte  = 'd'
)

// NodeInit is the first process of a node, started in fresh network, mount,
// UTS and PID namespaces. It gives the node its own /proc, /sys, /run, /etc,
// /var/lib and /opt, reports on file descriptor 3, reaps orphans and stays
// until it is killed. Standard input is a life line: when it ends, the lab's
// owner is gone, and the node ends as well (the lan takes the lab's directory
// with it), unless the owner has sent "d" before, to leave the lab running.
func NodeInit(name, dir string) error {
	status := os.NewFile(statusFD, "status")
	if status == nil {
		return errors.New("node-init is started by the lab, not by hand")
	}
	// Opened now, because the node's own /run may hide it.
	above, err := os.OpenRoot(filepath.Dir(dir))
	if err == nil {
		err = furnish(name, dir)
	}
	if err != nil {
		fmt.Fprint(status, err)
		return err
	}
	go reap()
	if _, err := io.WriteString(status, statusReady); err != nil {
		return err
	}
	status.Close()
	if n, _ := os.Stdin.Read(make([]byte, 1)); n == 1 {
		select {} // detached: until it is killed
	}
	if name == lanName {
		return abandon(above, filepath.Base(dir))
	}
	return nil
}

// abandon removes the directory of a lab whose owner was killed. The other
// nodes see the same end of file, so that what they still write ends soon.
func abandon(above *os.Root, base string) error {
	_ = unix.Kill(-1, unix.SIGKILL) // etcd, that is: everything in this PID namespace
	group := abandonedCgroup(above, base)
	deadline := time.Now().Add(30 * time.Second)
	err := above.RemoveAll(base)
	for err != nil && time.Now().Before(deadline) {
		err = above.RemoveAll(base)
	}
	return errors.Join(err, removeCgroup(context.Background(), group))
}

// abandonedCgroup returns the lab's cgroup, before the directory goes that
// knows it.
func abandonedCgroup(above *os.Root, base string) string {
	var r record
	text, err := above.ReadFile(filepath.Join(base, "lab.json"))
	if err != nil || json.Unmarshal(text, &r) != nil {
		return ""
	}
	return r.Cgroup
}

// reap waits for the orphans that the kernel hands to the first process of a
// PID namespace.
func reap() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	for range ended {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 && !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

// furnish builds the node's view of the file system. The machine's root file
// system stays visible, so that programs and test files are where they were;
// where nodes must differ, overlays on a tmpfs take what they write.
func furnish(name, dir string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("setting the hostname: %w", err)
	}
	// No mount of ours reaches the machine's namespace; mount_namespaces(7).
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	disk := filepath.Join(dir, name)
	machine, err := readMachine(disk)
	if err != nil {
		return err
	}
	kept := []keptMount{ // what survives a restart of the node
		{source: filepath.Join(disk, "var-lib-twill"), target: "/var/lib/twill"},
		{source: filepath.Join(disk, "var-lib-cni"), target: "/var/lib/cni"},
		{source: filepath.Join(disk, "etc-cni"), target: "/etc/cni"},
	}
	if machine != nil {
		kept = append(kept, machine.mounts(disk)...)
	} else {
		kept = append(kept, keptMount{source: filepath.Join(dir, "cni-bin"), target: "/opt/cni/bin"})
	}
	files := map[string][]byte{"hostname": nil, "hosts": nil, "machine-id": nil}
	if machine != nil {
		for f := range machine.Etc {
			files[f] = nil
		}
	}
	for i := range kept {
		if err := kept[i].open(); err != nil {
			return err
		}
	}
	for f := range files {
		if files[f], err = os.ReadFile(filepath.Join(disk, "etc", f)); err != nil {
			return err
		}
	}
	if err := overlays(filepath.Join(disk, "scratch")); err != nil {
		return err
	}
	if err := writeEtc(files); err != nil {
		return err
	}
	for _, k := range kept {
		if err := os.MkdirAll(k.target, 0o755); err != nil {
			return err
		}
		if err := k.mount(); err != nil {
			return err
		}
	}
	if err := mountKernelFS(); err != nil {
		return err
	}
	if err := setSysctls(); err != nil || machine == nil {
		return err
	}
	return machine.furnish()
}

// writeEtc writes files of /etc.
func writeEtc(files map[string][]byte) error {
	for f, content := range files {
		// Removed before: a symlink leads out of the overlay.
		if err := os.RemoveAll("/etc/" + f); err != nil {
			return err
		}
		if err := os.WriteFile("/etc/"+f, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mountKernelFS mounts what shows the namespaces: /proc the PID namespace and
// its sysctls, /sys/class/net the network namespace; and an empty /run.
func mountKernelFS() error {
	cgroups := keptMount{source: "/sys/fs/cgroup", target: "/sys/fs/cgroup"}
	if err := cgroups.open(); err != nil {
		return err
	}
	for _, m := range []struct{ fs, target, options string }{
		{"sysfs", "/sys", ""},
		{"proc", "/proc", ""},
		{"tmpfs", "/run", "mode=755"},
	} {
		if err := unix.Mount(m.fs, m.target, m.fs, 0, m.options); err != nil {
			return fmt.Errorf("mounting %s on %s: %w", m.fs, m.target, err)
		}
	}
	for _, d := range []string{"/run/netns", "/run/lock"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	return cgroups.mount()
}

// setSysctls gives every node the same start: no forwarding, which is the
// daemon's to switch on, IPv6 addresses that work at once, and no search for
// routers: every node that forwards takes a neighbour entry for each one that
// searches, and all namespaces share the table (gc_thresh3, arp(7)).
func setSysctls() error {
	for _, s := range []struct{ key, value string }{
		{"net/ipv4/ip_forward", "0"},
		{"net/ipv6/conf/all/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/default/router_solicitations", "0"},
	} {
		err := os.WriteFile("/proc/sys/"+s.key, []byte(s.value), 0)
		if err != nil && !(errors.Is(err, os.ErrNotExist) && strings.HasPrefix(s.key, "net/ipv6")) {
			return fmt.Errorf("setting %s: %w", s.key, err)
		}
	}
	return nil
}
