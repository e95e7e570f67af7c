package netlab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// keptMount is a file or directory to show at target. It is opened before
// other mounts hide its path.
type keptMount struct {
	source, target string
	fd             int
}

func (k *keptMount) open() (err error) {
	k.fd, err = unix.Open(k.source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", k.source, err)
	}
	return nil
}

// mount binds what was opened, with the mounts below it, to the target.
func (k *keptMount) mount() error {
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", k.fd), k.target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("binding %s to %s: %w", k.source, k.target, err)
	}
	return unix.Close(k.fd)
}

// overlays covers the directories in which nodes must differ with overlays of
// themselves, so that writes go into a tmpfs on scratch. (A tmpfs, because an
// overlay cannot be an overlay's upper layer, and the root of a container is
// one.)
func overlays(scratch string) error {
	if err := unix.Mount("tmpfs", scratch, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting a tmpfs on %s: %w", scratch, err)
	}
	for _, target := range []string{"/etc", "/var/lib", "/opt"} {
		// An overlay hides the mounts below its target. They are put back
		// where programs or a build tree might be.
		var below []keptMount
		if target != "/etc" {
			var err error
			if below, err = mountsBelow(target); err != nil {
				return err
			}
		}
		if err := overlay(target, filepath.Join(scratch, target)); err != nil {
			return fmt.Errorf("mounting an overlay on %s: %w", target, err)
		}
		for _, m := range below {
			if err := m.mount(); err != nil {
				return err
			}
		}
	}
	// The overlays hold it; named, it would keep the directory busy.
	if err := unix.Unmount(scratch, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detaching the tmpfs on %s: %w", scratch, err)
	}
	return nil
}

func overlay(target, scratch string) error {
	for _, d := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(scratch, d), 0o755); err != nil {
			return err
		}
	}
	// Relative paths, because a comma or colon in scratch would end an option.
	if err := os.Chdir(scratch); err != nil {
		return err
	}
	err := unix.Mount("overlay", target, "overlay", 0, "lowerdir="+target+",upperdir=upper,workdir=work")
	if err != nil {
		return err
	}
	return os.Chdir("/")
}

// mountsBelow opens the topmost mounts below dir.
func mountsBelow(dir string) ([]keptMount, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	// \040 and the like, proc_pid_mountinfo(5)
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []keptMount
	top := "\x00"
	for line := range strings.Lines(string(info)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			return nil, fmt.Errorf("reading /proc/self/mountinfo: %q has no mount point", line)
		}
		point := unescape.Replace(fields[4])
		if !strings.HasPrefix(point, dir+"/") || strings.HasPrefix(point+"/", top) {
			continue
		}
		k := keptMount{source: point, target: point}
		if err := k.open(); err != nil {
			return nil, err
		}
		found = append(found, k)
		top = point + "/"
	}
	return found, nil
}
