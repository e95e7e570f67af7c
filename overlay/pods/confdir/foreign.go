package confdir

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/twill-net/twill/overlay/pods"
)

// Foreign returns the CNI configs of others, as "05-cilium.conflist (network
// cilium, cilium-cni+portmap)", which sort before the first of ours, and those
// behind it; and whether there is one of ours. Where there is none, it counts
// as one named own, "" for none to come. A runtime takes the first file in the
// order of names (containerd with its default max_conf_num = 1, CRI-O), or fails
// at it when it is broken. What only configures a loopback, as CRI-O's package does, is of no
// pods' network. Nor is Multus another network: it has pods on ours, and on more.
func Foreign(dir, own string) (before, behind []string, ours bool, err error) {
	files, err := readConfs(dir)
	if err != nil {
		return nil, nil, false, err
	}
	for _, f := range files {
		ours = ours || f.ours()
	}
	isOurs := func(network string) bool {
		file := filepath.Base(network)
		return !ours && file == own || slices.ContainsFunc(files, func(f confFile) bool {
			return f.ours() && (f.name == network || filepath.Base(f.path) == file)
		})
	}
	passed := false
	for _, f := range files {
		switch {
		case f.ours() || f.leadsTo(isOurs):
			passed = true
		case f.loopback():
		case filepath.Base(f.path) == own: // whatever is there is written anew
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

// leadsTo reports whether a config is Multus', the default network of which is
// ours: by the name of the network or of its file (clusterNetwork), or as it was
// copied from there (delegates). See docs/configuration.md of
// k8snetworkplumbingwg/multus-cni.
func (f confFile) leadsTo(ours func(network string) bool) bool {
	if f.err != nil || len(f.plugins) != 1 || !slices.Contains([]string{"multus", "multus-shim"}, f.plugins[0].Network.Type) {
		return false
	}
	type plugin struct{ Type string }
	var conf struct {
		ClusterNetwork string
		Delegates      []struct {
			plugin
			Plugins []plugin
		}
	}
	if json.Unmarshal(f.plugins[0].Bytes, &conf) != nil {
		return false
	}
	if conf.ClusterNetwork != "" {
		return ours(conf.ClusterNetwork)
	}
	twill := plugin{pods.Type}
	return len(conf.Delegates) > 0 && (conf.Delegates[0].plugin == twill || slices.Contains(conf.Delegates[0].Plugins, twill))
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
