package netlab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// makeDir makes the lab's directory; an existing one is another lab's.
func makeDir(o *Options) (err error) {
	if o.Dir == "" {
		o.Dir, err = os.MkdirTemp("", "twill-lab-")
		return err
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.Dir), 0o755); err != nil {
		return err
	}
	err = os.Mkdir(o.Dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the lab's directory: %w: another lab has it (`twill lab down` ends that), or choose another", err)
	}
	return err
}

// prepareFiles lays out the lab's directory:
//
//	lab.json     what runs, for `twill lab exec` and `twill lab down`
//	log/         what the processes said
//	cni-bin/     /opt/cni/bin of every node: links to the plugins
//	store/       etcd's data
//	HOST/        the disk of a node: var-lib-twill, var-lib-cni, etc-cni, etc
func (l *Lab) prepareFiles() error {
	owner, err := identify(os.Getpid())
	if err != nil {
		return err
	}
	l.record = record{Owner: owner, Hosts: map[string]identity{}}
	if l.opts.Machine != nil {
		l.record.Cgroup = l.opts.Machine.Cgroup
	}
	if err := l.record.write(l.opts.Dir); err != nil {
		return err
	}
	for _, d := range []string{"log", "cni-bin"} {
		if err := os.Mkdir(filepath.Join(l.opts.Dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := l.linkPlugins(); err != nil {
		return err
	}
	for _, name := range []string{lanName, outsideName} {
		if err := l.makeDisk(name); err != nil {
			return err
		}
	}
	for _, n := range l.Nodes {
		if err := l.makeDisk(n.Name); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) linkPlugins() error {
	bin := filepath.Join(l.opts.Dir, "cni-bin")
	plugins, err := filepath.Glob(filepath.Join(l.opts.Binaries.Plugins, "*"))
	if err != nil {
		return err
	}
	for _, p := range plugins {
		if err := os.Symlink(p, filepath.Join(bin, filepath.Base(p))); err != nil {
			return err
		}
	}
	if l.opts.Binaries.CNI == "" {
		return nil
	}
	return os.Symlink(l.opts.Binaries.CNI, filepath.Join(bin, "twill"))
}

// makeDisk makes the files of a host that was never booted.
func (l *Lab) makeDisk(name string) error {
	disk := filepath.Join(l.opts.Dir, name)
	for _, d := range []string{"var-lib-twill", "var-lib-cni", "etc-cni/net.d", "etc", "scratch"} {
		if err := os.MkdirAll(filepath.Join(disk, d), 0o755); err != nil {
			return err
		}
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	for file, content := range map[string]string{
		"etc/hostname":                    name + "\n",
		"etc/machine-id":                  hex.EncodeToString(id[:]) + "\n", // machine-id(5)
		"etc/hosts":                       l.hostsFile(),
		"etc-cni/net.d/10-twill.conflist": cniConf,
	} {
		if err := os.WriteFile(filepath.Join(disk, file), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if l.opts.Machine == nil || name == lanName || name == outsideName {
		return nil
	}
	// Such a node gets its plugins and their configuration as a real one does.
	if err := os.Remove(filepath.Join(disk, "etc-cni/net.d/10-twill.conflist")); err != nil {
		return err
	}
	return l.opts.Machine.prepareDisk(disk)
}

// hostsFile lets people say node2 in the lab; hosts(5).
func (l *Lab) hostsFile() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, f := range l.opts.Underlay.Families() {
		fmt.Fprintf(&b, "%s %s\n%s %s\n", routerAddr(f, 0).Addr(), lanName, outsideAddr[f].Addr(), outsideName)
		for _, n := range l.Nodes {
			fmt.Fprintf(&b, "%s %s\n", nodeAddr(f, n.segment, n.number).Addr(), n.Name)
		}
	}
	return b.String()
}
