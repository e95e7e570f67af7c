package netlab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/subnet"
)

const (
	lanName     = "lan"
	outsideName = "outside"
)

// Lab is a running lab. Its methods may be called from several goroutines.
type Lab struct {
	Lan     *Host // the nodes' router; etcd runs here
	Outside *Host // beyond the router, without routes to pods
	Nodes   []*Node
	Store   *Process // etcd; may be stopped, killed and restarted

	opts    Options
	started time.Time
	running sync.WaitGroup // goroutines of processes, flows and servers

	mu        sync.Mutex
	spaces    map[string]*space // by host: lan, outside, node1 …
	processes []*Process
	record    record
}

// New makes a lab: its namespaces, links and addresses, and an etcd holding
// the network config. Daemons and pods are up to the caller (Node.StartTwilld,
// Node.AddPod) or to Deploy. When New fails, or when this process is killed,
// nothing stays behind.
func New(ctx context.Context, o Options) (_ *Lab, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := makeDir(&o); err != nil {
		return nil, err
	}
	l := &Lab{opts: o, started: time.Now(), spaces: map[string]*space{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	l.Lan, l.Outside = l.newHost(lanName), l.newHost(outsideName)
	for i := range o.Nodes {
		l.Nodes = append(l.Nodes, l.newNode(i+1))
	}
	if err := l.prepareFiles(); err != nil {
		return nil, err
	}
	if err := l.makeUnderlay(ctx); err != nil {
		return nil, err
	}
	l.step("underlay: %s", l.underlaySummary())
	if o.Machine != nil {
		// Before the nodes make theirs in it, all at once.
		if err := makeCgroup(o.Machine.Cgroup); err != nil {
			return nil, err
		}
	}
	if err := l.eachNode(ctx, (*Node).boot); err != nil {
		return nil, err
	}
	l.step("nodes: %s", l.nodesSummary())
	if err := l.startStore(ctx); err != nil {
		return nil, err
	}
	l.step("etcd: %s", l.EtcdEndpoints()[0])
	return l, nil
}

// Node returns a node by its number, counted from 1 as its name is.
func (l *Lab) Node(number int) *Node { return l.Nodes[number-1] }

// step reports progress.
func (l *Lab) step(format string, args ...any) {
	fmt.Fprintf(l.opts.Log, "%5.1f s  %s\n", time.Since(l.started).Seconds(), fmt.Sprintf(format, args...))
}

// logPath returns the log file of a process.
func (l *Lab) logPath(name string) string { return filepath.Join(l.opts.Dir, "log", name+".log") }

func (l *Lab) newHost(name string) *Host {
	return &Host{Name: name, lab: l, space: func() *space {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.spaces[name]
	}}
}

// startHost starts the namespaces of a host and records them, so that a later
// `twill lab down` finds them.
func (l *Lab) startHost(name string) (*space, error) {
	s, err := l.startSpace(name)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spaces[name] = s
	l.record.Hosts[name] = s.id
	return s, l.record.write(l.opts.Dir)
}

// makeUnderlay starts the lan and the outside host and connects them.
func (l *Lab) makeUnderlay(ctx context.Context) error {
	var g errgroup.Group
	for _, name := range []string{lanName, outsideName} {
		g.Go(func() error { _, err := l.startHost(name); return err })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := l.lanIP(ctx, l.lanBatch(l.Outside.space().id.PID)); err != nil {
		return err
	}
	const forward = "for f in ipv4/ip_forward ipv6/conf/all/forwarding; do [ ! -e /proc/sys/net/$f ] || echo 1 >/proc/sys/net/$f; done"
	if _, err := l.Lan.Exec(ctx, "sh", "-c", forward); err != nil {
		return err
	}
	for _, f := range l.opts.Underlay.Families() {
		l.Lan.Addrs[f] = routerAddr(f, 0).Addr()
		l.Outside.Addrs[f] = outsideAddr[f].Addr()
	}
	_, err := l.Outside.ExecInput(ctx, l.hostBatch(outsideAddr, outsideGateway), "ip", "-batch", "-")
	return err
}

// eachNode calls f for all nodes, a few at a time.
func (l *Lab) eachNode(ctx context.Context, f func(*Node, context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, n := range l.Nodes {
		g.Go(func() error { return f(n, ctx) })
	}
	return g.Wait()
}

// Close ends everything in the lab and removes its directory. It may be called
// more than once.
func (l *Lab) Close() error {
	l.mu.Lock()
	spaces := slices.Collect(maps.Values(l.spaces))
	clear(l.spaces)
	l.mu.Unlock()
	l.end(spaces...)
	l.running.Wait()
	err := removeCgroup(context.Background(), l.record.Cgroup)
	if e := os.RemoveAll(l.opts.Dir); e != nil {
		err = errors.Join(err, fmt.Errorf("removing the lab's directory: %w", e))
	}
	return err
}

// end ends hosts, and what runs on them.
func (l *Lab) end(spaces ...*space) {
	for _, s := range spaces {
		s.kill()
	}
	// A first process does not end before the others of its PID namespace
	// are reaped, also those whose parent is an nsenter that was stopped.
	l.mu.Lock()
	for _, p := range l.processes {
		p.wake()
	}
	l.mu.Unlock()
	for _, s := range spaces {
		s.wait()
	}
}

// Detach leaves the lab running when this process ends; Down ends it. The lab
// must not be used afterwards.
func (l *Lab) Detach() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.record.Owner = identity{}
	if err := l.record.write(l.opts.Dir); err != nil {
		return err
	}
	var errs []error
	for _, s := range l.spaces {
		errs = append(errs, s.detach())
	}
	return errors.Join(errs...)
}

// perFamily picks the families that the underlay has.
func (l *Lab) perFamily(addr func(f subnet.Family) netip.Prefix) (out subnet.PerFamily[netip.Prefix]) {
	for _, f := range l.opts.Underlay.Families() {
		out[f] = addr(f)
	}
	return out
}
