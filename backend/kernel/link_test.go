package kernel_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/subnet"
)

// What can be changed in place keeps the device and everything on it.
func TestAlterKeepsEntries(t *testing.T) {
	t.Parallel()
	changes := map[string]func(*backend.Link){
		"local":    func(l *backend.Link) { l.Local = l.Local.Next() },
		"parent":   func(l *backend.Link) { l.Parent = "far" },
		"both":     func(l *backend.Link) { l.Local, l.Parent = l.Local.Next(), "far" },
		"mtu":      func(l *backend.Link) { l.MTU = 1300 },
		"learning": func(l *backend.Link) { l.VXLAN.Learning = true },
		"mac":      func(l *backend.Link) { l.MAC = mac(99) },
	}
	for _, f := range subnet.Families {
		for name, change := range changes {
			t.Run(f.String()+" "+name, func(t *testing.T) {
				t.Parallel()
				ns := newNamespace(t)
				want := node(3)
				ns.reach(want)
				index := ns.run("cat /sys/class/net/lo/ifindex; ip -o link show " + link(f).Name + " | cut -d: -f1")

				l := link(f)
				change(&l)
				want[l.Key()] = l
				before := ns.observe()
				todo := backend.Diff(want, before)
				if name == "mac" {
					require.Len(t, todo, 1+3, "the kernel drops the neighbours with the old MAC")
				} else {
					require.Equal(t, []backend.Change{{Have: before[l.Key()], Want: l}}, todo)
				}
				ns.apply(todo...)
				same(t, want, ns.observe())
				require.Equal(t, index, ns.run("cat /sys/class/net/lo/ifindex; ip -o link show "+l.Name+" | cut -d: -f1"), "the same device")
			})
		}
	}
}

// Another VNI, port, group policy or family is another device; what was on
// the old one is put again in the same pass.
func TestReplaceLink(t *testing.T) {
	t.Parallel()
	changes := map[string]func(*backend.Link){
		"vni":    func(l *backend.Link) { l.VXLAN.VNI = 7 },
		"port":   func(l *backend.Link) { l.VXLAN.Port = 4789 },
		"gbp":    func(l *backend.Link) { l.VXLAN.GBP = true },
		"parent": func(l *backend.Link) { l.Parent = "" },
		"family": func(l *backend.Link) { l.Local = addr("2001:db8::1") },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			objects := own(subnet.IPv4)
			for n := range 3 {
				objects = append(objects, peer(subnet.IPv4, n+1)...)
			}
			rpFilter := backend.Sysctl{Name: "net/ipv4/conf/twill.1/rp_filter", Value: "2"}
			ns.reach(backend.NewState(objects...))
			ns.apply(backend.Change{Want: rpFilter})

			l := objects[0].(backend.Link)
			l.MTU = 1400
			change(&l)
			objects[0] = l
			if l.Local.Is6() {
				for i, o := range objects {
					if f, ok := o.(backend.FDB); ok {
						f.Dst = addr("2001:db8::77")
						objects[i] = f
					}
				}
			}
			want := backend.NewState(append(objects, rpFilter)...)
			have := ns.observe(rpFilter.Name)
			// In one pass: nothing that the kernel dropped is forgotten.
			ns.apply(backend.Diff(want, have)...)
			same(t, want, ns.observe(rpFilter.Name))
		})
	}
}

// A device that is swept takes along what is on it, and the routes of its
// successor are there before it goes.
func TestMoveToAnotherDevice(t *testing.T) {
	t.Parallel()
	for _, f := range subnet.Families {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			rename := strings.NewReplacer("twill.1", "twill.2", "twill-v6.1", "twill-v6.2")
			var before, after []backend.Object
			for _, o := range append(own(f), peer(f, 1)...) {
				before = append(before, o)
				switch o := o.(type) {
				case backend.Link:
					o.Name, o.VXLAN.VNI = rename.Replace(o.Name), 2
					after = append(after, o)
				case backend.Address:
					o.Link = rename.Replace(o.Link)
					after = append(after, o)
				case backend.Neighbor:
					o.Link = rename.Replace(o.Link)
					after = append(after, o)
				case backend.FDB:
					o.Link = rename.Replace(o.Link)
					after = append(after, o)
				case backend.Route:
					o.Link = rename.Replace(o.Link)
					after = append(after, o)
				}
			}
			ns.reach(backend.NewState(before...))
			todo := backend.Diff(backend.NewState(after...), ns.observe())
			require.Len(t, todo, 6, "five puts, one deletion")
			ns.apply(todo...)
			same(t, backend.NewState(after...), ns.observe())
		})
	}
}

func TestLinkRivals(t *testing.T) {
	t.Parallel()
	gbp := link(subnet.IPv4)
	gbp.VXLAN = backend.VXLAN{VNI: 2, Port: 8472, GBP: true}
	for name, c := range map[string]struct {
		foreign string
		want    backend.Link
		err     string
		remedy  string // after which it works
	}{
		"VNI and port": {
			"ip link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0", link(subnet.IPv4),
			"adding link twill.1: VXLAN device flannel.1 already uses VNI 1 on port 8472: remove it (ip link delete flannel.1) or choose another VNI; will retry: file exists",
			"ip link delete flannel.1",
		},
		"VNI and port over IPv6": {
			"ip link add flannel-v6.1 type vxlan id 1 dstport 8472 local 2001:db8::1 dev eth0", link(subnet.IPv6),
			"adding link twill-v6.1: VXLAN device flannel-v6.1 already uses VNI 1 on port 8472: remove it (ip link delete flannel-v6.1) or choose another VNI; will retry: file exists",
			"ip link delete flannel-v6.1",
		},
		"name": {
			"ip link add twill.1 type bridge", link(subnet.IPv4),
			"adding link twill.1: the name is taken by bridge device twill.1: rename that one or remove it (ip link delete twill.1); will retry",
			"ip link set twill.1 name br0",
		},
		"alternative name": {
			"ip link property add dev far altname twill.1", link(subnet.IPv4),
			"adding link twill.1: the name is taken by veth device far: rename that one or remove it (ip link delete far); will retry",
			"ip link property del dev far altname twill.1",
		},
		"port with other flags": {
			"ip link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 && ip link set flannel.1 up", gbp,
			"adding link twill.1: bringing it up: address already in use: UDP port 8472 is taken by another program, or by a VXLAN device that differs in GBP",
			"ip link set flannel.1 down",
		},
		"parent": {
			"ip link set eth0 name eth7", link(subnet.IPv4),
			`adding link twill.1: finding the external interface: finding link "eth0": no such device: the link is not there; will retry`,
			"ip link set eth7 name eth0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			ns.run(c.foreign)
			before := ns.run("ip link show type bridge; ip link show type vxlan | grep flannel || true")
			require.ErrorContains(t, ns.put(nil, c.want), c.err)
			require.NoError(t, ns.delete(c.want))
			require.Equal(t, before, ns.run("ip link show type bridge; ip link show type vxlan | grep flannel || true"))
			ns.run(c.remedy)
			require.NoError(t, ns.put(nil, c.want))
			same(t, backend.NewState(c.want), ns.observe())
		})
	}
	// One VNI and port over IPv4 and over IPv6 get along.
	ns := newNamespace(t)
	ns.reach(backend.NewState(link(subnet.IPv4), link(subnet.IPv6)))
}

// An MTU too large for the parent is told, and what there is, is shown.
func TestMTUTooLarge(t *testing.T) {
	t.Parallel()
	for _, f := range subnet.Families {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			most := link(f)
			l := most
			l.MTU = 1500
			advice := map[subnet.Family]string{
				subnet.IPv4: "setting MTU 1500: invalid argument: the MTU of eth0 is 1500 and VXLAN takes 50 bytes of it, so at most 1450; the link has 1450",
				subnet.IPv6: "setting MTU 1500: invalid argument: the MTU of eth0 is 1500 and VXLAN takes 70 bytes of it, so at most 1430; the link has 1430",
			}[f]
			err := ns.put(nil, l)
			require.ErrorIs(t, err, unix.EINVAL)
			require.EqualError(t, err, "adding link "+l.Name+": "+advice)
			same(t, backend.NewState(most), ns.observe(), "up, with what the kernel made of it")
			require.EqualError(t, ns.put(most, l), "replacing link "+l.Name+": "+advice)
			same(t, backend.NewState(most), ns.observe())

			// The parent grows, and then shrinks: that does not touch the device.
			ns.run("ip link set eth0 mtu 1600")
			require.NoError(t, ns.put(most, l))
			same(t, backend.NewState(l), ns.observe())
			ns.run("ip link set eth0 mtu 1400")
			same(t, backend.NewState(l), ns.observe())
			// To another parent the kernel clamps it in passing.
			l.Parent = "far"
			require.EqualError(t, ns.put(nil, l), "adding link "+l.Name+": "+strings.ReplaceAll(advice, "eth0", "far"))
			most.Parent = "far"
			same(t, backend.NewState(most), ns.observe())
		})
	}
}

// What the kernel drops with a link that goes down comes back in one pass.
func TestLinkDownAndUp(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	want := node(3)
	ns.reach(want)
	for _, damage := range []string{
		"ip link set twill.1 down; ip link set twill-v6.1 down",
		"for l in twill.1 twill-v6.1; do ip link set $l down; ip link set $l up; done",
		"ip link delete twill.1; ip link delete twill-v6.1",
		"ip address flush dev twill.1; ip address flush dev twill-v6.1",
		"ip link set eth0 down; ip link set eth0 up; ip link set twill.1 address 02:ff:00:00:00:01",
		"ip link set eth0 name eth7; ip link set eth7 name eth0",
	} {
		ns.run(damage)
		ns.reach(want)
	}
	ns.run("ip link set twill.1 down")
	have := ns.observe()
	for k := range have {
		if k.Kind == backend.KindFDB || k.Name != "twill.1" {
			continue
		}
		require.Contains(t, []backend.Kind{backend.KindLink, backend.KindAddress}, k.Kind, "%s outlives a link that is down", k)
	}
	require.False(t, have[link(subnet.IPv4).Key()].(backend.Link).Up)

	// The parent takes its child with it.
	ns.run("ip link delete eth0")
	require.Empty(t, ns.observe())
}

// What cannot be had does not keep the link down.
func TestLinkUpAllTheSame(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	l := link(subnet.IPv4)
	ns.reach(backend.NewState(l))
	ns.run("ip link set twill.1 down")
	want := l
	want.Parent, want.MTU = "eth9", 9000
	err := ns.put(l, want)
	require.ErrorContains(t, err, `finding link "eth9"`)
	require.ErrorContains(t, err, "setting MTU 9000: invalid argument")
	same(t, backend.NewState(l), ns.observe())
}

// No device of ours speaks by itself.
func TestLinkIsQuiet(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.run("echo 0 > /proc/sys/net/ipv6/conf/default/addr_gen_mode")
	ns.run("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
	objects := append(own(subnet.IPv4), backend.Sysctl{Name: "net/ipv6/conf/twill.1/disable_ipv6", Value: "0"},
		backend.Address{Link: "twill.1", Prefix: prefix("fd00:244::/128")})
	want := backend.NewState(objects...)
	ns.apply(backend.Diff(want, ns.observe())...)
	same(t, want, ns.observe("net/ipv6/conf/twill.1/disable_ipv6"))
	addresses := ns.run("ip -6 address show dev twill.1")
	require.NotContains(t, addresses, "fe80:")
	require.NotContains(t, addresses, "tentative")
	require.Contains(t, addresses, "scope global")
}

// Without IPv6 in the namespace IPv4 works as ever, and IPv6 says what is
// wrong.
func TestWithoutIPv6(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.run("for i in all default lo eth0; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done")
	objects := append(own(subnet.IPv4), peer(subnet.IPv4, 1)...)
	ns.reach(backend.NewState(objects...))
	require.NoError(t, ns.put(nil, backend.FDB{Link: "twill.1", MAC: mac(7), Dst: addr("192.0.2.7")}))
	require.EqualError(t, ns.put(nil, backend.Address{Link: "twill.1", Prefix: prefix("fd00:244::/128")}),
		"adding address fd00:244::/128 dev twill.1: permission denied: ipv6: IPv6 is disabled on this device: IPv6 is off on the link: set net.ipv6.conf.twill.1.disable_ipv6=0")
	host, err := ns.Host(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, host.Interfaces)

	// Below the least MTU of IPv6 (RFC 8200, 5) the kernel takes it off the link.
	small := link(subnet.IPv4)
	small.MTU = 1200
	require.NoError(t, ns.put(nil, small))
	require.NoError(t, ns.delete(small))
	require.NoError(t, ns.put(nil, small))
	same(t, backend.NewState(small), ns.observe())
}

func TestNewInClosedNamespace(t *testing.T) {
	t.Parallel()
	_, err := kernel.New(kernel.Config{NetNS: 1 << 20})
	require.ErrorContains(t, err, "opening a netlink socket")
}
