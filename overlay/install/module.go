package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// modprobes are the places of modprobe(8), in the order of what is usual; the
// last is NixOS's.
var modprobes = []string{"/usr/sbin/modprobe", "/sbin/modprobe", "/usr/bin/modprobe", "/bin/modprobe", "/run/current-system/sw/bin/modprobe"}

// LoadModule returns what loads a kernel module by the modprobe of the host
// whose root is given: that knows where the modules of the running kernel are,
// how they are compressed, and which its administrator has forbidden. Where
// root is not "/" it takes CAP_SYS_CHROOT.
func LoadModule(root string) func(ctx context.Context, name string) error {
	return func(ctx context.Context, name string) error {
		for _, modprobe := range modprobes {
			if !runnable(root, modprobe) {
				continue
			}
			cmd := exec.CommandContext(ctx, modprobe, name)
			cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
			if root != "/" {
				cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("running the host's %s %s: %w: %s", modprobe, name, err, bytes.TrimSpace(out))
			}
			return nil
		}
		return fmt.Errorf("the host has no modprobe below %s: load %s at its boot (modules-load.d(5))", root, name)
	}
}

// runnable reports whether a program may be there. Below another root a link is
// not followed: it may lead anywhere, and the kernel will tell.
func runnable(root, program string) bool {
	path := filepath.Join(root, program)
	info, err := os.Lstat(path)
	if err != nil {
		// A directory on the way may be an absolute link, such as NixOS's.
		return !errors.Is(err, os.ErrNotExist)
	}
	return info.Mode()&os.ModeSymlink != 0 || info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
