package bench

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/twill-net/twill/subnet"
)

// Path is one metric of one data path: pod to pod between two nodes, unless it
// is the host's. Ratios are to the host's own path, node to node without pods,
// which was measured immediately before. All targets' are of the same rounds.
type Path struct {
	Target, Test, Unit, Better string
	Bar                        bool `json:",omitempty"` // it is held against what is promised
	Value                      []float64
	Ratio                      []float64 // empty for the host
	Errors                     int
}

// slice is how long one measurement takes. Many short ones in turn are better than
// few long ones: what else goes on, on this machine or beside it, lasts for seconds.
const slice = 50 * time.Millisecond

// repsTold is after how many rounds of all tests it is said how far it is.
const repsTold = 8

// The targets that are not daemons of contenders.
const (
	hostTarget   = "host"
	handTarget   = "hand-made"
	nakedTarget  = "twill without hygiene"
	nakedFirst   = 7 // node
	reachTimeout = 10 * time.Second
)

// target is a data path to measure.
type target struct {
	name string
	*pair
	wire wire
}

func podTarget(name string, p *pair) target {
	return target{name, p, wire{p.netns(true), p.pods[1].Addrs[subnet.IPv4]}}
}

func (b *bench) datapath(ctx context.Context) error {
	targets, err := b.targets(ctx)
	if err != nil {
		return err
	}
	results := b.paths(targets)
	for _, t := range targets[1:] {
		if err := t.signal(ctx, syscall.SIGSTOP); err != nil {
			return err
		}
	}
	for rep := range b.opts.Reps {
		if rep%repsTold == 0 {
			b.step("data path, %d of %d", rep+1, b.opts.Reps)
		}
		for _, t := range tests {
			if err := b.round(ctx, t, targets, results); err != nil {
				return err
			}
		}
		slices.Reverse(targets[1:]) // what drifts meanwhile favours nobody
	}
	return nil
}

// paths returns the results by target and metric, in the order of the tests.
func (b *bench) paths(targets []target) map[string]*Path {
	results := map[string]*Path{}
	for _, t := range tests {
		for _, m := range t.metrics {
			for _, target := range targets {
				r := &Path{Target: target.name, Test: m.name, Unit: m.unit, Better: m.better, Bar: m.bar}
				results[m.name+target.name] = r
				b.report.Paths = append(b.report.Paths, r)
			}
		}
	}
	return results
}

// round measures all targets once by a test, the host immediately before each.
// If one fails, by a lost datagram say, the round counts for none: the targets
// are compared by rounds.
func (b *bench) round(ctx context.Context, t test, targets []target, results map[string]*Path) error {
	host := targets[0]
	references, values := make([][]float64, len(targets)), make([][]float64, len(targets))
	whole := true
	for i, target := range targets[1:] {
		if err := target.signal(ctx, syscall.SIGCONT); err != nil {
			return err
		}
		var err error
		if references[i+1], err = onCPU0(func() ([]float64, error) { return t.run(host.wire, slice) }); err != nil {
			return fmt.Errorf("%s from host to host: %w", t.metrics[0].name, err)
		}
		if values[i+1], err = onCPU0(func() ([]float64, error) { return t.run(target.wire, slice) }); err != nil {
			b.step("%s by %s: %v", t.metrics[0].name, target.name, err)
			results[t.metrics[0].name+target.name].Errors++
			whole = false
		}
		if err := target.signal(ctx, syscall.SIGSTOP); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if !whole {
		return nil
	}
	for k, m := range t.metrics {
		for i, target := range targets[1:] {
			r, h := results[m.name+target.name], results[m.name+host.name]
			value, reference := values[i+1][k], references[i+1][k]
			r.Value, r.Ratio, h.Value = append(r.Value, value), append(r.Ratio, value/reference), append(h.Value, reference)
		}
	}
	return nil
}

// targets sets up the data paths, the host's first.
func (b *bench) targets(ctx context.Context) ([]target, error) {
	var targets []target
	for _, c := range b.contenders {
		p, err := b.newPair(ctx, c)
		if err != nil {
			return nil, err
		}
		if p.pods[0] != nil {
			targets = append(targets, podTarget(c.name, p))
		}
	}
	ours := targets[0].pair
	hand, err := b.byHand(ctx, ours)
	if err == nil {
		err = hand.guard(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("making a VXLAN by hand: %w", err)
	}
	d := twill(b.opts.Binaries, b.lab.EtcdEndpoints())
	d.name, d.args = nakedTarget, append(d.args, "--vtep-hygiene=false")
	naked, err := b.pairOn(ctx, d, nakedFirst, nil)
	if err != nil {
		return nil, err
	}
	targets = append(targets, podTarget(handTarget, hand), podTarget(nakedTarget, naked))
	for _, t := range targets {
		if err := t.reach(ctx); err != nil {
			return nil, err
		}
	}
	host := target{hostTarget, &pair{}, wire{ours.netns(false), ours.places[1].Addrs[subnet.IPv4]}}
	return append([]target{host}, targets...), nil
}

// reach waits until one pod reaches the other.
func (t target) reach(ctx context.Context) error {
	for deadline := time.Now().Add(reachTimeout); ; {
		_, err := t.pods[0].Ping(ctx, t.wire.server, 0)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
	}
}
