package kernel_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/subnet"
)

// While a congested socket is drained the kernel drops without a word: what
// happens after the overrun was told, and before the queue is empty, is lost.
func TestNothingIsLostAfterOverrun(t *testing.T) {
	ns := newNamespace(t)
	k := ns.kernel(kernel.Config{ReceiveBuffer: 1})
	r := &recorder{t: t}
	gate := make(chan struct{})
	overrun, held := make(chan struct{}, 100), make(chan struct{})
	first := true
	r.follow(k, func(e backend.Event) {
		r.add(e)
		if e.Resync && e.Key == (backend.Key{}) && !first {
			overrun <- struct{}{}
			<-held // and not by the gate, which the loop below may just be opening
			return
		}
		first = false
		<-gate
	})
	r.waitFor("the first", resync)
	ns.reach(node(50)) // more than the socket holds
	r.forget()
	gate <- struct{}{} // the first event ends, the next receive tells ENOBUFS
	for told := false; !told; {
		select {
		case <-overrun:
			told = true
		case gate <- struct{}{}:
		case <-time.After(patience):
			t.Fatal("no overrun")
		}
	}
	// The reader is in its callback: it has told of the overrun. The agent
	// does its full pass now, and after that somebody deletes a route.
	ns.observe()
	gone := peer(subnet.IPv4, 1)[2]
	require.NoError(t, ns.delete(gone))
	r.forget()
	close(held)
	close(gate)
	ok := waitUntil(time.Now().Add(patience), func() bool {
		e, ok := r.last(gone.Key())
		return ok && e.Object == nil || r.count(resync) > 0
	})
	require.True(t, ok, "neither the deletion nor another overrun was told")
}
