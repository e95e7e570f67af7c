package kernel_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// cases is the contract of each kind: put wants, one after the other under
// one key, on top of what it needs.
var cases = []struct {
	name  string
	needs []backend.Object
	wants []backend.Object
}{
	{"link over IPv4", nil, variants(link(subnet.IPv4))},
	{"link over IPv6", nil, variants(link(subnet.IPv6))},
	{"IPv4 address", own(subnet.IPv4)[:1], own(subnet.IPv4)[1:]},
	{"IPv6 address", own(subnet.IPv6)[:1], own(subnet.IPv6)[1:]},
	{"IPv6 address over IPv4", own(subnet.IPv4)[:1], []backend.Object{
		backend.Address{Link: "twill.1", Prefix: prefix("fd00:244::/128")},
	}},
	{"IPv4 neighbour", own(subnet.IPv4)[:1], []backend.Object{
		backend.Neighbor{Link: "twill.1", IP: addr("10.0.1.0"), MAC: mac(2)},
		backend.Neighbor{Link: "twill.1", IP: addr("10.0.1.0"), MAC: mac(3)},
	}},
	{"IPv6 neighbour", own(subnet.IPv6)[:1], []backend.Object{
		backend.Neighbor{Link: "twill-v6.1", IP: addr("fd00:1::"), MAC: mac(2)},
		backend.Neighbor{Link: "twill-v6.1", IP: addr("fd00:1::"), MAC: mac(3)},
	}},
	{"FDB over IPv4", own(subnet.IPv4)[:1], []backend.Object{
		backend.FDB{Link: "twill.1", MAC: mac(2), Dst: addr("192.0.2.77")},
		backend.FDB{Link: "twill.1", MAC: mac(2), Dst: addr("192.0.2.78")},
	}},
	{"FDB over IPv6", own(subnet.IPv6)[:1], []backend.Object{
		backend.FDB{Link: "twill-v6.1", MAC: mac(2), Dst: addr("2001:db8::77")},
		backend.FDB{Link: "twill-v6.1", MAC: mac(2), Dst: addr("2001:db8::78")},
	}},
	{"IPv4 route", append(own(subnet.IPv4), backend.Link{
		Name: "twill.2", MTU: 1450, MAC: mac(4), Up: true, Parent: "eth0", Local: addr("192.0.2.1"),
		VXLAN: backend.VXLAN{VNI: 2, Port: 8472},
	}), routeVariants("10.0.1.0/24", "twill.1", "twill.2", "192.0.2.9", 0)},
	{"IPv4 route with a metric", own(subnet.IPv4), routeVariants("10.0.1.0/24", "twill.1", "eth0", "192.0.2.9", 77)},
	{"IPv6 route", append(own(subnet.IPv6), backend.Link{
		Name: "twill-v6.2", MTU: 1430, MAC: mac(4), Up: true, Parent: "eth0", Local: addr("2001:db8::1"),
		VXLAN: backend.VXLAN{VNI: 2, Port: 8472},
	}), routeVariants("fd00:1::/64", "twill-v6.1", "twill-v6.2", "2001:db8::9", 1024)},
}

// variants returns the device, changed in one thing after the other.
func variants(l backend.Link) []backend.Object {
	o := []backend.Object{l}
	next := func(change func()) {
		change()
		o = append(o, l)
	}
	next(func() { l.MTU = 1400 })
	next(func() { l.MAC = mac(9) })
	next(func() { l.Local = l.Local.Next() })
	next(func() { l.Parent = "far" })
	next(func() { l.VXLAN.Learning = true })
	next(func() { l.Up = false })
	next(func() { l.VXLAN.Port = 4789; l.Up = true })
	next(func() { l.VXLAN.GBP = true })
	next(func() { l.VXLAN.VNI = 3 })
	next(func() { l.VXLAN.Learning, l.Parent, l.MTU = false, "", 1380 })
	return o
}

// routeVariants returns ways to lead one destination.
func routeVariants(dst, device, other, gateway string, metric uint32) []backend.Object {
	p := prefix(dst)
	r := backend.Route{Dst: p, Metric: metric}
	via := func(link, via string, onLink bool) backend.Object {
		r := r
		r.Link, r.OnLink = link, onLink
		if via != "" {
			r.Via = addr(via)
		}
		return r
	}
	blackhole := r
	blackhole.Blackhole = true
	return []backend.Object{
		via(device, p.Addr().String(), true),
		via(device, p.Addr().Next().String(), true),
		via(other, p.Addr().String(), true),
		via("eth0", gateway, false),
		via(device, "", false),
		via(device, p.Addr().String(), true),
		blackhole,
		via("eth0", gateway, false),
	}
}

func TestContract(t *testing.T) {
	t.Parallel()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			base := backend.NewState(c.needs...)
			ns.reach(base)
			var have backend.Object
			for _, want := range c.wants {
				state := backend.NewState(append(c.needs, want)...)
				require.NoError(t, ns.put(have, want))
				same(t, state, ns.observe(), "after the put")
				require.NoError(t, ns.put(have, want), "with stale knowledge")
				require.NoError(t, ns.put(want, want), "again")
				require.NoError(t, ns.put(nil, want), "as if it were not there")
				same(t, state, ns.observe(), "after putting it again")
				have = want
			}
			// As if the former were unknown: after a watch that broke.
			require.NoError(t, ns.put(nil, c.wants[0]))
			same(t, backend.NewState(append(c.needs, c.wants[0])...), ns.observe())

			require.NoError(t, ns.delete(c.wants[0]))
			same(t, base, ns.observe(), "after the deletion")
			require.NoError(t, ns.delete(c.wants[0]), "deleting it again")
			same(t, base, ns.observe())
		})
	}
}

func TestSysctl(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.reach(backend.NewState(link(subnet.IPv4)))
	name := "net/ipv4/conf/twill.1/rp_filter"
	two := backend.Sysctl{Name: name, Value: "2"}
	require.NotContains(t, ns.observe(), two.Key())
	require.NoError(t, ns.put(nil, two))
	require.Equal(t, backend.Object(two), ns.observe(name)[two.Key()])
	require.Equal(t, "2", ns.run("cat /proc/sys/"+name))
	require.NoError(t, ns.put(two, two))
	require.NoError(t, ns.delete(two), "a sysctl is left as it is")
	require.Equal(t, backend.Object(two), ns.observe(name)[two.Key()])

	require.NotContains(t, ns.observe("net/ipv6/conf/eth9/forwarding"), backend.Key{Kind: backend.KindSysctl, Name: "net/ipv6/conf/eth9/forwarding"})
	err := ns.put(nil, backend.Sysctl{Name: "net/ipv6/conf/eth9/forwarding", Value: "1"})
	require.ErrorContains(t, err, "adding sysctl net/ipv6/conf/eth9/forwarding=1: ")
	require.ErrorContains(t, err, "IPv6 is off in this kernel (ipv6.disable=1), or the link is not there")
	err = ns.put(nil, backend.Sysctl{Name: "../../etc/passwd", Value: "1"})
	require.ErrorContains(t, err, `"../../etc/passwd" is not the name of a sysctl`)
	err = ns.put(nil, backend.Sysctl{Name: name, Value: "many"})
	require.ErrorIs(t, err, unix.EINVAL)
}

// What is needed is missing: each says what, and the others go on.
func TestApplyGoesOn(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	objects := append(own(subnet.IPv4), peer(subnet.IPv4, 1)...)
	objects = append(objects, backend.Address{Link: "twill.9", Prefix: prefix("10.9.0.0/32")})
	objects = append(objects, backend.Route{Dst: prefix("fd00:9::/64"), Link: "eth0", Via: addr("2001:db8::9")})
	objects = append(objects, backend.Neighbor{Link: "eth0", IP: addr("192.0.2.9"), MAC: mac(9)})
	objects = append(objects, peer(subnet.IPv4, 2)...)
	changes := make([]backend.Change, len(objects))
	for i, o := range objects {
		changes[i].Want = o
	}
	errs := ns.Apply(t.Context(), changes)
	require.Len(t, errs, len(changes))
	for i, err := range errs {
		switch o := objects[i].(type) {
		case backend.Address:
			if o.Link == "twill.9" {
				require.EqualError(t, err, `adding address 10.9.0.0/32 dev twill.9: finding link "twill.9": no such device: the link is not there; will retry`)
				continue
			}
		case backend.Route:
			if o.Link == "eth0" {
				require.EqualError(t, err, "adding route fd00:9::/64 via 2001:db8::9 dev eth0: an IPv6 route needs a metric: the kernel would make 0 into 1024")
				continue
			}
		case backend.Neighbor:
			if o.Link == "eth0" {
				require.ErrorContains(t, err, "link eth0 is not a VXLAN device of ours")
				continue
			}
		}
		require.NoError(t, err, "%s", changes[i])
	}
	require.Len(t, ns.observe(), 2+3+3)
	require.NotContains(t, ns.run("ip neigh show dev eth0"), "192.0.2.9")

	for _, err := range ns.Apply(cancelled(t), []backend.Change{{Have: objects[0]}, {Have: objects[1]}}) {
		require.ErrorContains(t, err, "context canceled")
	}
	require.Len(t, ns.observe(), 2+3+3)
}
