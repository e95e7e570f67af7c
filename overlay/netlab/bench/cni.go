package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Attach is how long a CNI plugin took, ms, for each pod.
type Attach struct {
	Plugin   string
	Parallel int // at a time
	Add, Del []float64
	Rate     []float64 // ADD and DEL per second, of each round
}

// CNIArgs asks for pods to come and go.
type CNIArgs struct {
	Conf     string // of one plugin
	Count    int
	Parallel int
}

// CNI adds pods by a plugin and deletes them again, in namespaces of its own.
func (p *probe) CNI(a CNIArgs, r *Attach) error {
	names := make([]string, a.Count)
	for i := range names {
		names[i] = fmt.Sprintf("cni%03d", i)
	}
	script := func(what string) string {
		return "for n in " + strings.Join(names, " ") + "; do ip netns " + what + " $n || exit 1; done"
	}
	if err := p.Run(script("add"), new(string)); err != nil {
		return err
	}
	r.Add, r.Del = make([]float64, a.Count), make([]float64, a.Count)
	results := make([][]byte, a.Count)
	each := func(verb string, took []float64) error {
		var g errgroup.Group
		g.SetLimit(a.Parallel)
		for i, name := range names {
			g.Go(func() (err error) {
				from := now()
				results[i], err = p.plugin(verb, a.Conf, name, results[i])
				took[i] = since(from)
				return err
			})
		}
		return g.Wait()
	}
	from := now()
	err := each("ADD", r.Add)
	err = errors.Join(err, each("DEL", r.Del))
	r.Rate = []float64{float64(2*a.Count) / (since(from) / 1000)}
	return errors.Join(err, p.Run(script("del"), new(string)))
}

// plugin runs one verb as a container runtime does.
func (p *probe) plugin(verb, conf, name string, prev []byte) ([]byte, error) {
	var c map[string]any
	if err := json.Unmarshal([]byte(conf), &c); err != nil {
		return nil, err
	}
	if prev != nil {
		c["prevResult"] = json.RawMessage(prev)
	}
	stdin, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(p.ctx, fmt.Sprintf("/opt/cni/bin/%s", c["type"]))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+name, "CNI_NETNS=/run/netns/"+name, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin")
	cmd.Stdin = strings.NewReader(string(stdin))
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s of %s by %s: %w: %s", verb, name, c["type"], err, out)
	}
	return out, nil
}

// cniRounds is how often each measurement is made.
const cniRounds = 3

func (b *bench) cni(ctx context.Context) error {
	type plugin struct {
		name, conf string
		at         *place
	}
	var plugins []plugin
	var ours *pair
	for _, c := range b.contenders {
		p, err := b.newPair(ctx, c)
		if err != nil {
			return err
		}
		if p.pods[0] != nil {
			plugins = append(plugins, plugin{c.name, c.conf, p.places[0]})
		}
		if ours == nil {
			ours = p
		}
	}
	hand, err := b.byHand(ctx, ours)
	if err != nil {
		return err
	}
	plugins = append(plugins, plugin{"bridge + host-local", bridgeConf("10.208.0", "1450"), hand.places[0]})
	results := map[string]*Attach{}
	for round := range cniRounds {
		b.step("CNI, %d of %d", round+1, cniRounds)
		for _, parallel := range []int{1, 8} {
			for _, p := range plugins {
				r := results[fmt.Sprint(p.name, parallel)]
				if r == nil {
					r = &Attach{Plugin: p.name, Parallel: parallel}
					results[fmt.Sprint(p.name, parallel)] = r
					b.report.CNI = append(b.report.CNI, r)
				}
				var once Attach
				if err := p.at.call(ctx, "CNI", CNIArgs{p.conf, b.opts.Pods, parallel}, &once); err != nil {
					return err
				}
				r.Add, r.Del, r.Rate = append(r.Add, once.Add...), append(r.Del, once.Del...), append(r.Rate, once.Rate...)
			}
		}
	}
	return nil
}
