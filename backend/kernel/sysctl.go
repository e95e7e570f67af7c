package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

// sysctlPath returns the file of a sysctl.
func (k *Kernel) sysctlPath(name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("%q is not the name of a sysctl, such as net/ipv4/ip_forward", name)
	}
	return filepath.Join(k.cfg.SysctlRoot, name), nil
}

// readSysctl returns a value with single spaces: the kernel separates the
// parts of some by tabs.
func readSysctl(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.Join(strings.Fields(string(b)), " "), err
}

// observeSysctls adds those of the sysctls that exist.
func (k *Kernel) observeSysctls(names []string, state backend.State) error {
	if len(names) == 0 {
		return nil
	}
	return k.inside(func() error {
		for _, name := range names {
			path, err := k.sysctlPath(name)
			if err != nil {
				return err
			}
			switch value, err := readSysctl(path); {
			case err == nil:
				put(state, backend.Sysctl{Name: name, Value: value})
			case !errors.Is(err, fs.ErrNotExist):
				return fmt.Errorf("reading sysctl %s: %w", name, err)
			}
		}
		return nil
	})
}

// putSysctl writes s unless it has its value: some writes do more than to
// store it (ip_forward sets every interface's).
func (k *Kernel) putSysctl(s backend.Sysctl) error {
	path, err := k.sysctlPath(s.Name)
	if err != nil {
		return err
	}
	return k.inside(func() error {
		if value, err := readSysctl(path); err == nil && value == s.Value {
			return nil
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return sysctlAdvice(s.Name, err)
		}
		_, err = f.WriteString(s.Value)
		return sysctlAdvice(s.Name, errors.Join(err, f.Close()))
	})
}

func sysctlAdvice(name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(name, "net/ipv6/"):
		return fmt.Errorf("%w: IPv6 is off in this kernel (ipv6.disable=1), or the link is not there", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: the link is not there, or the kernel has no such setting", err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: /proc/sys is read-only here: run privileged, or set it on the host", err)
	}
	return err
}
