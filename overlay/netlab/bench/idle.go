package bench

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
)

// Idle is what a daemon takes when nothing has happened for longer than it is
// from one look at everything to the next.
type Idle struct {
	Daemon   string
	Peers    int
	Seconds  float64 // that it was left alone
	CPU      float64 // percent of a core, its children included
	Looks    float64 // percent of a core: what of CPU went in the same busiest lookTime of each half minute
	Wakeups  float64 // voluntary context switches of its threads, a second
	RSSAnon  float64 // MiB
	Children int     // child processes, then
}

// idlePeers are the numbers of peers with which a daemon is left alone.
var idlePeers = []int{100, 20000}

const (
	// Twill looks at everything every half minute, however long ago the last
	// change was: two looks are in idleTime, no matter when it begins.
	lookEvery = 30 * time.Second
	idleTime  = 2 * lookEvery
	// What a look takes, and what gives its memory back two seconds later.
	lookTime = 4 * time.Second
)

// idle leaves daemons alone, with few peers and with many in a lab each. Not at
// the same time: the kernel has one neighbour table for all namespaces, and a
// dump walks through the others' entries.
func (b *bench) idle(ctx context.Context) error {
	for i, peers := range idlePeers {
		if err := b.inLab(ctx, func(b *bench, ctx context.Context) error {
			if i > 0 { // a peer daemon has not started before the time is up
				b.contenders = b.contenders[:1]
			}
			return b.leave(ctx, peers)
		}); err != nil {
			return err
		}
	}
	return nil
}

// leave starts the daemons and leaves them alone.
func (b *bench) leave(ctx context.Context, peers int) error {
	b.step("idle, %d peers", peers)
	if err := b.loadPeers(ctx, peers); err != nil {
		return err
	}
	runs := make([]*running, len(b.contenders))
	err := b.eachContender(func(i int, c contender) (err error) {
		if err := c.call(ctx, "Want", Expect{Peers: Peers{First: 1, Count: peers}}, &Nothing{}); err != nil {
			return err
		}
		if runs[i], err = c.start(ctx, c.daemon); err != nil {
			return err
		}
		limit := startLimit(peers)
		if _, err := c.await(ctx, limit); err != nil {
			return err
		}
		return runs[i].awaitReady(ctx, limit)
	})
	if err != nil {
		return err
	}
	pause(ctx, lookEvery+lookTime)
	results := make([]*Idle, len(runs))
	err = b.eachContender(func(i int, c contender) (err error) {
		results[i], err = runs[i].leave(ctx, peers)
		return err
	})
	if err == nil {
		b.report.Idle = append(b.report.Idle, results...)
	}
	return err
}

// eachContender does something with all at the same time.
func (b *bench) eachContender(do func(int, contender) error) error {
	var g errgroup.Group
	for i, c := range b.contenders {
		g.Go(func() error { return do(i, c) })
	}
	return g.Wait()
}

func (r *running) leave(ctx context.Context, peers int) (*Idle, error) {
	before, err := r.usage(ctx)
	if err != nil {
		return nil, err
	}
	var left Left
	if err := r.call(ctx, "Leave", LeaveArgs{r.PID, idleTime}, &left); err != nil {
		return nil, err
	}
	after, err := r.usage(ctx)
	if err != nil {
		return nil, err
	}
	seconds := float64(len(left.CPU))
	return &Idle{
		Daemon: r.name, Peers: peers, Seconds: seconds,
		CPU: 100 * (after.CPU - before.CPU) / seconds, Looks: busiest(left.CPU) / 10 / seconds,
		Wakeups: float64(left.Wakeups) / seconds, RSSAnon: after.RSSAnon, Children: after.Children,
	}, nil
}

// busiest returns the most that the same seconds of each half minute have
// together, lookTime long, of a value for each second.
func busiest(values []float64) (most float64) {
	const every, long = int(lookEvery / time.Second), int(lookTime / time.Second)
	for first := range every {
		sum := 0.0
		for i, v := range values {
			if (i-first+every)%every < long {
				sum += v
			}
		}
		most = max(most, sum)
	}
	return most
}

func (i *Idle) bars() []bar {
	at := fmt.Sprintf(", %d peers", i.Peers)
	all := []bar{{"child processes, idle" + at, float64(i.Children), 0}}
	if i.Peers == idlePeers[0] {
		all = append(all, bar{"idle CPU, % of a core" + at, i.CPU, 0.05})
	}
	return all
}

func (r *Report) idleTable(w io.Writer) {
	if len(r.Idle) == 0 {
		return
	}
	fmt.Fprintf(w, "## Idle\n\nCPU of a daemon over %.0f s in which nothing happens, by its CPU clock, from more than half a minute after the last change on: two of Twill's looks at everything are in it, "+
		"one every 30 s, which read back from the kernel what nobody announces. \"In looks\" is what went in the same busiest %.0f s of each half minute: "+
		"the look, and the memory it took given back two seconds later. It grows with the peers (three entries each are read and compared), the rest does not: with 20 000, by a profile, reading the entries is 40 %% of a look (half of that the kernel's dumps), "+
		"comparing 15 %%, the garbage of both 25 %%, and a seventh goes into faulting in memory that was given back after the look before. "+
		"Wake-ups are voluntary context switches.\n\n", idleTime.Seconds(), lookTime.Seconds())
	t := table{head: []string{"daemon", "peers", "% of a core", "in looks", "the rest", "ms a look", "wake-ups a second", "anon MiB", "child processes"}}
	for _, i := range r.Idle {
		look := "–"
		if i.Daemon != peerName { // who does not look has no share of it
			look = fmt.Sprintf("%.1f", i.Looks/100*lookEvery.Seconds()*1000)
		}
		t.add(i.Daemon, fmt.Sprint(i.Peers), fmt.Sprintf("%.3f", i.CPU), fmt.Sprintf("%.3f", i.Looks), fmt.Sprintf("%.3f", i.CPU-i.Looks), look,
			fmt.Sprintf("%.1f", i.Wakeups), fmt.Sprintf("%.1f", i.RSSAnon), fmt.Sprint(i.Children))
	}
	t.write(w)
}
