package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/overlay/pods/confdir"
	"github.com/twill-net/twill/subnet"
)

// PodLinks is what the CNI plugins made on this host, as the kernel shows it. One
// that is pods.Leftovers, too, has the sweep clear away rules, devices and
// cached results of pods that are gone.
type PodLinks interface {
	pods.Kernel
	// ApplyBridge makes changes of addresses on bridges, in their order.
	ApplyBridge(ctx context.Context, changes []backend.Change) []error
	SetBridgeMTU(ctx context.Context, name string, mtu int) error
}

// The time between two looks for addresses that are reserved for pods which
// are gone: what is younger than ten minutes stays anyhow. It is shorter where
// nobody could tell what is behind a veth: an ADD was under way, perhaps one
// that finds no address.
const (
	sweepInterval      = 5 * time.Minute
	sweepIntervalShort = 30 * time.Second
)

// ground is what tells the pods of this node from other containers. The
// reconciler knows the networks, the sweep the bridges.
type ground struct {
	mu sync.Mutex
	pods.Ground
	gateways []string // those of the bridges that have our gateway
}

func (g *ground) get() pods.Ground {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Ground
}

// setOverlay reports whether they are others than before.
func (g *ground) setOverlay(cfg subnet.Config) bool {
	var networks []netip.Prefix
	for _, n := range cfg.Networks {
		if n.Enabled() {
			networks = append(networks, n.Network)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	other := !slices.Equal(g.Overlay, networks)
	g.Overlay = networks
	return other
}

func (g *ground) setBridges(networks []pods.Network) {
	var bridges, gateways []string
	for _, n := range networks {
		if n.Bridge != "" {
			bridges = append(bridges, n.Bridge)
		}
		if n.Gateway {
			gateways = append(gateways, n.Bridge)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.Bridges, g.gateways = bridges, gateways
}

func (g *ground) withGateway() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gateways
}

// takePods notes the pods of this node, and reports whether others are there
// than before.
func (a *Agent) takePods(interfaces []backend.Interface) bool {
	now := pods.From(interfaces)
	if slices.Equal(now, a.state.pods) {
		return false
	}
	a.state.pods = now
	return true
}

// bridgeRetry is the time after which a change of a bridge that failed is tried
// again, unless the host's network changes before.
const bridgeRetry = 5 * time.Second

// syncBridges gives the pods' bridges the gateway of our subnet, and names the
// pods that are left in another one.
func (a *Agent) syncBridges(ctx context.Context, now time.Time, host backend.Host) {
	s := a.state
	if a.cfg.PodLinks == nil || s.held == nil {
		return
	}
	g := a.ground.get()
	node := pods.Node{Overlay: g.Overlay, Subnets: s.held.Lease.Subnets, Bridges: g.Bridges, Gateways: a.ground.withGateway(), Taken: a.inbox.taken}
	inv := pods.Inventory{Pods: s.pods}
	plan := pods.Bridges(host, inv, node)
	var errs []error
	lost := a.lostGateways(plan)
	if lost && a.bridgesWait(now, plan.Changes) {
		plan.Changes = nil
	}
	if len(plan.Changes) > 0 { // the pods without an alias count, too; they cost a look each
		var err error
		if inv, err = pods.Take(ctx, host.Interfaces, g, a.cfg.PodLinks.Behind); err != nil {
			errs = append(errs, err)
		} else {
			plan = pods.Bridges(host, inv, node)
			errs = append(errs, a.cfg.PodLinks.ApplyBridge(ctx, plan.Changes)...)
		}
	}
	for _, m := range plan.MTUs {
		errs = append(errs, a.cfg.PodLinks.SetBridgeMTU(ctx, m.Bridge, m.Want))
	}
	a.tellBridges(ctx, now, plan, lost, slices.DeleteFunc(errs, func(err error) bool { return err == nil }))
	a.showStranded(plan.Stranded)
}

// lostGateways reports whether all that the bridges lack is what they had.
func (a *Agent) lostGateways(plan pods.BridgePlan) bool {
	return a.state.bridged == a.state.held.Lease.Subnets &&
		!slices.ContainsFunc(plan.Changes, func(c backend.Change) bool { return c.Want == nil })
}

// bridgesWait reports whether it is not yet the turn of a change, as something
// keeps undoing it.
func (a *Agent) bridgesWait(now time.Time, changes []backend.Change) bool {
	for _, c := range changes {
		if at := a.state.pace.turn(c.Key(), now); at.After(now) {
			a.state.bridgeAt = at
			return true
		}
	}
	return false
}

func (a *Agent) tellBridges(ctx context.Context, now time.Time, plan pods.BridgePlan, lost bool, errs []error) {
	if ctx.Err() != nil {
		return
	}
	if len(errs) > 0 {
		if a.board.problem(partBridge, errs[0]) {
			a.cfg.Log.WithError(errs[0]).Warn("the pods' bridge could not be brought up to date, will retry")
		}
		a.state.bridgeAt = now.Add(bridgeRetry)
		return
	}
	a.board.problem(partBridge, nil)
	a.state.bridged = a.state.held.Lease.Subnets
	var repairs []repair
	for _, c := range plan.Changes {
		if lost {
			r := repair{c, a.state.pace.repaired(c.Key(), now)}
			a.board.repaired(now, r)
			repairs = append(repairs, r)
			continue
		}
		a.cfg.Log.WithField("change", c.String()).Info("bridge follows the subnet")
	}
	a.logRepairs(repairs)
	for _, m := range plan.MTUs {
		a.cfg.Log.WithFields(logrus.Fields{"interface": m.Bridge, "before": m.Have, "mtu": m.Want}).Info("bridge follows the MTU of its pods")
	}
}

// showStranded names the pods that have an address outside of our subnets:
// no peer finds a way to them.
func (a *Agent) showStranded(stranded []pods.Pod) {
	var names []string
	for _, p := range stranded {
		names = append(names, fmt.Sprintf("%s/%s %s", p.Container, p.IfName, strings.Join(addrs(p.Addresses), ",")))
	}
	if a.board.stranded(names) && len(names) > 0 {
		a.cfg.Log.WithField("pods", names).Warn("pods have addresses outside of this node's subnet and must be made anew: peers cannot reach them")
	}
}

// kept tells of the veths that keep reserved addresses from being released.
type kept struct {
	before []pods.Veth // of the last sweep
	named  []string
}

// maxNamed bounds what one line names.
const maxNamed = 5

// look names the veths that were there at the last sweep, too: most of the
// others belong to an ADD that is done a moment later.
func (k *kept) look(done pods.Swept) error {
	k.named = nil
	for _, v := range done.Unknown {
		if slices.Contains(k.before, v) {
			k.named = append(k.named, v.Name)
		}
	}
	k.before = done.Unknown
	if len(k.named) == 0 {
		return nil
	}
	reserved, veths := "1 reserved address looks stale and is kept", "veth %s: delete it if nothing uses it, or give its other end an address"
	if done.Kept > 1 {
		reserved = fmt.Sprintf("%d reserved addresses look stale and are kept", done.Kept)
	}
	if len(k.named) > 1 {
		veths = "veths %s: delete them if nothing uses them, or give their other ends addresses"
	}
	names := strings.Join(k.named[:min(maxNamed, len(k.named))], ", ")
	if more := len(k.named) - maxNamed; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Errorf(reserved+", as nobody can tell what is behind "+veths, names)
}

// sweep releases, from time to time, the addresses that host-local reserves
// for pods which are gone, and clears away what else is left of these.
func (a *Agent) sweep(ctx context.Context) error {
	var k kept
	sweeper := pods.Sweeper{Inventory: func(ctx context.Context) (pods.Inventory, error) {
		return pods.Read(ctx, a.cfg.PodLinks, a.ground.get())
	}}
	if l, ok := a.cfg.PodLinks.(pods.Leftovers); ok {
		sweeper.Leftovers, sweeper.Results = l, pods.DefaultResults
	}
	due := time.NewTimer(sweepInterval)
	defer due.Stop()
	for {
		next := sweepInterval
		if len(a.ground.get().Overlay) > 0 && a.sweepOnce(ctx, &sweeper, &k) { // else nobody knows which pods are ours
			next = sweepIntervalShort
		}
		due.Reset(next)
		select {
		case <-ctx.Done():
			return nil
		case <-due.C:
		case <-a.sweepNow:
		}
	}
}

// sweepOnce reports whether it is worth a look again soon.
func (a *Agent) sweepOnce(ctx context.Context, sweeper *pods.Sweeper, k *kept) (again bool) {
	networks, left, err := confdir.Networks(a.cfg.CNIConfDir)
	var stays error
	if err == nil {
		a.ground.setBridges(networks)
		var done pods.Swept
		done, err = sweeper.Sweep(ctx, networks)
		for _, r := range done.Released {
			a.cfg.Log.WithFields(logrus.Fields{"network": r.Network, "address": r.Address.String(), "container": r.Container}).Info("released the address of a pod that is gone")
		}
		for _, file := range done.Results {
			a.cfg.Log.WithField("file", filepath.Join(sweeper.Results, file)).Info("removed the cached result of a pod that is gone")
		}
		told := k.named
		stays, again = k.look(done), len(done.Unknown) > 0
		if stays != nil && !slices.Equal(told, k.named) {
			a.cfg.Log.WithFields(logrus.Fields{"interfaces": k.named, "reserved": done.Kept}).Warn("addresses of pods that seem gone stay reserved: nobody can tell what is behind these veths")
		}
		for _, l := range left {
			a.cfg.Log.WithField("reason", l).Debug("a network is not swept")
		}
	}
	if a.board.problem(partSweep, errors.Join(err, stays)) && err != nil && ctx.Err() == nil {
		a.cfg.Log.WithError(err).Warn("addresses of pods that are gone could not be released, will retry")
	}
	return again
}
