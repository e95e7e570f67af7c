package netlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twill-net/twill/subnet"
)

// Binaries are the programs under test and the lab's tools, as absolute paths.
type Binaries struct {
	Twill   string // runs each node's first process and `twill store`
	Twilld  string // the node daemon
	CNI     string // the CNI plugin, called twill-cni; nodes have it as /opt/cni/bin/twill
	Plugins string // directory of the reference plugins: bridge, host-local …
}

// InstalledBinaries returns the binaries as `make build` lays them out, beside
// this program.
func InstalledBinaries() (Binaries, error) {
	self, err := os.Executable()
	if err != nil {
		return Binaries{}, err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return Binaries{}, err
	}
	return BinariesIn(filepath.Dir(self)), nil
}

// BinariesIn returns the binaries of a directory laid out as `make build` does.
func BinariesIn(dir string) Binaries {
	return Binaries{
		Twill:   filepath.Join(dir, "twill"),
		Twilld:  filepath.Join(dir, "twilld"),
		CNI:     filepath.Join(dir, "twill-cni"),
		Plugins: filepath.Join(dir, "cni"),
	}
}

// Options say what the lab is like. The zero value of a field is its default.
type Options struct {
	Nodes    int       // 3; at most 200, see maxNodes
	Underlay Stack     // dual
	Segments int       // 1; node N is on segment (N-1) % Segments, the lan routes between them
	MTU      int       // of the underlay: 1500
	Overlay  Stack     // dual; the families of the default NetConf
	NetConf  string    // network config to put into etcd; see DefaultNetConf
	Binaries Binaries  // Twill is needed, the others when they are used
	Machine  *Machine  // what nodes have for a container runtime and a kubelet: nothing
	Dir      string    // the lab's directory, made here and removed by Close: a temporary one
	Log      io.Writer // progress, a line for each step: nowhere
}

func (o Options) withDefaults() (Options, error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Segments == 0 {
		o.Segments = 1
	}
	if o.MTU == 0 {
		o.MTU = 1500
	}
	if o.Underlay == "" {
		o.Underlay = DualStack
	}
	if o.Overlay == "" {
		o.Overlay = DualStack
	}
	if o.NetConf == "" {
		o.NetConf = DefaultNetConf(o.Overlay)
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	switch {
	case o.Nodes < 1 || o.Nodes > maxNodes:
		return o, fmt.Errorf("%d nodes do not fit, must be 1 to %d", o.Nodes, maxNodes)
	case o.Segments < 1 || o.Segments > 100:
		return o, fmt.Errorf("%d segments do not fit, must be 1 to 100", o.Segments)
	case o.MTU < 576 || o.MTU > 65535:
		return o, fmt.Errorf("MTU %d is impossible, must be 576 to 65535", o.MTU)
	}
	if _, err := os.Stat(o.Binaries.Twill); err != nil {
		return o, fmt.Errorf("finding the twill binary: %w: run `make build`", err)
	}
	if os.Geteuid() != 0 {
		return o, errors.New("a lab needs root: its nodes are namespaces")
	}
	for tool, pkg := range map[string]string{"nsenter": "util-linux", "ip": "iproute2", "ping": "iputils-ping"} {
		if !installed(tool, o.Binaries) {
			return o, fmt.Errorf("%s is not installed: install the package %s", tool, pkg)
		}
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil && (o.Underlay.Has(subnet.IPv6) || o.Overlay.Has(subnet.IPv6)) {
		return o, fmt.Errorf("this kernel has no IPv6 (%w): choose IPv4 for underlay and overlay", err)
	}
	return o, nil
}

// installed reports whether a program is in the path that hosts have.
func installed(program string, b Binaries) bool {
	for _, kv := range environ(b) {
		if list, ok := strings.CutPrefix(kv, "PATH="); ok {
			return slices.ContainsFunc(filepath.SplitList(list), func(dir string) bool {
				_, err := os.Stat(filepath.Join(dir, program))
				return err == nil
			})
		}
	}
	return false
}

// DefaultNetConf returns the network config of an overlay with the given
// families: 10.244.0.0/16, fd00:244::/48, backend vxlan.
func DefaultNetConf(s Stack) string {
	conf := map[string]any{
		"EnableIPv4": s.Has(subnet.IPv4),
		"EnableIPv6": s.Has(subnet.IPv6),
		"Backend":    map[string]any{"Type": "vxlan"},
	}
	if s.Has(subnet.IPv4) {
		conf["Network"] = "10.244.0.0/16"
	}
	if s.Has(subnet.IPv6) {
		conf["IPv6Network"] = "fd00:244::/48"
	}
	text, err := json.Marshal(conf)
	if err != nil {
		panic(err) // strings and booleans
	}
	return string(text)
}
