package netlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Deploy starts a daemon on every node, waits until all are ready and know each
// other, and adds pods to each. The pods are in the order of the nodes.
func (l *Lab) Deploy(ctx context.Context, podsPerNode int) (pods []*Pod, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(len(l.Nodes))*time.Second)
	defer cancel()
	daemons := make([]*Process, len(l.Nodes))
	err = l.eachNode(ctx, func(n *Node, ctx context.Context) (err error) {
		if daemons[n.number-1], err = n.StartTwilld(); err != nil {
			return err
		}
		return n.WaitReady(ctx, daemons[n.number-1])
	})
	if err != nil {
		return nil, err
	}
	err = l.eachNode(ctx, func(n *Node, ctx context.Context) error {
		return n.WaitPeers(ctx, daemons[n.number-1], len(l.Nodes)-1)
	})
	if err != nil {
		return nil, err
	}
	l.step("twilld: ready on %d nodes, each of which knows all others", len(l.Nodes))
	pods = make([]*Pod, len(l.Nodes)*podsPerNode)
	err = l.eachNode(ctx, func(n *Node, ctx context.Context) error {
		var g errgroup.Group
		for i := range podsPerNode {
			g.Go(func() (err error) {
				pods[(n.number-1)*podsPerNode+i], err = n.AddPod(ctx, fmt.Sprintf("pod%d", i+1))
				return err
			})
		}
		return g.Wait()
	})
	if err != nil {
		return nil, err
	}
	l.step("pods: %d, wired by CNI ADD", len(pods))
	return pods, nil
}

// ErrIsUp is the error of Up for a lab that runs already.
var ErrIsUp = errors.New("the lab is up")

// Up makes a lab with daemons and pods that outlives this process. Options.Dir
// is where Command and Down find it again; what a dead lab has left there is
// removed.
func Up(ctx context.Context, o Options, podsPerNode int) error {
	if err := CheckFree(o.Dir); err != nil {
		return err
	}
	l, err := New(ctx, o)
	if err == nil {
		if _, err = l.Deploy(ctx, podsPerNode); err == nil {
			err = l.Detach()
		}
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

var errInterrupted = errors.New("interrupted; the lab is taken down")

// CheckFree makes sure that no lab runs in dir and clears away a dead one.
func CheckFree(dir string) error {
	r, err := readRecord(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case r.Owner.PID != 0 && r.Owner.alive():
		return fmt.Errorf("process %d is bringing the lab up: wait for it", r.Owner.PID)
	case r.alive():
		return ErrIsUp
	}
	if err := removeCgroup(context.Background(), r.Cgroup); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Command returns the command line that runs args at a place of the lab in
// dir, and its environment. With args empty it is a shell.
func Command(dir, place string, args []string, b Binaries) (argv, env []string, err error) {
	r, err := readLab(dir)
	if err != nil {
		return nil, nil, err
	}
	node, pod, isPod := strings.Cut(place, "/")
	id, known := r.Hosts[node]
	netns := ""
	if isPod {
		known = known && slices.ContainsFunc(r.Pods, func(p podRecord) bool { return p.Name == place })
		netns = "/run/netns/" + pod
	}
	if !known {
		return nil, nil, fmt.Errorf("%q is not in the lab: it has %s", place, strings.Join(r.places(), ", "))
	}
	if err := alive(node, id); err != nil {
		return nil, nil, err
	}
	if len(args) == 0 {
		args = []string{"/bin/sh"}
	}
	// What is typed in the lab finds the lab's etcd.
	return enter(id.PID, netns, args), append(environ(b), "TWILLD_ETCD_ENDPOINTS="+strings.Join(r.Etcd, ",")), nil
}

// OutsideNetwork returns the command line that runs args on this machine, with
// its files, but with the network of the lab's host outside.
func OutsideNetwork(dir string, args []string) (argv []string, err error) {
	r, err := readLab(dir)
	if err != nil {
		return nil, err
	}
	id := r.Hosts[outsideName]
	if err := alive(outsideName, id); err != nil {
		return nil, err
	}
	return append([]string{"nsenter", "-t", strconv.Itoa(id.PID), "--net", "--"}, args...), nil
}

// readLab reads the record of a lab that is up.
func readLab(dir string) (record, error) {
	r, err := readRecord(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return r, errors.New("no lab is up: start one with `twill lab up`")
	}
	return r, err
}

func alive(host string, id identity) error {
	if !id.alive() {
		return fmt.Errorf("%s is dead: its first process has ended; `twill lab down` and `twill lab up` start afresh", host)
	}
	return nil
}

// places lists where commands can run.
func (r *record) places() []string {
	var all []string
	for name := range r.Hosts {
		all = append(all, name)
	}
	for _, p := range r.Pods {
		all = append(all, p.Name)
	}
	slices.Sort(all)
	return all
}

// Down ends the lab in dir, whoever has started it, and removes the directory.
// It reports whether there was a lab.
func Down(ctx context.Context, dir string) (was bool, err error) {
	r, err := readRecord(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ids := []identity{r.Owner}
	for _, id := range r.Hosts {
		ids = append(ids, id)
	}
	var g errgroup.Group
	for _, id := range ids {
		g.Go(func() error { return id.kill(ctx) })
	}
	if err := g.Wait(); err != nil {
		return true, err
	}
	if err := removeCgroup(ctx, r.Cgroup); err != nil {
		return true, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return true, err
	}
	// The directory of all labs goes with the last one; not /var/tmp.
	if above := filepath.Dir(dir); strings.Contains(filepath.Base(above), "twill") {
		_ = os.Remove(above)
	}
	return true, nil
}
