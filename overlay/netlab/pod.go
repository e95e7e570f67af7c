package netlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	cni "github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/twill-net/twill/subnet"
)

// cniConf is /etc/cni/net.d/10-twill.conflist of every node.
const cniConf = `{
  "cniVersion": "1.0.0",
  "name": "cbr0",
  "plugins": [
    {
      "type": "twill",
      "delegate": {"hairpinMode": true, "isDefaultGateway": true}
    }
  ]
}
`

// cniBin is the plugin directory of a node, as the container runtimes have it.
const cniBin = "/opt/cni/bin"

// Pod is a network namespace on a node, wired by a CNI ADD.
type Pod struct {
	Host
	Node *Node
	id   string // of the container, and the name of the namespace
}

// AddPod makes a network namespace on the node and has the plugins wire it, as
// /etc/cni/net.d/10-twill.conflist says. Name is part of the pod's name,
// node1/NAME. When the plugins fail, the namespace is removed again.
func (n *Node) AddPod(ctx context.Context, name string) (*Pod, error) {
	p := &Pod{Node: n, Host: n.Host, id: name}
	p.Name, p.netns, p.Addrs = n.Name+"/"+name, "/run/netns/"+name, subnet.PerFamily[netip.Addr]{}
	if _, err := n.Exec(ctx, "ip", "netns", "add", name); err != nil {
		return nil, err
	}
	err := p.wire(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("adding pod %s: %w", p.Name, err), n.DelPod(context.WithoutCancel(ctx), p))
	}
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.lab.record.Pods = append(n.lab.record.Pods, podRecord{Name: p.Name, Addrs: p.Addrs})
	return p, n.lab.record.write(n.lab.opts.Dir)
}

// Inside returns a network namespace on the node that something else has made,
// a container runtime perhaps; netns is its path there.
func (n *Node) Inside(name, netns string, addrs subnet.PerFamily[netip.Addr]) *Host {
	h := n.Host
	h.Name, h.netns, h.Addrs = n.Name+"/"+name, netns, addrs
	return &h
}

func (p *Pod) wire(ctx context.Context) error {
	const setUp = "ip link set lo up; for i in all default; do f=/proc/sys/net/ipv6/conf/$i/accept_dad; [ ! -e $f ] || echo 0 >$f; done"
	if _, err := p.Exec(ctx, "sh", "-c", setUp); err != nil {
		return err
	}
	conf, rt, err := p.cniConf()
	if err != nil {
		return err
	}
	result, err := p.Node.cni().AddNetworkList(ctx, conf, rt)
	if err != nil {
		return err
	}
	res, err := current.NewResultFromResult(result)
	if err != nil {
		return err
	}
	for _, ip := range res.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return fmt.Errorf("reading the plugin's result: %v is no address", ip.Address)
		}
		p.Addrs[subnet.FamilyOf(addr.Unmap())] = addr.Unmap()
	}
	return nil
}

// DelPod has the plugins unwire the pod and removes its namespace.
func (n *Node) DelPod(ctx context.Context, p *Pod) error {
	conf, rt, err := p.cniConf()
	if err == nil {
		err = n.cni().DelNetworkList(ctx, conf, rt)
	}
	if err != nil {
		err = fmt.Errorf("deleting pod %s: %w", p.Name, err)
	}
	_, errNS := n.Exec(ctx, "ip", "netns", "del", p.id)
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.lab.record.Pods = slices.DeleteFunc(n.lab.record.Pods, func(r podRecord) bool { return r.Name == p.Name })
	return errors.Join(err, errNS, n.lab.record.write(n.lab.opts.Dir))
}

// cniConf reads the node's CNI configuration, which a test may have changed.
func (p *Pod) cniConf() (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	conf, err := libcni.NetworkConfFromFile(filepath.Join(p.lab.opts.Dir, p.Node.Name, "etc-cni/net.d/10-twill.conflist"))
	return conf, &libcni.RuntimeConf{ContainerID: p.id, NetNS: p.netns, IfName: "eth0"}, err
}

// cni returns a container runtime's side of CNI whose plugins run on the node.
func (n *Node) cni() *libcni.CNIConfig {
	cache := filepath.Join(n.lab.opts.Dir, n.Name, "var-lib-cni")
	return libcni.NewCNIConfigWithCacheDir([]string{cniBin}, cache, &pluginExec{node: n})
}

// pluginExec runs plugins in the namespaces of a node; it implements
// invoke.Exec.
type pluginExec struct {
	version.PluginDecoder
	node *Node
}

// FindInPath returns where the plugin is on the node.
func (*pluginExec) FindInPath(plugin string, dirs []string) (string, error) {
	return path.Join(dirs[0], plugin), nil
}

// ExecPlugin runs a plugin; what it says on failure is JSON on its standard
// output (CNI specification, section 5, Error).
func (e *pluginExec) ExecPlugin(ctx context.Context, plugin string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := e.node.command(ctx, plugin)
	for _, kv := range environ {
		if strings.HasPrefix(kv, "CNI_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	var said cni.Error
	if json.Unmarshal(stdout.Bytes(), &said) == nil && said.Msg != "" {
		return nil, &said
	}
	return nil, fmt.Errorf("running %s: %w: %s%s", plugin, err, stdout.Bytes(), stderr.Bytes())
}
