// Package confdir reads the directory of CNI configs, from which runtimes take
// the network of their pods: which networks there are ours, and whether ours is
// the one that is taken. It is apart from package pods because the CNI plugin
// is started for each pod and has no use for it.
package confdir

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"

	"github.com/twill-net/twill/overlay/pods"
)

// Default is the directory of containerd and CRI-O.
const Default = "/etc/cni/net.d"

// Networks returns the networks of which the directory of CNI configs says
// that twill makes their pods, with bridge or ptp as delegate and addresses
// from host-local, by name. left says of the other networks of ours why they
// are not among them. A file that no runtime could use is passed over; a
// directory that is not there has no networks.
func Networks(dir string) (ours []pods.Network, left []string, err error) {
	files, err := readConfs(dir)
	if err != nil {
		return nil, nil, err
	}
	byName := map[string][]confFile{}
	for _, f := range files {
		if f.err == nil {
			byName[f.name] = append(byName[f.name], f)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if !slices.ContainsFunc(byName[name], confFile.ours) {
			continue
		}
		n, err := network(byName[name])
		if err != nil {
			left = append(left, fmt.Sprintf("network %s: %v", name, err))
			continue
		}
		ours = append(ours, n)
	}
	return ours, left, nil
}

// confFile is a file of the runtime's config directory.
type confFile struct {
	path    string
	name    string // the network's
	plugins []*libcni.PluginConfig
	err     error
}

// readConfs reads the files that runtimes do, in their order.
func readConfs(dir string) ([]confFile, error) {
	paths, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("listing CNI configs: %w", err)
	}
	slices.Sort(paths)
	files := make([]confFile, len(paths))
	for i, path := range paths {
		files[i] = readConf(path)
	}
	return files, nil
}

func readConf(path string) confFile {
	f := confFile{path: path}
	if filepath.Ext(path) == ".conflist" {
		list, err := libcni.NetworkConfFromFile(path)
		if err != nil {
			return confFile{path: path, err: err}
		}
		f.name, f.plugins = list.Name, list.Plugins
	} else {
		b, err := os.ReadFile(path)
		if err != nil {
			return confFile{path: path, err: err}
		}
		plugin, err := libcni.NetworkPluginConfFromBytes(b)
		if err != nil {
			return confFile{path: path, err: err}
		}
		f.name, f.plugins = plugin.Network.Name, []*libcni.PluginConfig{plugin}
	}
	return f
}

func (f confFile) ours() bool {
	return f.err == nil && slices.ContainsFunc(f.plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type == pods.Type })
}

// network returns what the files that configure one network agree on. All of
// them must be ours: another plugin may keep addresses in the same directory
// for pods that have no veth here.
func network(files []confFile) (pods.Network, error) {
	var n pods.Network
	for i, f := range files {
		if !f.ours() {
			return pods.Network{}, fmt.Errorf("%s configures it too, for another plugin", f.path)
		}
		m, err := f.network()
		if err != nil {
			return pods.Network{}, fmt.Errorf("%s: %w", f.path, err)
		}
		if i > 0 {
			m.Gateway = m.Gateway && n.Gateway
			n.Gateway = m.Gateway
		}
		if i > 0 && m != n {
			return pods.Network{}, fmt.Errorf("%s and %s configure it differently", files[0].path, f.path)
		}
		n = m
	}
	return n, nil
}

// network reads a file that is ours.
func (f confFile) network() (pods.Network, error) {
	at := slices.IndexFunc(f.plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type == pods.Type })
	for i, p := range f.plugins {
		if i != at && (p.Network.Type == pods.Type || p.Network.IPAM.Type != "") {
			return pods.Network{}, fmt.Errorf("plugin %s takes addresses too", p.Network.Type)
		}
	}
	return pods.NetworkOf(f.name, f.plugins[at].Bytes)
}
