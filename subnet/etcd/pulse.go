package etcd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/twill-net/twill/subnet/internal/tasks"
)

// quietMost is for how long a watch may tell nothing before etcd is asked
// whether it still stands: 20 000 nodes ask 1 000 times a second then, which
// costs etcd a few percent of a core.
const quietMost = time.Minute

// errSilent says that a watch hangs: where etcd answers otherwise, its stream
// is dead and the connection is not.
var errSilent = fmt.Errorf("%w on this watch", errTimeout)

// pulse asks for a sign of life on the stream of a watch: that a second watch
// is opened, and closed again. etcd does not answer requests for progress on a
// watch from a revision that is still to come, which a list is followed by.
type pulse struct {
	watch    pb.Watch_WatchClient
	key      string
	waits    atomic.Int64 // since when for a message, Unix ns; 0: not now
	answered chan int64   // the second watch's ID; capacity 1
}

// run ends the stream when no answer comes in time, while we wait for one.
func (p *pulse) run(ctx context.Context, quiet, timeout time.Duration, end context.CancelCauseFunc) {
	// Up to a third early, so that nodes which lost one etcd together part.
	for tasks.Pause(ctx, quiet-rand.N(quiet/3)) == nil {
		since := p.waits.Load()
		if since == 0 || time.Since(time.Unix(0, since)) < quiet/2 {
			continue
		}
		open := &pb.WatchCreateRequest{Key: []byte(p.key)}
		// Of what fails here Recv knows the reason.
		_ = p.watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: open}})
		late := time.NewTimer(timeout)
		select {
		case id := <-p.answered:
			done := &pb.WatchCancelRequest{WatchId: id}
			_ = p.watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: done}})
		case <-late.C:
			if p.waits.Load() == since { // else we are late ourselves
				end(errSilent)
			}
		case <-ctx.Done():
		}
		late.Stop()
	}
}

// answer takes what etcd says of another watch than the stream's own.
func (p *pulse) answer(resp *pb.WatchResponse) {
	if resp.Created {
		select {
		case p.answered <- resp.WatchId:
		default: // one that was not waited for
		}
	}
}
