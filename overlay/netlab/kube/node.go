package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/overlay/netlab"
)

// Node is a machine of the cluster, with its kubelet and the like. Each of
// them may be stopped, killed and restarted.
type Node struct {
	*netlab.Node
	Containerd, Kubelet, Proxy *netlab.Process // Proxy is nil with NoProxy

	cluster *Cluster
}

// Node returns a node by its number, counted from 1 as its name is.
func (c *Cluster) Node(number int) *Node { return c.Nodes[number-1] }

// kept are the directories of a node that a reboot leaves as they are.
var kept = []string{"/etc/kubernetes", "/var/lib/containerd", "/var/lib/kubelet", "/var/log"}

// pretend are the settings that a kubelet insists on, and writes for the whole
// machine if they are different (pkg/kubelet/cm, setupKernelTunables).
var pretend = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// configDir is a node's /etc/kubernetes, from outside.
func (c *Cluster) configDir(node string) string {
	return filepath.Join(c.opts.Dir, node, "etc-kubernetes")
}

// startNode starts what a node runs, with its configuration.
func (c *Cluster) startNode(ctx context.Context, n *Node) (err error) {
	dir := c.configDir(n.Name)
	if err := writeFiles(map[string]string{
		filepath.Join(dir, "containerd.toml"): c.containerdConfig(),
		filepath.Join(dir, "kubelet.yaml"):    c.kubeletConfig(n),
		filepath.Join(dir, "kube-proxy.yaml"): c.proxyConfig(n),
	}); err != nil {
		return err
	}
	if n.Containerd, err = c.start(&n.Host, "containerd", "--config="+in("containerd.toml")); err != nil {
		return err
	}
	if err := n.WaitContainerd(ctx); err != nil {
		return err
	}
	if err := n.importImages(ctx); err != nil {
		return err
	}
	if n.Kubelet, err = c.start(&n.Host, "kubelet", c.kubeletArgs(n)...); err != nil {
		return err
	}
	if c.opts.Proxy != NoProxy {
		n.Proxy, err = c.start(&n.Host, "kube-proxy", "--config="+in("kube-proxy.yaml"))
	}
	return err
}

func (c *Cluster) kubeletArgs(n *Node) []string {
	var ips string
	for _, f := range c.opts.Stack.Families() {
		if ips != "" {
			ips += ","
		}
		ips += n.Addrs[f].String()
	}
	return []string{
		"--config=" + in("kubelet.yaml"), "--kubeconfig=" + in("kubelet.conf"),
		"--hostname-override=" + n.Name, "--node-ip=" + ips,
		// Three zones, without which Kubernetes' tests of traffic distribution skip themselves.
		fmt.Sprintf("--node-labels=topology.kubernetes.io/zone=zone%d", slices.Index(c.Nodes, n)%3+1),
	}
}

// Processes are what the node runs, in the order of their start.
func (n *Node) Processes() []*netlab.Process {
	all := []*netlab.Process{n.Containerd, n.Kubelet, n.Proxy}
	if c := n.cluster; n == c.Nodes[0] {
		all = append([]*netlab.Process{c.Control.APIServer, c.Control.ControllerManager, c.Control.Scheduler}, all...)
	}
	return slices.DeleteFunc(all, func(p *netlab.Process) bool { return p == nil })
}

// ctr runs containerd's own client on the node.
func (n *Node) ctr(ctx context.Context, args ...string) (string, error) {
	program, err := n.cluster.opts.Parts.program("ctr")
	if err != nil {
		return "", err
	}
	return n.Exec(ctx, append([]string{program, "--namespace=k8s.io"}, args...)...)
}

// WaitContainerd waits until containerd answers.
func (n *Node) WaitContainerd(ctx context.Context) error {
	return poll(ctx, n.Name+": containerd answers", func() error {
		if !n.Containerd.Running() {
			return errors.Join(errEnded, n.Containerd.Wait(ctx))
		}
		_, err := n.ctr(ctx, "version")
		return err
	})
}

// importImages loads archives into the node's containerd, as people do where
// there is no registry.
func (n *Node) importImages(ctx context.Context) error {
	var g errgroup.Group
	for _, archive := range slices.Concat(n.cluster.opts.Parts.Images, n.cluster.opts.Images) {
		g.Go(func() error { return n.ImportImage(ctx, archive) })
	}
	return g.Wait()
}

// ImportImage loads an archive, an OCI layout in a tar, into the node's containerd.
func (n *Node) ImportImage(ctx context.Context, archive string) error {
	program, err := n.cluster.opts.Parts.program("ctr")
	if err != nil {
		return err
	}
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("importing an image: %w", err)
	}
	defer f.Close()
	_, err = n.ExecReader(ctx, f, program, "--namespace=k8s.io", "images", "import", "--snapshotter="+n.cluster.snapshotter, "-")
	if err != nil {
		return fmt.Errorf("importing %s: %w", archive, err)
	}
	return nil
}

// Reboot is a power cut: every process, pod and link of the node is gone, and
// /run is empty; its disk stays. Reboot returns when what the node runs is
// started again; Ready it is later.
func (n *Node) Reboot(ctx context.Context) error {
	if err := n.Node.Reboot(ctx); err != nil {
		return err
	}
	for _, p := range n.Processes() {
		// Its nsenter ends a moment after the command.
		if err := awaitEnd(ctx, p); err != nil {
			return err
		}
		if err := p.Restart(); err != nil {
			return err
		}
		var err error
		switch p {
		case n.Containerd:
			err = n.WaitContainerd(ctx)
		case n.cluster.Control.APIServer:
			err = n.cluster.WaitAPI(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func awaitEnd(ctx context.Context, p *netlab.Process) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_ = p.Wait(ctx) // "signal: killed"
	return ctx.Err()
}
