package datapath

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

const patience = netlabtest.Patience

// cluster is a lab with the daemons that a test started.
type cluster struct {
	*netlab.Lab
	t       *testing.T
	daemons []*netlab.Process // by node
}

func newCluster(t *testing.T, o netlab.Options) *cluster {
	t.Helper()
	lab := netlabtest.New(t, o)
	c := &cluster{Lab: lab, t: t, daemons: make([]*netlab.Process, len(lab.Nodes))}
	return c
}

// sub returns the cluster for a subtest.
func (c *cluster) sub(t *testing.T) *cluster {
	s := *c
	s.t = t
	return &s
}

// start starts the daemons of all nodes and waits until they have ways to each
// other.
func (c *cluster) start(flags ...string) *cluster {
	c.t.Helper()
	c.run(flags, c.Nodes...)
	c.meshed(c.Nodes...)
	return c
}

// run starts the daemons of some nodes, in the place of those that run, and
// waits until they are ready.
func (c *cluster) run(flags []string, nodes ...*netlab.Node) {
	c.t.Helper()
	c.runEach(func(*netlab.Node) []string { return flags }, nodes...)
}

// runEach is run with flags of its own for each node.
func (c *cluster) runEach(flags func(*netlab.Node) []string, nodes ...*netlab.Node) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	var g errgroup.Group
	for _, n := range nodes {
		at := number(n) - 1
		g.Go(func() (err error) {
			if d := c.daemons[at]; d != nil {
				if err := d.Stop(ctx); err != nil {
					return err
				}
			}
			if c.daemons[at], err = n.StartTwilld(flags(n)...); err != nil {
				return err
			}
			return n.WaitReady(ctx, c.daemons[at])
		})
	}
	require.NoError(c.t, g.Wait())
}

func number(n *netlab.Node) (i int) {
	if _, err := fmt.Sscanf(n.Name, "node%d", &i); err != nil {
		panic(err)
	}
	return i
}

// meshed waits until each of the nodes has a route to the pods of each other.
func (c *cluster) meshed(nodes ...*netlab.Node) {
	c.t.Helper()
	for _, n := range nodes {
		c.eventually(func() error {
			routes := c.on(&n.Host, "sh", "-c", "ip route show proto 116; ip -6 route show proto 116")
			for _, peer := range nodes {
				for _, s := range c.subnets(peer) {
					if peer != n && s.IsValid() && !strings.Contains(routes, s.String()+" ") {
						return fmt.Errorf("%s has no route to %s of %s:\n%s", n.Name, s, peer.Name, routes)
					}
				}
			}
			return nil
		})
	}
}

// addPods adds a pod to each of the nodes.
func (c *cluster) addPods(name string, nodes ...*netlab.Node) []*netlab.Pod {
	c.t.Helper()
	pods := make([]*netlab.Pod, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() (err error) {
			pods[i], err = n.AddPod(c.t.Context(), name)
			return err
		})
	}
	require.NoError(c.t, g.Wait())
	return pods
}

// eventually waits until check has nothing to complain about.
func (c *cluster) eventually(check func() error) {
	c.t.Helper()
	netlabtest.Eventually(c.t, "what was asked for", check)
}

// on runs a command that must not fail, and returns what it prints.
func (c *cluster) on(h *netlab.Host, args ...string) string {
	c.t.Helper()
	out, err := h.Exec(c.t.Context(), args...)
	require.NoError(c.t, err)
	return strings.TrimSpace(out)
}

// env reads a node's subnet.env.
func (c *cluster) env(n *netlab.Node) envfile.Env {
	c.t.Helper()
	return netlabtest.Env(c.t, n)
}

// subnets returns what a node leases, as subnet.env tells it.
func (c *cluster) subnets(n *netlab.Node) (out subnet.PerFamily[netip.Prefix]) {
	c.t.Helper()
	for f, p := range c.env(n).Subnets {
		out[f] = p.Masked()
	}
	return out
}

// overlayAddr returns the address that a node has on its VXLAN devices: the
// first of its subnet.
func (c *cluster) overlayAddr(n *netlab.Node, f subnet.Family) netip.Addr {
	c.t.Helper()
	return c.subnets(n)[f].Addr()
}

// mtu returns the MTU of one of a host's links.
func (c *cluster) mtu(h *netlab.Host, link string) int {
	c.t.Helper()
	mtu, err := h.MTU(c.t.Context(), link)
	require.NoError(c.t, err)
	return mtu
}

// status asks a node's daemon how it is.
func (c *cluster) status(n *netlab.Node) overlay.Status {
	c.t.Helper()
	s, err := c.ask(n)
	require.NoError(c.t, err)
	return s
}

// ask is status for a daemon that may not answer yet.
func (c *cluster) ask(n *netlab.Node) (s overlay.Status, err error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return n.DialContext(ctx, "unix", "/run/twill/twilld.sock")
	}}}
	resp, err := client.Get("http://twilld/")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	err = json.NewDecoder(resp.Body).Decode(&s)
	return s, err
}

// configure puts another network config into etcd.
func (c *cluster) configure(conf string) {
	c.t.Helper()
	client, err := clientv3.New(c.EtcdConfig())
	require.NoError(c.t, err)
	defer client.Close()
	_, err = client.Put(c.t.Context(), netlab.ConfigKey, conf)
	require.NoError(c.t, err)
}

// way is what `ip route get` says.
type way struct {
	Dev     string     `json:"dev"`
	Gateway netip.Addr `json:"gateway"`
	Source  netip.Addr `json:"prefsrc"`
}

// wayTo returns how a host reaches an address.
func (c *cluster) wayTo(h *netlab.Host, to netip.Addr) way {
	c.t.Helper()
	var ways []way
	require.NoError(c.t, json.Unmarshal([]byte(c.on(h, "ip", "-j", "route", "get", to.String())), &ways))
	require.Len(c.t, ways, 1)
	return ways[0]
}

// sourceSeen returns whom a host at addr takes a sender for.
func (c *cluster) sourceSeen(from, to *netlab.Host, addr netip.Addr) netip.Addr {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	source, err := netlab.SourceSeen(ctx, from, to, addr)
	require.NoError(c.t, err)
	return source
}
