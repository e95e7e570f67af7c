package kernel_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// What we do to routes and neighbours is not told to us; what others do to the
// same ones is, before and after, also by a socket that is opened later.
func TestWatchOwn(t *testing.T) {
	t.Parallel()
	for _, f := range subnet.Families {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			ns.reach(backend.NewState(own(f)...))
			var shut func()
			ns.OnListen(func(s func()) { shut = s })
			r := watch(t, ns.Kernel)
			for range 3 {
				ownIsNotTold(t, ns, r, f)
				r.forget()
				shut()
				r.waitFor("the socket is back", resync)
				r.forget()
			}
		})
	}
}

func ownIsNotTold(t *testing.T, ns *namespace, r *recorder, f subnet.Family) {
	t.Helper()
	objects := peer(f, 1)
	neighbor, fdb, route := objects[0].(backend.Neighbor), objects[1], objects[2].(backend.Route)
	silent := func(why string) {
		t.Helper()
		// The FDB entry comes after them, and is told whoever it is from.
		r.waitForLast(fdb.Key(), fdb)
		for _, o := range objects {
			_, told := r.last(o.Key())
			require.Equal(t, o == fdb, told, "%s: %s", why, o)
		}
		r.forget()
	}
	ns.apply(puts([]backend.Object{neighbor, route, fdb})...)
	silent("put")
	other := neighbor
	other.MAC = mac(77)
	ns.apply(backend.Change{Have: neighbor, Want: other}, backend.Change{Have: route, Want: route})
	require.NoError(t, ns.delete(fdb))
	r.waitForLast(fdb.Key(), nil)
	ns.apply(backend.Change{Have: other, Want: neighbor}, backend.Change{Want: fdb})
	r.waitForLast(fdb.Key(), fdb)
	r.forget()

	ns.run("ip route del " + route.Dst.String() + " proto 116")
	r.waitForLast(route.Key(), nil)
	ns.run("ip neigh change " + neighbor.IP.String() + " lladdr 02:00:00:00:00:50 dev " + neighbor.Link)
	other.MAC = mac(0x50)
	r.waitForLast(neighbor.Key(), other)
	ns.run("ip neigh change " + neighbor.IP.String() + " lladdr " + neighbor.MAC.String() + " dev " + neighbor.Link)
	r.waitForLast(neighbor.Key(), neighbor)
	r.forget()
	ns.apply(backend.Change{Want: route})
	require.NoError(t, ns.delete(neighbor))
	require.NoError(t, ns.delete(route))
	require.NoError(t, ns.delete(fdb))
	r.waitForLast(fdb.Key(), nil)
	_, told := r.last(route.Key())
	require.False(t, told, "deleting %s", route)
	r.waitForLast(neighbor.Key(), nil) // the kernel does not say that it was us
}
