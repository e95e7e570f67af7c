package chaos

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// traffic is all flows of the pods that are there.
type traffic struct {
	mu    sync.Mutex
	flows []*flow
	id    uint16
}

// run sends the steady flows' pings until ctx is done.
func (tr *traffic) run(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		tr.mu.Lock()
		for _, fl := range tr.flows {
			if fl.steady {
				fl.send(small)
			}
		}
		tr.mu.Unlock()
	}
}

func (tr *traffic) all() []*flow {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]*flow(nil), tr.flows...)
}

// join opens flows between a new pod and the others.
func (tr *traffic) join(ctx context.Context, p *pod, others []*pod) error {
	for _, o := range others {
		for _, f := range subnet.Families {
			tr.mu.Lock()
			tr.id++
			id := tr.id
			tr.mu.Unlock()
			fl, err := newFlow(ctx, p, o, f, id, steady(p, o))
			if err != nil {
				return err
			}
			tr.mu.Lock()
			tr.flows = append(tr.flows, fl)
			tr.mu.Unlock()
		}
	}
	return nil
}

// steady reports whether two pods ping each other all the time: the first of
// each two nodes, and all of one node.
func steady(a, b *pod) bool { return a.member == b.member || a.name == "a" && b.name == "a" }

// leave closes the flows of a pod.
func (tr *traffic) leave(p *pod) {
	tr.mu.Lock()
	var stay, gone []*flow
	for _, fl := range tr.flows {
		if fl.from == p || fl.to == p {
			gone = append(gone, fl)
		} else {
			stay = append(stay, fl)
		}
	}
	tr.flows = stay
	tr.mu.Unlock()
	for _, fl := range gone {
		fl.close()
	}
}

// pod is a pod of a member.
type pod struct {
	*netlab.Pod
	member *member
	name   string // a, b
	mtu    int    // of its link
}

// poll calls check until it returns nil. When ctx is done before that, the
// error is the last one that was not for this very reason.
func poll(ctx context.Context, every time.Duration, check func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last error
	for {
		err := check()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", last, ctx.Err())
		case <-tick.C:
		}
	}
}
