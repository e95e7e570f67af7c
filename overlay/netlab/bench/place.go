package bench

import (
	"context"
	"fmt"
	"net/rpc"
	"strings"
	"time"

	"github.com/twill-net/twill/overlay/netlab"
)

// place is a node with the bench's probe in it.
type place struct {
	*netlab.Node
	calls *rpc.Client
}

// probeSocket is where the probe listens, in the node.
const probeSocket = "/run/bench.sock"

// newPlace starts the probe, which is this program again, in a node.
func newPlace(ctx context.Context, n *netlab.Node, program string) (*place, error) {
	probe, err := n.Start("probe", program, "probe", probeSocket)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := n.DialContext(ctx, "unix", probeSocket)
		if err == nil {
			return &place{n, rpc.NewClient(conn)}, nil
		}
		if !probe.Running() {
			return nil, probe.Wait(ctx)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, fmt.Errorf("reaching the probe on %s: %w", n.Name, err)
		}
		pause(ctx, 5*time.Millisecond)
	}
}

// call calls a method of the probe.
func (p *place) call(ctx context.Context, method string, args, reply any) error {
	call := p.calls.Go("Probe."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-call.Done:
	}
	if call.Error != nil {
		return fmt.Errorf("%s on %s: %w", strings.ToLower(method), p.Name, call.Error)
	}
	return nil
}

// run runs a shell script in the node.
func (p *place) run(ctx context.Context, script string) (out string, err error) {
	err = p.call(ctx, "Run", script, &out)
	return out, err
}

// await waits until the kernel has what is expected.
func (p *place) await(ctx context.Context, limit time.Duration) (s Seen, err error) {
	err = p.call(ctx, "Await", limit, &s)
	if err == nil && !s.Met {
		err = fmt.Errorf("%s: %d ways are missing after %s", p.Name, s.Missing, limit)
	}
	return s, err
}
