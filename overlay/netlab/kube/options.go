package kube

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// ProxyMode is how kube-proxy makes Services.
type ProxyMode string

// The modes of kube-proxy that need nothing but the kernel's own; NoProxy runs
// none.
const (
	IPTables ProxyMode = "iptables"
	NFTables ProxyMode = "nftables"
	NoProxy  ProxyMode = "none"
)

// String returns the mode's name; Set and Type make it a flag.
func (m *ProxyMode) String() string { return string(*m) }

// Set parses "iptables", "nftables" or "none".
func (m *ProxyMode) Set(v string) error {
	if all := []ProxyMode{IPTables, NFTables, NoProxy}; !slices.Contains(all, ProxyMode(v)) {
		return fmt.Errorf("%q is no mode of kube-proxy's, must be iptables, nftables or none", v)
	}
	*m = ProxyMode(v)
	return nil
}

// Options say what the cluster is like. The zero value of a field is its default.
type Options struct {
	Nodes    int             // 3; node1 runs the control plane besides
	Stack    netlab.Stack    // of underlay, pods and Services: dual, IPv4 first
	Proxy    ProxyMode       // nftables
	Parts    Parts           // what BuildParts returns
	Images   []string        // further archives that each node imports, Twill's for one
	Binaries netlab.Binaries // Twill is needed: it runs each node's first process and etcd
	Dir      string          // the cluster's directory, made here and removed by Close: a temporary one in /var/tmp
	Log      io.Writer       // progress, a line for each step: nowhere
}

// DefaultDir is where `make kube-up` keeps the cluster.
const DefaultDir = "/var/tmp/twill-kube"

func (o Options) withDefaults() (Options, error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Stack == "" {
		o.Stack = netlab.DualStack
	}
	if o.Proxy == "" {
		o.Proxy = NFTables
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Dir == "" {
		// Not in /tmp, which may be a tmpfs: images take their room.
		o.Dir = DefaultDir + "-" + rand.Text()[:8]
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return o, err
	}
	if len(o.Parts.Programs) == 0 {
		return o, errors.New("a cluster needs its parts: see BuildParts")
	}
	for _, archive := range o.Images {
		if _, err := os.Stat(archive); err != nil {
			return o, fmt.Errorf("finding an image for the nodes: %w", err)
		}
	}
	return o, nil
}

// The networks of every cluster. A /16 of pods gives each node a /24, a /56 a
// /64, as is kube-controller-manager's default.
var (
	podNetwork     = subnet.PerFamily[string]{"10.244.0.0/16", "fd00:244::/56"}
	serviceNetwork = subnet.PerFamily[string]{"10.96.0.0/16", "fd00:96::/112"}
	firstService   = subnet.PerFamily[string]{"10.96.0.1", "fd00:96::1"}  // kubernetes.default
	dnsService     = subnet.PerFamily[string]{"10.96.0.10", "fd00:96::a"} // kube-dns
)

// Type names the values in a command's help.
func (m *ProxyMode) Type() string { return "iptables|nftables|none" }

// join lists something for the cluster's families, comma-separated, the way
// Kubernetes' flags take it.
func (o Options) join(of func(subnet.Family) string) string {
	var all []string
	for _, f := range o.Stack.Families() {
		all = append(all, of(f))
	}
	return strings.Join(all, ",")
}

func (o Options) podNetworks() string {
	return o.join(func(f subnet.Family) string { return podNetwork[f] })
}

func (o Options) serviceNetworks() string {
	return o.join(func(f subnet.Family) string { return serviceNetwork[f] })
}

// primary is the family of a Service that asks for none.
func (o Options) primary() subnet.Family { return o.Stack.Families()[0] }
