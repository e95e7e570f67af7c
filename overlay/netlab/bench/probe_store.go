package bench

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Wrote is when writing to etcd began and ended.
type Wrote struct{ From, To int64 }

// Announce writes the leases of peers.
func (p *probe) Announce(peers Peers, w *Wrote) (err error) {
	w.From = now()
	err = announce(p.ctx, p.etcd, peers.all())
	w.To = now()
	return err
}

// Withdraw deletes the leases of peers.
func (p *probe) Withdraw(peers Peers, w *Wrote) (err error) {
	w.From = now()
	err = withdraw(p.ctx, p.etcd, peers.all())
	w.To = now()
	return err
}

// BurstArgs asks for many changes at once.
type BurstArgs struct {
	Expect
	Unwatched bool // below a prefix that no daemon watches: the limit
}

// Burst writes or deletes the leases of peers in as few requests as can be.
func (p *probe) Burst(a BurstArgs, w *Wrote) error {
	granted, err := p.etcd.Grant(p.ctx, leaseTTL)
	if err != nil {
		return err
	}
	prefix := subnetsKey
	if a.Unwatched {
		prefix = "/bench/burst/"
	}
	ops, err := puts(a.Peers.all(), prefix, granted.ID)
	if err != nil {
		return err
	}
	if a.Gone {
		for i, peer := range a.Peers.all() {
			ops[i] = clientv3.OpDelete(prefix + peer.name())
		}
	}
	w.From = now()
	err = atOnce(p.ctx, p.etcd, ops)
	w.To = now()
	return err
}

// List reads all leases with one range read, and returns how long that took,
// milliseconds.
func (p *probe) List(_ Nothing, ms *float64) error {
	from := now()
	resp, err := p.etcd.Get(p.ctx, subnetsKey, clientv3.WithPrefix())
	*ms = float64(now()-from) / 1e6
	if err == nil && resp.Count == 0 {
		err = fmt.Errorf("no leases below %s", subnetsKey)
	}
	return err
}

// OneArgs asks for rounds with one peer each.
type OneArgs struct {
	Peer    int // number of the first that is used
	Rounds  int
	Gap     time.Duration // between two
	Version int
}

// One is how long single changes took: milliseconds, a value for each round.
type One struct {
	Ack    []float64 // put → acknowledged
	Event  []float64 // put → watch event, of a key that no daemon watches
	Add    []float64 // put of a new lease → its route in the kernel
	Change []float64 // put of another public IP and MAC → neighbour and FDB entry
	Delete []float64 // deletion → route gone
}

// OnePeer adds, changes and deletes one peer at a time, and takes the limit,
// put → watch event, in the same round.
func (p *probe) OnePeer(a OneArgs, one *One) error {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	const key = "/bench/one"
	events := p.etcd.Watch(clientv3.WithRequireLeader(ctx), key, clientv3.WithCreatedNotify())
	<-events
	granted, err := p.etcd.Grant(ctx, leaseTTL)
	if err != nil {
		return err
	}
	for i := range a.Rounds {
		value := fmt.Sprintf("%0200d", i)
		from := now()
		if _, err := p.etcd.Put(ctx, key, value, clientv3.WithLease(granted.ID)); err != nil {
			return err
		}
		one.Ack = append(one.Ack, since(from))
		if resp, ok := <-events; !ok || resp.Err() != nil {
			return fmt.Errorf("watching %s: %w", key, resp.Err())
		}
		one.Event = append(one.Event, since(from))
		for _, step := range []struct {
			to     *[]float64
			expect Expect
		}{
			{&one.Add, Expect{Peers: Peers{a.Peer + i%100, 1, a.Version}}},
			{&one.Change, Expect{Peers: Peers{a.Peer + i%100, 1, a.Version + 1}}},
			{&one.Delete, Expect{Peers: Peers{a.Peer + i%100, 1, a.Version + 1}, Gone: true}},
		} {
			ms, err := p.one(ctx, step.expect, granted.ID)
			if err != nil {
				return err
			}
			*step.to = append(*step.to, ms)
			pause(ctx, a.Gap)
		}
	}
	return nil
}

// one makes one change and returns how long the kernel took to have it.
func (p *probe) one(ctx context.Context, e Expect, lease clientv3.LeaseID) (ms float64, err error) {
	only := e.Peers.all()
	p.world.want(e)
	from := now()
	if e.Gone {
		err = withdraw(ctx, p.etcd, only)
	} else {
		err = only[0].put(ctx, p.etcd, lease)
	}
	if err != nil {
		return 0, err
	}
	s := p.world.await(30 * time.Second)
	if !s.Met {
		return 0, fmt.Errorf("the kernel did not follow the lease of %s within 30 s", only[0].subnet())
	}
	return float64(s.At-from) / 1e6, nil
}

func since(from int64) float64 { return float64(now()-from) / 1e6 }

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
