package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/overlay/netlab"
)

// Cluster is a running cluster. Its methods may be called from several
// goroutines.
type Cluster struct {
	Nodes   []*Node
	Control Control

	lab         *netlab.Lab
	opts        Options
	ca          []byte // PEM
	cgroup      string
	snapshotter string
	client      *http.Client
	started     time.Time
}

// startTimeout bounds New: a busy machine takes its time.
const startTimeout = 15 * time.Minute

// New makes a cluster without a network: when it returns, the API answers,
// all nodes are registered with their pod networks, CoreDNS is asked for, and
// the nodes wait for somebody to install a CNI plugin. When New fails, or when
// this process is killed, nothing stays behind.
func New(ctx context.Context, o Options) (_ *Cluster, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := inotifyRoom(inotifyControl + o.Nodes*inotifyNode); err != nil {
		return nil, err
	}
	c := &Cluster{opts: o, started: time.Now(), cgroup: filepath.Base(o.Dir)}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c.lab, err = netlab.New(ctx, netlab.Options{
		Nodes: o.Nodes, Underlay: o.Stack, Overlay: o.Stack, Binaries: o.Binaries, Dir: o.Dir, Log: o.Log,
		Machine: &netlab.Machine{Keep: kept, Pretend: pretend, Cgroup: c.cgroup, Etc: map[string]string{
			// Nobody answers there: a pod that asks for the node's own DNS
			// gets none.
			"resolv.conf": "nameserver " + map[bool]string{false: "192.0.2.53", true: "2001:db8::53"}[o.Stack == netlab.IPv6Only] + "\n",
		}},
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.snapshotter, err = snapshotterFor(o.Dir); err != nil {
		return nil, err
	}
	for _, n := range c.lab.Nodes {
		c.Nodes = append(c.Nodes, &Node{Node: n, cluster: c})
	}
	if c.opts.Parts, err = o.Parts.reachable(o.Dir); err != nil {
		return nil, err
	}
	if err := c.opts.Parts.record(o.Dir); err != nil {
		return nil, err
	}
	if err := c.writeAccess(); err != nil {
		return nil, fmt.Errorf("writing keys and kubeconfigs: %w", err)
	}
	if err := c.connect(); err != nil {
		return nil, err
	}
	if err := c.startAll(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// startAll starts the nodes beside the control plane: their images take a while.
func (c *Cluster) startAll(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return c.startControl(ctx) })
	for _, n := range c.Nodes {
		g.Go(func() error { return c.startNode(ctx, n) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	c.step("containerd with images, kubelet and kube-proxy (%s) on each node", c.opts.Proxy)
	for _, n := range c.Nodes {
		if _, err := c.WaitPodNetworks(ctx, n.Name); err != nil {
			return err
		}
	}
	c.step("%d nodes registered", len(c.Nodes))
	return c.Apply(ctx, c.coreDNS())
}

// Lab is the lab that the cluster is made of: its lan, its host outside, etcd.
func (c *Cluster) Lab() *netlab.Lab { return c.lab }

// Stack returns the cluster's address families.
func (c *Cluster) Stack() netlab.Stack { return c.opts.Stack }

// Dir returns the cluster's directory; the logs are in log.
func (c *Cluster) Dir() string { return c.opts.Dir }

// Close ends everything in the cluster and removes its directory.
func (c *Cluster) Close() error {
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	return c.lab.Close()
}

// Detach leaves the cluster running when this process ends; netlab.Down ends
// it. The cluster must not be used afterwards.
func (c *Cluster) Detach() error { return c.lab.Detach() }

func (c *Cluster) step(format string, args ...any) {
	fmt.Fprintf(c.opts.Log, "%5.1f s  %s\n", time.Since(c.started).Seconds(), fmt.Sprintf(format, args...))
}

// errEnded is an error that waiting does not cure.
var errEnded = errors.New("it has ended")

// poll calls check until it returns no error, or ctx is done.
func poll(ctx context.Context, what string, check func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if !errors.Is(err, errEnded) {
			select {
			case <-tick.C:
				continue
			case <-ctx.Done():
				err = errors.Join(ctx.Err(), err)
			}
		}
		return fmt.Errorf("waiting until %s: %w", what, err)
	}
}

// Root returns the repository that dir is in.
func Root(dir string) (string, error) {
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "dist/make/kube-parts")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is not in Twill's repository", dir)
		}
	}
}
