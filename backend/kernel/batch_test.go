package kernel_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/subnet"
)

// puts returns the changes that put objects which nothing is known of.
func puts(objects []backend.Object) []backend.Change {
	changes := make([]backend.Change, len(objects))
	for i, o := range objects {
		changes[i].Want = o
	}
	return changes
}

// peers returns what leads to so many peers, in the order of kinds.
func peers(f subnet.Family, count int) []backend.Object {
	var byKind [3][]backend.Object
	for n := range count {
		for i, o := range peer(f, n+1) {
			byKind[i] = append(byKind[i], o)
		}
	}
	return append(append(byKind[0], byKind[1]...), byKind[2]...)
}

// Of more changes than share a send, those that fail say why, each its own
// reason, and the others are done.
func TestApplyMany(t *testing.T) {
	t.Parallel()
	const count = kernel.BatchSize + 50 // of each kind
	for _, f := range subnet.Families {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			ns.reach(backend.NewState(own(f)...))
			objects := peers(f, count)
			failing := map[int]string{}
			for i, o := range objects {
				switch o := o.(type) {
				case backend.Neighbor:
					if i%7 == 0 {
						o.Link = "far"
						objects[i], failing[i] = o, "link far is not a VXLAN device of ours"
					}
				case backend.FDB:
					if i%5 == 0 {
						o.Dst = map[bool]netip.Addr{true: addr("2001:db8::9"), false: addr("192.0.2.9")}[f == subnet.IPv4]
						objects[i], failing[i] = o, "address family not supported"
					}
				case backend.Route:
					if i%3 == 0 {
						ns.run(fmt.Sprintf("ip route add %s dev far proto 77 metric %d", o.Dst, o.Metric))
						failing[i] = "a foreign route " + o.Dst.String()
					}
				}
			}
			want := own(f)
			errs := ns.Apply(t.Context(), puts(objects))
			for i, o := range objects {
				text, fails := failing[i]
				if !fails {
					require.NoError(t, errs[i])
					want = append(want, o)
					continue
				}
				require.ErrorContains(t, errs[i], o.String()+": ")
				require.ErrorContains(t, errs[i], text)
			}
			same(t, backend.NewState(want...), ns.observe())

			// And away again, with what is not there.
			changes := make([]backend.Change, len(objects))
			for i, o := range objects {
				changes[len(objects)-1-i].Have = o
			}
			ns.apply(changes...)
			same(t, backend.NewState(own(f)...), ns.observe())
		})
	}
}

// When the kernel refuses all, all is told.
func TestApplyAllFail(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	down := link(subnet.IPv4)
	down.Up = false
	ns.reach(backend.NewState(down))
	changes := puts(peers(subnet.IPv4, 3*kernel.BatchSize+1)[2*(3*kernel.BatchSize+1):])
	for i, err := range ns.Apply(t.Context(), changes) {
		require.ErrorIs(t, err, unix.ENETDOWN, "%s", changes[i])
		require.ErrorContains(t, err, changes[i].Want.String())
		require.ErrorContains(t, err, "the link is down; will retry")
	}
	ns.reach(node(3))
}

// A device may go while changes are on their way to it.
func TestApplyDeviceGone(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	outer := link(subnet.IPv4)
	outer.Name, outer.VXLAN.VNI = "twill.2", 2
	inner := link(subnet.IPv4)
	inner.Parent, inner.MTU = outer.Name, 1400 // goes with it
	outer.MAC = mac(2)
	ns.apply(puts([]backend.Object{outer, inner})...) // in this order, which Diff does not know
	same(t, backend.NewState(outer, inner), ns.observe())

	var changes []backend.Change
	add := func(first, last int) {
		for n := first; n <= last; n++ {
			changes = append(changes, puts(peer(subnet.IPv4, n))...)
		}
	}
	add(1, 10)
	changes = append(changes, backend.Change{Have: outer})
	add(11, 100)
	onEth0 := backend.Route{Dst: prefix("10.99.0.0/24"), Link: "eth0", Via: addr("192.0.2.9")}
	changes = append(changes, backend.Change{Want: onEth0})
	for i, err := range ns.Apply(t.Context(), changes) {
		if i <= 3*10 || changes[i].Want == backend.Object(onEth0) {
			require.NoError(t, err, "%s", changes[i])
			continue
		}
		require.ErrorIs(t, err, unix.ENODEV, "%s", changes[i])
		require.ErrorContains(t, err, "the link is not there; will retry")
	}
	same(t, backend.NewState(onEth0), ns.observe())
}

// The kernel is told in the order of the changes; what goes waits until what
// takes its place is there, also where that takes more than one attempt.
func TestApplyOrder(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.reach(backend.NewState(own(subnet.IPv4)...))
	objects := peers(subnet.IPv4, kernel.BatchSize)
	routes := objects[2*kernel.BatchSize:]
	var olds []backend.Object
	for i, o := range routes {
		r := o.(backend.Route)
		r.Via = r.Via.Next()
		if i%2 == 0 {
			require.NoError(t, ns.put(nil, r)) // of which the changes do not know
		}
		r.Metric = 7
		olds = append(olds, r)
	}
	ns.apply(puts(olds)...)
	changes := puts(objects)
	for _, o := range olds {
		changes = append(changes, backend.Change{Have: o})
	}
	r := watch(t, ns.kernel(kernel.Config{}))
	ns.apply(changes...)
	r.waitForLast(olds[len(olds)-1].Key(), nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	at := map[backend.Key]int{}
	for i, e := range r.events {
		at[e.Key] = i + 1
	}
	var lastOf [2]int // puts, deletions
	for i, c := range changes {
		n := at[c.Key()]
		require.NotZero(t, n, "%s", c)
		switch {
		case c.Want == nil:
			require.Greater(t, n, lastOf[0], "%s: not before all is there", c)
			require.Greater(t, n, lastOf[1], "%s: not in order", c)
			lastOf[1] = n
		case i >= 2*kernel.BatchSize:
			lastOf[0] = max(n, lastOf[0]) // some took a second attempt
		default:
			require.Greater(t, n, lastOf[0], "%s: not in order", c)
			lastOf[0] = n
		}
	}
}

// fuse is a context that is over after some looks at it.
type fuse struct {
	context.Context
	looks int
}

func (f *fuse) Err() error {
	if f.looks--; f.looks < 0 {
		return context.Canceled
	}
	return nil
}

// A context that is over stops Apply between two sends, and what is told to be
// done is done.
func TestApplyStops(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.reach(backend.NewState(own(subnet.IPv4)...))
	objects := peers(subnet.IPv4, 2*kernel.BatchSize)
	want := own(subnet.IPv4)
	for i, err := range ns.Apply(&fuse{t.Context(), 3 * kernel.BatchSize}, puts(objects)) {
		if err == nil {
			want = append(want, objects[i])
			continue
		}
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, objects[i].String())
	}
	require.Greater(t, len(want), kernel.BatchSize)
	require.Less(t, len(want), len(objects))
	same(t, backend.NewState(want...), ns.observe())
}

// Answers that do not fit into the socket are errors of the changes that they
// belong to, and are not in the way of the next ones.
func TestApplyAnswersLost(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	down := link(subnet.IPv4)
	down.Up = false
	ns.reach(backend.NewState(down))
	require.NoError(t, ns.LimitAnswers())
	changes := puts(peers(subnet.IPv4, kernel.BatchSize)[2*kernel.BatchSize:])
	for i, err := range ns.Apply(t.Context(), changes) {
		require.ErrorIs(t, err, unix.ENOBUFS)
		require.ErrorContains(t, err, changes[i].Want.String()+": waiting for the kernel's answer: ")
	}
	ns.reach(node(2))
}
