package pods

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
)

// Defaults of container runtimes and of host-local.
const (
	DefaultConfDir = "/etc/cni/net.d"
	DefaultDataDir = "/var/lib/cni/networks"
)

// Type is the plugin type of our networks.
const Type = "twill"

// Network is a CNI network of ours, as far as its config says where pods and
// addresses are.
type Network struct {
	Name string
	// Dir is where host-local keeps the addresses of this network.
	Dir string
	// Bridge is where the bridge plugin puts pods, "" for another delegate.
	Bridge string
	// VethFirst: the delegate makes a pod's veth before it asks for an
	// address, so that an address without a veth is never one in the making.
	// It is so of bridge and is not of ptp.
	VethFirst bool
}

// Networks returns the networks of which the directory of CNI configs says
// that twill makes their pods, with bridge or ptp as delegate and addresses
// from host-local, by name. left says of the other networks of ours why they
// are not among them. A file that no runtime could use is passed over; a
// directory that is not there has no networks.
func Networks(dir string) (ours []Network, left []string, err error) {
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

// Shadowed returns the first file of the directory of CNI configs, if it is
// not ours and there is one of ours behind it: a runtime takes the first file
// in the order of names (containerd with its default max_conf_num = 1, CRI-O),
// or fails at it when it is broken.
func Shadowed(dir string) (string, bool) {
	files, err := readConfs(dir)
	if err != nil || len(files) == 0 || files[0].ours() || !slices.ContainsFunc(files, confFile.ours) {
		return "", false
	}
	return files[0].path, true
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
	return f.err == nil && slices.ContainsFunc(f.plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type == Type })
}

// network returns what the files that configure one network agree on. All of them must be ours: another plugin may keep addresses in the same
// directory for pods that have no veth here.
func network(files []confFile) (Network, error) {
	var n Network
	for i, f := range files {
		if !f.ours() {
			return Network{}, fmt.Errorf("%s configures it too, for another plugin", f.path)
		}
		m, err := f.network()
		if err != nil {
			return Network{}, fmt.Errorf("%s: %w", f.path, err)
		}
		if i > 0 && m != n {
			return Network{}, fmt.Errorf("%s and %s configure it differently", files[0].path, f.path)
		}
		n = m
	}
	return n, nil
}

// network reads a file that is ours.
func (f confFile) network() (Network, error) {
	at := slices.IndexFunc(f.plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type == Type })
	for i, p := range f.plugins {
		if i != at && (p.Network.Type == Type || p.Network.IPAM.Type != "") {
			return Network{}, fmt.Errorf("plugin %s takes addresses too", p.Network.Type)
		}
	}
	return NetworkOf(f.name, f.plugins[at].Bytes)
}

// NetworkOf reads the config of our plugin, as a runtime writes it to stdin or
// as it is in a list of plugins. The error says why the reservations of the
// network are not ours to sweep.
func NetworkOf(name string, plugin []byte) (Network, error) {
	var conf struct {
		Delegate struct{ Type, Bridge string }
		IPAM     struct{ Type, DataDir string }
	}
	if err := json.Unmarshal(plugin, &conf); err != nil {
		return Network{}, err
	}
	if err := utils.ValidateNetworkName(name); err != nil { // it becomes part of a path
		return Network{}, err
	}
	if t := conf.IPAM.Type; t != "" && t != "host-local" {
		return Network{}, fmt.Errorf("addresses come from %s", t)
	}
	dir := cmp.Or(conf.IPAM.DataDir, DefaultDataDir)
	if !filepath.IsAbs(dir) {
		return Network{}, fmt.Errorf("ipam.dataDir is %q, which is no absolute path", dir)
	}
	n := Network{Name: name, Dir: filepath.Join(dir, name)}
	switch cmp.Or(conf.Delegate.Type, "bridge") {
	case "bridge":
		n.Bridge, n.VethFirst = cmp.Or(conf.Delegate.Bridge, DefaultBridge), true
	case "ptp":
	default:
		return Network{}, fmt.Errorf("delegate %s may make pods without a veth", conf.Delegate.Type)
	}
	return n, nil
}
