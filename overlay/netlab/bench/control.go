package bench

import (
	"context"
	"fmt"
	"time"
)

// Control is what the control path of one daemon took with one number of
// peers. Times are milliseconds, a value for each repetition.
type Control struct {
	Daemon string
	Peers  int

	Cold       []float64 // process start → all routes, neighbours and FDB entries
	FirstRoute []float64 // process start → first of them
	ColdCPU    []float64 // of the process until ready, ms
	Warm       []float64 // process start → the way to the one peer that came while it was stopped
	WarmWrites []float64 // notifications meanwhile, but for that peer's
	One        One       // see there
	BurstAdd   []float64 // 1 000 leases put at once, from the first put to the last route
	BurstMod   []float64 // 1 000 leases changed
	BurstDel   []float64 // 1 000 leases deleted
	LeakedFDB  []float64 // entries that lead nowhere after the bursts
	RSS        []float64 // MiB, 5 s after all of that
	RSSAnon    []float64 // MiB
}

// ControlLimit is what the machine can do, in the same run.
type ControlLimit struct {
	Peers   int
	List    []float64 // ms, one range read of etcd
	Apply   []float64 // ms, the same entries by backend/kernel's Apply
	Batched []float64 // ms, the same entries batched over one netlink socket
	Put     []float64 // ms, 1 000 leases put at once where no daemon watches
}

// burst is how many peers come, change and go at once.
const burst = 1000

// calm is how long a daemon is left alone before its memory is looked at.
const calm = 5 * time.Second

// rest is how long everything is left alone between two measurements.
const rest = 300 * time.Millisecond

func (b *bench) control(ctx context.Context) error {
	for _, size := range b.opts.Sizes {
		b.step("control path, %d peers", size.Peers)
		if err := b.loadPeers(ctx, size.Peers); err != nil {
			return err
		}
		limit := &ControlLimit{Peers: size.Peers}
		b.report.Limits = append(b.report.Limits, limit)
		results := make([]*Control, len(b.contenders))
		for i, c := range b.contenders {
			results[i] = &Control{Daemon: c.name, Peers: size.Peers}
			b.report.Control = append(b.report.Control, results[i])
		}
		for rep := range size.Reps {
			if err := b.controlLimit(ctx, limit); err != nil {
				return err
			}
			for i, c := range b.contenders {
				if size.Peers >= 1000 && rep > 0 && c.writes {
					continue // up to half a minute each
				}
				if err := b.controlOnce(ctx, c, results[i], size); err != nil {
					return fmt.Errorf("%s with %d peers: %w", c.name, size.Peers, err)
				}
			}
		}
	}
	return nil
}

// loadPeers brings the store to so many peers.
func (b *bench) loadPeers(ctx context.Context, count int) error {
	p := b.contenders[0].place
	more := Peers{First: b.loaded + 1, Count: count - b.loaded}
	if err := p.call(ctx, "Announce", more, &Wrote{}); err != nil {
		return err
	}
	b.loaded = count
	return nil
}

func (b *bench) controlLimit(ctx context.Context, l *ControlLimit) error {
	p := b.contenders[0].place
	pause(ctx, rest)
	var list float64
	var write Limit
	if err := p.call(ctx, "List", Nothing{}, &list); err != nil {
		return err
	}
	if err := p.call(ctx, "Limit", LimitArgs{l.Peers, b.opts.Batcher}, &write); err != nil {
		return err
	}
	var wrote Wrote
	if err := p.call(ctx, "Burst", BurstArgs{Expect{Peers: Peers{1, burst, 0}}, true}, &wrote); err != nil {
		return err
	}
	l.Put = append(l.Put, float64(wrote.To-wrote.From)/1e6)
	l.List, l.Apply = append(l.List, list), append(l.Apply, write.Apply)
	if write.Batched > 0 {
		l.Batched = append(l.Batched, write.Batched)
	}
	return nil
}

// contender is a daemon at its place.
type contender struct {
	daemon
	*place
	endpoints []string
}

func (c contender) watch(ctx context.Context) error {
	return c.call(ctx, "Watch", WatchArgs{c.links, c.protocol, c.endpoints}, &Nothing{})
}

// startLimit is how long a start may take until it has failed.
func startLimit(peers int) time.Duration {
	return 20*time.Second + time.Duration(peers)*4*time.Millisecond
}

// controlOnce takes the daemon through one life.
func (b *bench) controlOnce(ctx context.Context, c contender, r *Control, size Size) (err error) {
	all := Peers{First: 1, Count: size.Peers}
	limit := startLimit(size.Peers)
	if err := c.watch(ctx); err != nil {
		return err
	}
	pause(ctx, rest)

	if err := c.call(ctx, "Want", Expect{Peers: all}, &Nothing{}); err != nil {
		return err
	}
	d, err := c.start(ctx, c.daemon)
	if err != nil {
		return err
	}
	defer func() {
		if d != nil {
			_ = d.stop(ctx)
		}
		_, cleanErr := c.run(ctx, c.clean)
		if err == nil {
			err = cleanErr
		}
	}()
	seen, err := c.await(ctx, limit)
	if err != nil {
		return err
	}
	r.Cold = append(r.Cold, float64(seen.At-d.At)/1e6)
	r.FirstRoute = append(r.FirstRoute, float64(seen.FirstRoute-d.At)/1e6)
	if err := d.awaitReady(ctx, limit); err != nil {
		return err
	}
	used, err := d.usage(ctx)
	if err != nil {
		return err
	}
	r.ColdCPU = append(r.ColdCPU, used.CPU*1000)
	pause(ctx, rest)

	if d, err = b.warm(ctx, c, d, r, size, limit); err != nil {
		return err
	}
	if err := b.changes(ctx, c, r, size); err != nil {
		return err
	}
	return r.memory(ctx, d)
}

// warm stops and starts the daemon; one peer comes meanwhile, whose way says
// that everything was compared.
func (b *bench) warm(ctx context.Context, c contender, d *running, r *Control, size Size, limit time.Duration) (*running, error) {
	if err := d.stop(ctx); err != nil {
		return nil, err
	}
	extra := Peers{First: size.Peers + 1, Count: 1}
	if err := c.call(ctx, "Announce", extra, &Wrote{}); err != nil {
		return nil, err
	}
	if err := c.call(ctx, "Want", Expect{Peers: extra}, &Nothing{}); err != nil {
		return nil, err
	}
	pause(ctx, rest)
	d, err := c.start(ctx, c.daemon)
	if err != nil {
		return nil, err
	}
	seen, err := c.await(ctx, limit)
	if err != nil {
		return d, err
	}
	r.Warm = append(r.Warm, float64(seen.At-d.At)/1e6)
	if err := d.awaitReady(ctx, limit); err != nil {
		return d, err
	}
	pause(ctx, rest)
	if seen, err = c.await(ctx, time.Second); err != nil {
		return d, err
	}
	writes := -3 // the way to that one peer
	for _, n := range seen.Events {
		writes += n
	}
	r.WarmWrites = append(r.WarmWrites, float64(writes))
	if err := c.call(ctx, "Withdraw", extra, &Wrote{}); err != nil {
		return d, err
	}
	pause(ctx, rest)
	return d, nil
}

// changes has single peers come, change and go, and then many at once.
func (b *bench) changes(ctx context.Context, c contender, r *Control, size Size) error {
	var one One
	args := OneArgs{Peer: size.Peers + 2, Rounds: size.Rounds, Gap: 25 * time.Millisecond}
	if err := c.call(ctx, "OnePeer", args, &one); err != nil {
		return err
	}
	r.One.add(one)
	many := Peers{First: size.Peers + 200, Count: burst}
	changed := many
	changed.Version = 1
	for _, step := range []struct {
		to     *[]float64
		expect Expect
	}{
		{&r.BurstAdd, Expect{Peers: many}},
		{&r.BurstMod, Expect{Peers: changed}},
		{&r.BurstDel, Expect{Peers: changed, Gone: true}},
	} {
		pause(ctx, rest)
		if err := c.call(ctx, "Want", step.expect, &Nothing{}); err != nil {
			return err
		}
		var wrote Wrote
		if err := c.call(ctx, "Burst", BurstArgs{Expect: step.expect}, &wrote); err != nil {
			return err
		}
		seen, err := c.await(ctx, time.Minute)
		if err != nil {
			return err
		}
		*step.to = append(*step.to, float64(seen.At-wrote.From)/1e6)
		if step.expect.Gone {
			r.LeakedFDB = append(r.LeakedFDB, float64(seen.LeakedFDB))
		}
	}
	return nil
}

// memory is what the daemon holds once all of that is done with.
func (r *Control) memory(ctx context.Context, d *running) error {
	pause(ctx, calm)
	used, err := d.usage(ctx)
	r.RSS, r.RSSAnon = append(r.RSS, used.RSS), append(r.RSSAnon, used.RSSAnon)
	return err
}

func (o *One) add(more One) {
	o.Ack, o.Event = append(o.Ack, more.Ack...), append(o.Event, more.Event...)
	o.Add, o.Change, o.Delete = append(o.Add, more.Add...), append(o.Change, more.Change...), append(o.Delete, more.Delete...)
}
