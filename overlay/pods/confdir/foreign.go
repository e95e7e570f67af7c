package confdir

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

// Foreign returns the CNI configs of others, as "05-cilium.conflist (network
// cilium, cilium-cni+portmap)", which sort before the first of ours, and those
// behind it; and whether there is one of ours. Where there is none, it counts
// as one named own, "" for none to come. A runtime takes the first file in the
// order of names (containerd with its default max_conf_num = 1, CRI-O), or fails
// at it when it is broken. What only configures a loopback, as CRI-O's package does, is of no
// pods' network.
func Foreign(dir, own string) (before, behind []string, ours bool, err error) {
	files, err := readConfs(dir)
	if err != nil {
		return nil, nil, false, err
	}
	for _, f := range files {
		ours = ours || f.ours()
	}
	passed := false
	for _, f := range files {
		switch {
		case f.ours():
			passed = true
		case f.loopback():
		case passed || !ours && own < filepath.Base(f.path):
			behind = append(behind, f.describe())
		default:
			before = append(before, f.describe())
		}
	}
	return before, behind, ours, nil
}

func (f confFile) loopback() bool {
	return f.err == nil && len(f.plugins) > 0 && !slices.ContainsFunc(f.plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type != "loopback" })
}

// describe names a file as an administrator would look for it.
func (f confFile) describe() string {
	name := filepath.Base(f.path)
	if f.err != nil {
		return name + " (which no runtime can read)"
	}
	var plugins []string
	for _, p := range f.plugins {
		plugins = append(plugins, p.Network.Type)
	}
	return name + " (network " + f.name + ", " + strings.Join(plugins, "+") + ")"
}
