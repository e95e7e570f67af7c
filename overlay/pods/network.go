package pods

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/utils"
)

// DefaultDataDir is where host-local keeps addresses.
const DefaultDataDir = "/var/lib/cni/networks"

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
	// Gateway: that bridge has the first address of the node's subnet, as the
	// pods' gateway.
	Gateway bool
	// VethFirst: the delegate makes a pod's veth before it asks for an
	// address, so that an address without a veth is never one in the making.
	// It is so of bridge and is not of ptp.
	VethFirst bool
}

// NetworkOf reads the config of our plugin, as a runtime writes it to stdin or
// as it is in a list of plugins. The error says why the reservations of the
// network are not ours to sweep.
func NetworkOf(name string, plugin []byte) (Network, error) {
	var conf struct {
		Delegate struct {
			Type, Bridge     string
			IsGateway        *bool
			IsDefaultGateway bool
		}
		IPAM struct{ Type, DataDir, Gateway string }
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
		d := conf.Delegate
		n.Bridge, n.VethFirst = cmp.Or(d.Bridge, DefaultBridge), true
		n.Gateway = (d.IsGateway == nil || *d.IsGateway || d.IsDefaultGateway) && conf.IPAM.Gateway == ""
	case "ptp":
	default:
		return Network{}, fmt.Errorf("delegate %s may make pods without a veth", conf.Delegate.Type)
	}
	return n, nil
}
