package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// Survival is what two pods noticed of an event that does not touch the data
// path.
type Survival struct {
	Daemon, Event string
	Sent, Lost    int     // echo requests, one every 10 ms in both directions
	Gap           float64 // ms, the longest time between two answers
	NewPeer       float64 // ms from the first write that etcd took again to the way to that peer; 0: not asked
}

// event is something that happens to daemons, or to etcd. It returns when the
// first new peer was in the store again, by the monotonic clock; else 0.
type event struct {
	name string
	do   func(*bench, context.Context, []*pair) (came int64, err error)
}

var events = []event{
	{"daemon restarted", func(b *bench, ctx context.Context, pairs []*pair) (int64, error) {
		return 0, eachRun(pairs, func(at *place, r *running) (*running, error) { return r.again(ctx, at, r.daemon) })
	}},
	{"daemon killed", func(b *bench, ctx context.Context, pairs []*pair) (int64, error) {
		return 0, eachRun(pairs, func(at *place, r *running) (*running, error) {
			if _, err := r.run(ctx, fmt.Sprintf("kill -9 %d", r.PID)); err != nil {
				return r, err
			}
			return r.again(ctx, at, r.daemon)
		})
	}},
	{"daemon upgraded", func(b *bench, ctx context.Context, pairs []*pair) (int64, error) {
		return 0, eachRun(pairs, func(at *place, r *running) (*running, error) {
			other := r.daemon
			other.args = slices.Clone(r.args)
			other.args[0] = "/run/upgraded"
			if _, err := r.run(ctx, "cp "+r.args[0]+" "+other.args[0]); err != nil {
				return r, err
			}
			return r.again(ctx, at, other)
		})
	}},
	{"etcd away", (*bench).etcdAway},
	{"etcd restored from an older snapshot", (*bench).etcdRestored},
}

// survival has pods talk while something happens that is none of theirs.
func (b *bench) survival(ctx context.Context) error {
	const peers = 100
	if err := b.loadPeers(ctx, peers); err != nil {
		return err
	}
	var pairs []*pair
	for _, c := range b.contenders {
		p, err := b.newPair(ctx, c)
		if err != nil {
			return err
		}
		if p.pods[0] == nil {
			continue // nobody would notice
		}
		if err := c.call(ctx, "Want", Expect{Peers: Peers{First: 1, Count: peers}}, &Nothing{}); err != nil {
			return err
		}
		if _, err := c.await(ctx, 30*time.Second); err != nil {
			return err
		}
		pairs = append(pairs, p)
	}
	for _, e := range events {
		b.step("survival: %s", e.name)
		if err := b.survive(ctx, pairs, e); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

// survive lets one event happen to all while their pods talk.
func (b *bench) survive(ctx context.Context, pairs []*pair, e event) error {
	flows := make([][]*netlab.Flow, len(pairs))
	for i, p := range pairs {
		for from, to := range []int{1, 0} {
			flow, err := p.pods[from].PingContinuously(ctx, p.pods[to].Addrs[subnet.IPv4], 10*time.Millisecond)
			if err != nil {
				return err
			}
			flows[i] = append(flows[i], flow)
		}
	}
	if err := awaitAll(ctx, flows, 20); err != nil {
		return err
	}
	came, err := e.do(b, ctx, pairs)
	if err != nil {
		return err
	}
	for i, p := range pairs {
		s := &Survival{Daemon: p.name, Event: e.name}
		if came > 0 {
			seen, err := p.places[0].await(ctx, 30*time.Second)
			if err != nil {
				return err
			}
			s.NewPeer = max(0, float64(seen.At-came)/1e6)
		}
		if err := awaitAll(ctx, flows[i:i+1], 50); err != nil {
			return err
		}
		for _, flow := range flows[i] {
			loss, err := flow.Stop()
			if err != nil {
				return err
			}
			s.Sent, s.Lost = s.Sent+loss.Sent, s.Lost+loss.Lost()
			s.Gap = max(s.Gap, float64(loss.LongestGap.Microseconds())/1000)
		}
		b.report.Survival = append(b.report.Survival, s)
	}
	return nil
}

func awaitAll(ctx context.Context, flows [][]*netlab.Flow, answers int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, flow := range slices.Concat(flows...) {
		if err := flow.Await(ctx, answers); err != nil {
			return err
		}
	}
	return nil
}

// eachRun replaces each daemon by what f makes of it.
func eachRun(pairs []*pair, f func(*place, *running) (*running, error)) (err error) {
	for _, p := range pairs {
		for i, at := range p.places {
			if p.runs[i], err = f(at, p.runs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// again ends the daemon, if it runs still, and starts one in its place.
func (r *running) again(ctx context.Context, at *place, d daemon) (*running, error) {
	if err := r.stop(ctx); err != nil {
		return r, err
	}
	next, err := at.start(ctx, d)
	if err != nil {
		return r, err
	}
	err = next.awaitReady(ctx, 30*time.Second)
	return next, err
}

// etcdAway kills etcd and starts it again much later. A peer comes as soon as
// etcd takes it.
func (b *bench) etcdAway(ctx context.Context, pairs []*pair) (came int64, err error) {
	away := time.Minute
	if b.opts.Quick {
		away = 5 * time.Second
	}
	if err := b.lab.Store.Kill(ctx); err != nil {
		return 0, err
	}
	pause(ctx, away)
	fresh := peers(b.loaded+1, 1, 0)[0]
	for _, p := range pairs {
		if err := p.places[0].call(ctx, "Want", Expect{Peers: Peers{First: fresh.number, Count: 1}}, &Nothing{}); err != nil {
			return 0, err
		}
	}
	if err := b.lab.Store.Restart(); err != nil {
		return 0, err
	}
	came, err = b.putSoon(ctx, fresh)
	b.loaded++
	return came, err
}

// etcdRestored gives etcd the data of an hour ago, as it were: the last peer is
// not in it.
func (b *bench) etcdRestored(ctx context.Context, _ []*pair) (came int64, err error) {
	snapshot, data := filepath.Join(b.dir, "older.db"), filepath.Join(b.dir, "store")
	if _, err := b.lab.Lan.Exec(ctx, "twill", "store", "backup", "--etcd-endpoints="+b.lab.EtcdEndpoints()[0], snapshot); err != nil {
		return 0, err
	}
	late := peers(b.loaded+1, 1, 0)[0]
	if _, err := b.putSoon(ctx, late); err != nil {
		return 0, err
	}
	if err := errors.Join(b.lab.Store.Kill(ctx), os.RemoveAll(data)); err != nil {
		return 0, err
	}
	if _, err := b.lab.Lan.Exec(ctx, "twill", "store", "restore", "--data-dir="+data, snapshot); err != nil {
		return 0, err
	}
	if err := b.lab.Store.Restart(); err != nil {
		return 0, err
	}
	_, err = b.putSoon(ctx, peers(b.loaded+2, 1, 0)[0]) // etcd serves
	pause(ctx, 2*time.Second)                           // what a daemon makes of it
	return 0, err
}

// putSoon writes a peer's lease as soon as etcd takes it, with a client that
// did not get used to its absence. It returns when that began.
func (b *bench) putSoon(ctx context.Context, p peer) (began int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		began = now()
		if err = b.putOnce(ctx, p); err == nil || ctx.Err() != nil {
			return began, err
		}
		pause(ctx, 20*time.Millisecond)
	}
}

func (b *bench) putOnce(ctx context.Context, p peer) error {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	c, err := clientv3.New(b.lab.EtcdConfig())
	if err != nil {
		return err
	}
	defer c.Close()
	return p.put(ctx, c, clientv3.NoLease)
}
