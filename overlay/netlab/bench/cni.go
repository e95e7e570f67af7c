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

// Attach is what the calls of a CNI plugin cost.
type Attach struct {
	Plugin   string
	Parallel int // at a time
	Add, Del Calls
}

// Calls are those of one verb, in an order that is the same for all plugins.
type Calls struct {
	Wall []float64 // ms
	CPU  []float64 // ms, user and system, of the plugin and all that it ran
	Each []float64 // ms of a round, by the number of its calls
}

func (c *Calls) append(more Calls) {
	c.Wall, c.CPU, c.Each = append(c.Wall, more.Wall...), append(c.CPU, more.CPU...), append(c.Each, more.Each...)
}

// CNIArgs asks for pods to come and go, in namespaces that are there.
type CNIArgs struct {
	Conf     string // of one plugin
	Pods     []string
	Parallel int
}

// CNI adds pods by a plugin and deletes them again.
func (p *probe) CNI(a CNIArgs, r *Attach) error {
	results := make([][]byte, len(a.Pods))
	each := func(verb string, c *Calls) error {
		c.Wall, c.CPU = make([]float64, len(a.Pods)), make([]float64, len(a.Pods))
		var g errgroup.Group
		g.SetLimit(a.Parallel)
		from := now()
		for i, name := range a.Pods {
			g.Go(func() (err error) {
				from := now()
				results[i], c.CPU[i], err = p.plugin(verb, a.Conf, name, results[i])
				c.Wall[i] = since(from)
				return err
			})
		}
		err := g.Wait()
		c.Each = []float64{since(from) / float64(len(a.Pods))}
		return err
	}
	err := each("ADD", &r.Add)
	return errors.Join(err, each("DEL", &r.Del))
}

// plugin runs one verb as a container runtime does, and returns the result and
// its CPU time, ms.
func (p *probe) plugin(verb, conf, name string, prev []byte) ([]byte, float64, error) {
	var c map[string]any
	if err := json.Unmarshal([]byte(conf), &c); err != nil {
		return nil, 0, err
	}
	if prev != nil {
		c["prevResult"] = json.RawMessage(prev)
	}
	stdin, err := json.Marshal(c)
	if err != nil {
		return nil, 0, err
	}
	cmd := exec.CommandContext(p.ctx, fmt.Sprintf("/opt/cni/bin/%s", c["type"]))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+name, "CNI_NETNS=/run/netns/"+name, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin")
	cmd.Stdin = strings.NewReader(string(stdin))
	out, err := cmd.Output()
	if err != nil {
		return nil, 0, fmt.Errorf("%s of %s by %s: %w: %s", verb, name, c["type"], err, out)
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return out, cpu.Seconds() * 1000, nil
}

const (
	// cniRounds is how often each measurement is made.
	cniRounds = 3
	// direct is the plugin without us.
	direct = "bridge + host-local"
)

// contestant is a plugin on its node.
type contestant struct {
	conf string
	at   *place
	pods []string
	// One at a time, and eight.
	single, many *Attach
}

func (b *bench) cni(ctx context.Context) (err error) {
	all, err := b.contestants(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		if err := c.namespaces(ctx, "add"); err != nil {
			return err
		}
	}
	b.step("CNI, one at a time")
	for i := range cniRounds * b.opts.Pods { // pod by pod, so that all see the same machine
		for k := range all {
			c := all[(i+k)%len(all)]
			if err := c.measure(ctx, c.single, c.pods[i%len(c.pods):][:1]); err != nil {
				return err
			}
		}
	}
	for i := range cniRounds {
		b.step("CNI, eight at a time, %d of %d", i+1, cniRounds)
		for k := range all {
			c := all[(i+k)%len(all)]
			if err := c.measure(ctx, c.many, c.pods); err != nil {
				return err
			}
		}
	}
	for _, c := range all {
		err = errors.Join(err, c.namespaces(ctx, "del"))
	}
	return err
}

// contestants returns each daemon's plugin, and what it delegates to, called
// directly on a node without a daemon.
func (b *bench) contestants(ctx context.Context) (all []contestant, err error) {
	pods := make([]string, b.opts.Pods)
	for i := range pods {
		pods[i] = fmt.Sprintf("cni%03d", i)
	}
	add := func(name, conf string, at *place) {
		c := contestant{conf, at, pods, &Attach{Plugin: name, Parallel: 1}, &Attach{Plugin: name, Parallel: 8}}
		all = append(all, c)
		b.report.CNI = append(b.report.CNI, c.single, c.many)
	}
	var ours *pair
	for _, c := range b.contenders {
		p, err := b.newPair(ctx, c)
		if err != nil {
			return nil, err
		}
		if p.pods[0] != nil {
			add(c.name, c.conf, p.places[0])
		}
		if ours == nil {
			ours = p
		}
	}
	hand, err := b.byHand(ctx, ours)
	if err != nil {
		return nil, err
	}
	add(direct, bridgeConf("10.208.0", "1450"), hand.places[0])
	return all, nil
}

// namespaces adds or deletes those of the pods.
func (c contestant) namespaces(ctx context.Context, verb string) error {
	_, err := c.at.run(ctx, "for n in "+strings.Join(c.pods, " ")+"; do ip netns "+verb+" $n || exit 1; done")
	return err
}

func (c contestant) measure(ctx context.Context, to *Attach, pods []string) error {
	var once Attach
	if err := c.at.call(ctx, "CNI", CNIArgs{c.conf, pods, to.Parallel}, &once); err != nil {
		return err
	}
	to.Add.append(once.Add)
	to.Del.append(once.Del)
	return nil
}
