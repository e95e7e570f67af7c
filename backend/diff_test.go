package backend_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func mac(n byte) subnet.MAC        { return subnet.MAC{2, 0, 0, 0, 0, n} }

var twill1 = backend.Link{
	Name: "twill.1", MTU: 1450, MAC: mac(1), Up: true, Parent: "eth0", Local: addr("192.0.2.1"),
	VXLAN: backend.VXLAN{VNI: 1, Port: 8472},
}

// objects on the link, one of each kind.
func objects(link string) []backend.Object {
	return []backend.Object{
		backend.Sysctl{Name: "net/ipv4/conf/" + link + "/rp_filter", Value: "2"},
		backend.Address{Link: link, Prefix: prefix("10.244.0.0/32")},
		backend.Neighbor{Link: link, IP: addr("10.244.1.0"), MAC: mac(2)},
		backend.FDB{Link: link, MAC: mac(2), Dst: addr("192.0.2.2")},
		backend.Route{Dst: prefix("10.244.1.0/24"), Link: link, Via: addr("10.244.1.0"), OnLink: true},
	}
}

// elsewhere does not depend on any link of ours.
var elsewhere = []backend.Object{
	backend.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"},
	backend.Route{Dst: prefix("10.244.7.0/24"), Link: "eth0", Via: addr("192.0.2.7")},
	backend.Route{Dst: prefix("10.244.0.0/24"), Blackhole: true, Metric: 1 << 30},
}

func state(objects ...[]backend.Object) backend.State {
	s := backend.State{}
	for _, o := range objects {
		maps.Copy(s, backend.NewState(o...))
	}
	return s
}

func link(change func(*backend.Link)) []backend.Object {
	l := twill1
	if change != nil {
		change(&l)
	}
	return []backend.Object{l}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	on := objects("twill.1")
	full := state(link(nil), on, elsewhere)
	for name, c := range map[string]struct {
		want, have backend.State
		changes    []string // in order
	}{
		"nothing to do":  {full, full, nil},
		"nothing at all": {nil, nil, nil},
		"all is new": {full, nil, []string{
			"add link twill.1", "add sysctl", "add sysctl", "add address", "add neighbour", "add fdb", "add route", "add route", "add route",
		}},
		"all goes, but sysctls; the link takes along what it carries": {nil, full, []string{
			"delete route ", "delete route ", "delete link twill.1",
		}},
		"one peer goes": {state(link(nil), on[:2]), state(link(nil), on), []string{
			"delete route 10.244.1.0/24", "delete fdb 02:00:00:00:00:02", "delete neighbour 10.244.1.0",
		}},
		"changed in place": {
			state(link(func(l *backend.Link) {
				l.MTU, l.Local, l.Parent, l.VXLAN.Learning = 1400, addr("192.0.2.9"), "eth1", true
			}), on), state(link(nil), on),
			[]string{"replace link twill.1"},
		},
		"another MAC drops the neighbours": {
			state(link(func(l *backend.Link) { l.MAC = mac(9) }), on), state(link(nil), on),
			[]string{"replace link twill.1", "add neighbour 10.244.1.0"},
		},
		"another MAC, and a neighbour of the past": {
			state(link(func(l *backend.Link) { l.MAC = mac(9) })), state(link(nil), on[2:3]),
			[]string{"replace link twill.1"},
		},
		"another device drops everything on it": {
			state(link(func(l *backend.Link) { l.VXLAN.Port = 4789 }), on, elsewhere), full,
			[]string{"replace link twill.1", "add sysctl net/ipv4/conf/twill.1/rp_filter", "add address", "add neighbour", "add fdb", "add route"},
		},
		"another device, and things of the past": {
			state(link(func(l *backend.Link) { l.VXLAN.VNI = 2 })), state(link(nil), on),
			[]string{"replace link twill.1"},
		},
		"a route moves to a new device before the old one goes": {
			state(link(func(l *backend.Link) { l.Name = "twill.2" }), objects("twill.2")[4:]), state(link(nil), on),
			[]string{"add link twill.2", "replace route 10.244.1.0/24 via 10.244.1.0 dev twill.1", "delete link twill.1"},
		},
		"the new way is there before the old one goes": {
			state([]backend.Object{backend.Route{Dst: prefix("10.244.1.0/24"), Link: "eth0", Metric: 5}}),
			state([]backend.Object{backend.Route{Dst: prefix("10.244.1.0/24"), Link: "eth0", Metric: 4}}),
			[]string{"add route 10.244.1.0/24 dev eth0 metric 5", "delete route 10.244.1.0/24 dev eth0 metric 4"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changes := backend.Diff(c.want, c.have)
			require.Len(t, changes, len(c.changes), "%s", changes)
			for i, change := range changes {
				require.True(t, strings.HasPrefix(change.String(), c.changes[i]), "%d: %s", i, change)
			}
		})
	}
}

func TestReplaces(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change   func(*backend.Link)
		replaces bool
	}{
		"nothing":      {func(*backend.Link) {}, false},
		"MTU":          {func(l *backend.Link) { l.MTU = 1 }, false},
		"MAC":          {func(l *backend.Link) { l.MAC = mac(9) }, false},
		"down":         {func(l *backend.Link) { l.Up = false }, false},
		"parent":       {func(l *backend.Link) { l.Parent = "eth1" }, false},
		"local":        {func(l *backend.Link) { l.Local = addr("192.0.2.9") }, false},
		"learning":     {func(l *backend.Link) { l.VXLAN.Learning = true }, false},
		"no parent":    {func(l *backend.Link) { l.Parent = "" }, true},
		"family":       {func(l *backend.Link) { l.Local = addr("2001:db8::1") }, true},
		"VNI":          {func(l *backend.Link) { l.VXLAN.VNI = 2 }, true},
		"port":         {func(l *backend.Link) { l.VXLAN.Port = 2 }, true},
		"group policy": {func(l *backend.Link) { l.VXLAN.GBP = true }, true},
	} {
		l := twill1
		c.change(&l)
		require.Equal(t, c.replaces, l.Replaces(twill1), name)
	}
	lost := twill1
	lost.Local = netip.Addr{} // taken away by someone
	require.False(t, twill1.Replaces(lost))
}

// fakeKernel does what the kernel does with changes, as far as the model goes:
// it refuses what depends on something missing, and drops dependants.
type fakeKernel backend.State

func (k fakeKernel) apply(c backend.Change) error {
	if c.Want == nil {
		delete(k, c.Have.Key())
		if l, ok := c.Have.(backend.Link); ok {
			k.drop(l.Name, func(backend.Kind) bool { return true })
		}
		return nil
	}
	if l, ok := c.Want.(backend.Link); ok {
		if have, ok := k[l.Key()].(backend.Link); ok {
			k.drop(l.Name, func(kind backend.Kind) bool {
				return l.Replaces(have) || kind == backend.KindNeighbor && l.MAC != have.MAC
			})
		}
	}
	if on := carrier(c.Want); strings.HasPrefix(on, "twill") {
		if _, ok := k[backend.Key{Kind: backend.KindLink, Name: on}]; !ok {
			return fmt.Errorf("%s: there is no %s", c, on)
		}
	}
	if c.Have == nil && k[c.Want.Key()] != nil && c.Want.Key().Kind == backend.KindRoute {
		return fmt.Errorf("%s: there is %s", c, k[c.Want.Key()])
	}
	k[c.Want.Key()] = c.Want
	return nil
}

func (k fakeKernel) drop(link string, kinds func(backend.Kind) bool) {
	maps.DeleteFunc(k, func(key backend.Key, o backend.Object) bool {
		return carrier(o) == link && kinds(key.Kind)
	})
}

func carrier(o backend.Object) string {
	switch o := o.(type) {
	case backend.Address:
		return o.Link
	case backend.Neighbor:
		return o.Link
	case backend.FDB:
		return o.Link
	case backend.Route:
		return o.Link
	case backend.Sysctl:
		if strings.Count(o.Name, "/") == 4 {
			return strings.Split(o.Name, "/")[3]
		}
	}
	return ""
}

// Between any two states one Diff, applied in its order, is enough: nothing is
// put before what it needs, and nothing that goes along is forgotten.
func TestDiffConverges(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("replay with SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	have := fakeKernel{}
	for range 1000 {
		want := randomState(random)
		for _, c := range backend.Diff(want, backend.State(have)) {
			require.NoError(t, have.apply(c))
		}
		// Sysctls are not taken back; those of other links go with them.
		for k, o := range have {
			if k.Kind == backend.KindSysctl && want[k] == nil {
				delete(have, o.Key())
			}
		}
		require.Equal(t, want, backend.State(have))
		require.Empty(t, backend.Diff(want, backend.State(have)))
	}
}

// randomState returns a state that is whole: nothing is on a link which is
// not there.
func randomState(random *rand.Rand) backend.State {
	s := backend.State{}
	put := func(o backend.Object) {
		if random.IntN(3) > 0 {
			s[o.Key()] = o
		}
	}
	n := func(n int) byte { return byte(random.IntN(n)) }
	for _, name := range []string{"twill.1", "twill.2", "twill-v6.1"} {
		l := backend.Link{
			Name: name, MTU: 1400 + int(n(2)), MAC: mac(n(2)), Up: true, Parent: []string{"eth0", "eth1", ""}[n(3)],
			Local: []netip.Addr{addr("192.0.2.1"), addr("192.0.2.2"), addr("2001:db8::1")}[n(3)],
			VXLAN: backend.VXLAN{VNI: 1, Port: 8472 + uint16(n(2)), Learning: n(2) == 0, GBP: n(2) == 0},
		}
		put(l)
		if s[l.Key()] == nil {
			continue
		}
		put(backend.Sysctl{Name: "net/ipv4/conf/" + name + "/rp_filter", Value: fmt.Sprint(n(3))})
		for i := range byte(4) {
			put(backend.Address{Link: name, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, i, 0}), 32)})
			put(backend.Neighbor{Link: name, IP: netip.AddrFrom4([4]byte{10, 0, i, 0}), MAC: mac(n(2))})
			put(backend.FDB{Link: name, MAC: mac(i), Dst: netip.AddrFrom4([4]byte{192, 0, 2, n(3)})})
			put(backend.Route{
				Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, i, 0}), 24), Link: name,
				Via: netip.AddrFrom4([4]byte{10, 0, i, n(2)}), OnLink: true, Metric: uint32(n(2)),
			})
		}
	}
	for _, o := range elsewhere {
		put(o)
	}
	return s
}

func TestStrings(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]backend.Object{
		"link twill.1 vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 mtu 1450 address 02:00:00:00:00:01 learning false gbp false up": twill1,
		"sysctl net/ipv4/ip_forward=1":                              elsewhere[0],
		"address 10.244.0.0/32 dev twill.1":                         objects("twill.1")[1],
		"neighbour 10.244.1.0 lladdr 02:00:00:00:00:02 dev twill.1": objects("twill.1")[2],
		"fdb 02:00:00:00:00:02 dst 192.0.2.2 dev twill.1":           objects("twill.1")[3],
		"route 10.244.1.0/24 via 10.244.1.0 dev twill.1 onlink":     objects("twill.1")[4],
		"route blackhole 10.244.0.0/24 metric 1073741824":           elsewhere[2],
	} {
		require.Equal(t, want, o.String())
	}
	for want, o := range map[string]backend.Object{
		"link twill.1":                          twill1,
		"sysctl net/ipv4/ip_forward":            elsewhere[0],
		"address 10.244.0.0/32 dev twill.1":     objects("twill.1")[1],
		"neighbour 10.244.1.0 dev twill.1":      objects("twill.1")[2],
		"fdb 02:00:00:00:00:02 dev twill.1":     objects("twill.1")[3],
		"route 10.244.1.0/24":                   objects("twill.1")[4],
		"route 10.244.0.0/24 metric 1073741824": elsewhere[2],
	} {
		require.Equal(t, want, o.Key().String())
	}
	require.Equal(t, "kind 77", backend.Kind(77).String())
	c := backend.Change{Have: elsewhere[0], Want: backend.Sysctl{Name: "net/ipv4/ip_forward", Value: "0"}}
	require.Equal(t, "replace sysctl net/ipv4/ip_forward=1 by sysctl net/ipv4/ip_forward=0", c.String())
}
