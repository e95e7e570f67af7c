package kernel_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/subnet"
)

// seed returns a random source, and says how to have it again.
func seed(t *testing.T) *rand.Rand {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		var err error
		n, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("replay with SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// states are configurations that a node can be in, or be left in by an
// earlier version.
func states() map[string]backend.State {
	change := func(s backend.State, f func(backend.Object) backend.Object) backend.State {
		changed := backend.State{}
		for _, o := range s {
			if o := f(o); o != nil {
				changed[o.Key()] = o
			}
		}
		return changed
	}
	return map[string]backend.State{
		"nothing":   {},
		"no peers":  node(0),
		"3 peers":   node(3),
		"30 peers":  node(30),
		"otherwise": altered(10),
		"IPv4 only": change(node(5), func(o backend.Object) backend.Object {
			if k := o.Key(); k.Name == "twill-v6.1" || k.Kind == backend.KindRoute && k.Prefix.Addr().Is6() {
				return nil
			}
			return o
		}),
		"other MAC, GBP": change(node(5), func(o backend.Object) backend.Object {
			if l, ok := o.(backend.Link); ok {
				l.MAC, l.VXLAN.GBP = mac(7777), true
				return l
			}
			return o
		}),
		"other port": change(node(7), func(o backend.Object) backend.Object {
			if l, ok := o.(backend.Link); ok {
				l.VXLAN.Port, l.Parent = 4789, "far"
				return l
			}
			return o
		}),
		"direct": change(node(6), func(o backend.Object) backend.Object {
			switch o := o.(type) {
			case backend.Neighbor, backend.FDB:
				return nil
			case backend.Route:
				o.Link, o.OnLink, o.Via = "eth0", false, addr("192.0.2.9")
				if o.Dst.Addr().Is6() {
					o.Via = addr("2001:db8::9")
				}
				return o
			default:
				return o
			}
		}),
		"other device": change(node(4), func(o backend.Object) backend.Object {
			switch o := o.(type) {
			case backend.Link:
				o.Name, o.VXLAN.VNI = o.Name[:len(o.Name)-1]+"2", 2
				return o
			case backend.Address:
				o.Link = o.Link[:len(o.Link)-1] + "2"
				return o
			case backend.Neighbor:
				o.Link = o.Link[:len(o.Link)-1] + "2"
				return o
			case backend.FDB:
				o.Link = o.Link[:len(o.Link)-1] + "2"
				return o
			case backend.Route:
				o.Link = o.Link[:len(o.Link)-1] + "2"
				return o
			}
			return nil
		}),
		"metrics, blackholes": change(node(8), func(o backend.Object) backend.Object {
			if r, ok := o.(backend.Route); ok {
				r.Metric += uint32(r.Dst.Addr().AsSlice()[2])
				if r.Dst.Addr().AsSlice()[2]%2 == 0 {
					return backend.Route{Dst: r.Dst, Metric: r.Metric, Blackhole: true}
				}
				return r
			}
			return o
		}),
	}
}

// From every state one pass leads to every other, in whatever order they
// come, also when others did damage in between. It takes two when the new
// device waits for the UDP port of the old one, which differs in GBP.
func TestConverge(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	random := seed(t)
	all := states()
	names := []string{}
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	damage := []string{
		"true",
		"ip link set twill.1 down", "ip link del twill.1", "ip -6 route flush proto 116", "ip route flush proto 116",
		"ip address flush dev twill-v6.1", "ip neigh flush nud permanent dev twill.1", "ip link set twill-v6.1 mtu 1300",
		"bridge fdb del 02:00:00:00:03:e9 dev twill.1", "bridge fdb append 00:00:00:00:00:00 dst 192.0.2.9 dev twill.1",
	}
	before := "a fresh namespace"
	for range 60 {
		name := names[random.IntN(len(names))]
		d := damage[random.IntN(len(damage))]
		_, _ = ns.try(d) // what it hits may not be there
		todo := backend.Diff(all[name], ns.observe())
		errs := ns.Apply(t.Context(), todo)
		if slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, unix.EADDRINUSE) }) {
			todo = backend.Diff(all[name], ns.observe())
			errs = ns.Apply(t.Context(), todo)
		}
		for i, err := range errs {
			require.NoError(t, err, "from %s by %q to %s: %s", before, d, name, todo[i])
		}
		same(t, all[name], ns.observe(), fmt.Sprintf("from %s by %q to %s", before, d, name))
		before = name
	}
}

// A node with thousands of peers is programmed and read.
func TestManyPeers(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("5000 peers are not short")
	}
	ns := newNamespace(t)
	r := watch(t, ns.kernel(kernel.Config{}))
	objects := own(subnet.IPv4)
	for n := range 5000 {
		objects = append(objects, peer(subnet.IPv4, n+1)...)
		r := objects[len(objects)-1].(backend.Route)
		r.Metric = backend.RouteMetric(r.Dst)
		objects[len(objects)-1] = r
	}
	want := backend.NewState(objects...)
	start := time.Now()
	lap := func(what string) {
		t.Logf("%-40s %s", what, time.Since(start).Round(time.Millisecond))
		start = time.Now()
	}
	todo := backend.Diff(want, ns.observe())
	lap("diff against nothing")
	ns.apply(todo...)
	lap("apply 15 002 changes, one by one")
	have := ns.observe()
	lap("observe")
	same(t, want, have)
	start = time.Now()
	require.Empty(t, backend.Diff(want, have))
	lap("diff, nothing to do")
	r.settle(want)
	lap("the last of the echoes was told")
	require.Zero(t, r.count(resync), "the receive buffer is large enough for this")
	l := objects[0].(backend.Link)
	l.Local = addr("192.0.2.2")
	start = time.Now()
	ns.apply(backend.Change{Have: objects[0], Want: l})
	lap("change the local address")
	ns.apply(backend.Diff(nil, ns.observe())...)
	lap("observe and delete")
	require.Empty(t, ns.observe())
}
