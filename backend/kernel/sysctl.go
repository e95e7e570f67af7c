package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/internal/procfile"
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
	b, err := procfile.Read(path)
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
				if k.refusesRA(name, path, value) {
					value = "0"
				}
				put(state, backend.Sysctl{Name: name, Value: value})
			case !errors.Is(err, fs.ErrNotExist):
				return fmt.Errorf("reading sysctl %s: %w", name, err)
			}
		}
		return nil
	})
}

// refusesRA reports whether a device of ours takes no router advertisements
// although its accept_ra, which cannot be written here, is 1, the kernel's
// default: so it is with one that forwards (ip-sysctl).
func (k *Kernel) refusesRA(name, path, acceptRA string) bool {
	dir, file := filepath.Split(name)
	if acceptRA != "1" || file != "accept_ra" || !k.cfg.LinkPattern.MatchString(filepath.Base(dir)) || !readOnly(unix.Access(path, unix.W_OK)) {
		return false
	}
	forwarding, err := readSysctl(filepath.Join(filepath.Dir(path), "forwarding"))
	return err == nil && forwarding == "1"
}

// readOnly reports whether an error says that a sysctl cannot be written from
// here: in a container /proc/sys is mounted read-only.
func readOnly(err error) bool {
	return errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}

// devconf are the settings of a device that netlink sets as well, which takes
// CAP_NET_ADMIN and no file (IFLA_INET_CONF; linux/ip.h, IPV4_DEVCONF_…). IPv6
// has none of these.
var devconf = map[string]uint16{"rp_filter": 8}

// putDevconf sets a sysctl by netlink, if that has it.
func (k *Kernel) putDevconf(s backend.Sysctl) (done bool, err error) {
	device, setting, ok := strings.Cut(strings.TrimPrefix(s.Name, "net/ipv4/conf/"), "/")
	attr, has := devconf[setting]
	value, bad := strconv.ParseInt(s.Value, 10, 32)
	if !ok || !has || bad != nil || device == "all" || device == "default" || !strings.HasPrefix(s.Name, "net/ipv4/") {
		return false, nil
	}
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(inetConf, nil).AddRtAttr(int(attr), nl.Uint32Attr(uint32(value)))
	return true, k.do(request(unix.RTM_SETLINK, 0, append(byName(device), spec)...))
}

const inetConf = 1 // IFLA_INET_CONF, linux/if_link.h

// putSysctl writes s unless it has its value: some writes do more than to
// store it (ip_forward sets every interface's).
func (k *Kernel) putSysctl(s backend.Sysctl) error {
	path, err := k.sysctlPath(s.Name)
	if err != nil {
		return err
	}
	err = k.writeSysctl(s, path)
	if readOnly(err) {
		if done, err := k.putDevconf(s); done {
			return err
		}
	}
	return err
}

func (k *Kernel) writeSysctl(s backend.Sysctl, path string) error {
	return k.inside(func() error {
		if value, err := readSysctl(path); err == nil && (value == s.Value || s.Value == "0" && k.refusesRA(s.Name, path, value)) {
			return nil
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return sysctlAdvice(s, err)
		}
		_, err = f.WriteString(s.Value)
		return sysctlAdvice(s, errors.Join(err, f.Close()))
	})
}

func sysctlAdvice(s backend.Sysctl, err error) error {
	name, value := s.Name, s.Value
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(name, "net/ipv6/"):
		return fmt.Errorf("%w: IPv6 is off in this kernel (ipv6.disable=1), or the link is not there", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: the link is not there, or the kernel has no such setting", err)
	case readOnly(err):
		set := strings.NewReplacer("/", ".", ".", "/").Replace(name) // as sysctl(8) writes links with dots in their names
		return fmt.Errorf("%w: /proc/sys is read-only here: set it on the host (sysctl -w %s=%s), or run privileged", err, set, value)
	}
	return err
}
