package datapath

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// secondNetwork gives every node an eth1 on a network of its own, without a
// router: node N is 10.99.0.N and fd99::N. It returns their addresses.
func (c *cluster) secondNetwork() []subnet.PerFamily[netip.Addr] {
	c.t.Helper()
	c.on(c.Lan, "ip", "link", "add", "br-second", "type", "bridge", "mcast_snooping", "0")
	c.on(c.Lan, "ip", "link", "set", "br-second", "up")
	var all []subnet.PerFamily[netip.Addr]
	for i, n := range c.Nodes {
		port := n.Name + "-second"
		// From the machine's PID namespace: "netns PID" means what this
		// process calls the node.
		out, err := exec.CommandContext(c.t.Context(), "nsenter", "--net="+netns(c.Lan), "ip", "link", "add", port,
			"type", "veth", "peer", "name", "eth1", "netns", pid(&n.Host)).CombinedOutput()
		require.NoError(c.t, err, "%s", out)
		c.on(c.Lan, "ip", "link", "set", port, "master", "br-second", "up")
		addrs := subnet.PerFamily[netip.Addr]{netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)}), netip.MustParseAddr(fmt.Sprintf("fd99::%d", i+1))}
		c.on(&n.Host, "ip", "link", "set", "eth1", "up")
		c.on(&n.Host, "ip", "addr", "add", addrs[subnet.IPv4].String()+"/24", "dev", "eth1")
		c.on(&n.Host, "ip", "addr", "add", addrs[subnet.IPv6].String()+"/64", "dev", "eth1", "nodad")
		all = append(all, addrs)
	}
	return all
}

// pid returns a host's first process, and netns its network namespace, as this
// process knows them.
func pid(h *netlab.Host) string { return strings.Split(h.Path("/"), "/")[2] }

func netns(h *netlab.Host) string { return "/proc/" + pid(h) + "/ns/net" }

// tunnelsFrom says why a node's tunnels do not start at these addresses of an
// interface.
func (c *cluster) tunnelsFrom(n *netlab.Node, iface string, addrs subnet.PerFamily[netip.Addr]) error {
	c.t.Helper()
	all := c.vxlans(n)
	v4, v6 := all["twill.1"].LinkInfo.Data, all["twill-v6.1"].LinkInfo.Data
	if v4.Link != iface || v6.Link != iface || v4.Local != addrs[subnet.IPv4].String() || v6.Local6 != addrs[subnet.IPv6].String() {
		return fmt.Errorf("%s has %+v and %+v, not %s of %s", n.Name, v4, v6, addrs, iface)
	}
	return nil
}

// tunnelsTo says why a node's tunnels to a peer do not end at these addresses.
func (c *cluster) tunnelsTo(n *netlab.Node, addrs subnet.PerFamily[netip.Addr]) error {
	c.t.Helper()
	entries := c.entries(n)
	for _, a := range addrs {
		if !strings.Contains(entries, " dst "+a.String()+" ") {
			return fmt.Errorf("%s has no FDB entry to %s:\n%s", n.Name, a, entries)
		}
	}
	return nil
}

func TestExternalInterfaceIsChosen(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 2})
	one, two := c.Node(1), c.Node(2)
	second := c.secondNetwork()
	var pods []*netlab.Pod

	for _, tt := range []struct {
		name  string
		flags [2][]string
		iface string
	}{
		{"by default the one with the default route", [2][]string{}, "eth0"},
		{"--iface NAME", [2][]string{{"--iface=eth1"}, {"--iface=eth7", "--iface=eth1"}}, "eth1"},
		{"--iface ADDRESS", [2][]string{{"--iface=" + one.Addrs[0].String()}, {"--iface=" + two.Addrs[1].String()}}, "eth0"},
		{"--iface-regex on addresses", [2][]string{{"--iface-regex=^10\\.99\\."}, {"--iface-regex=^fd99::"}}, "eth1"},
		{"--iface-regex on names", [2][]string{{"--iface-regex=^eth[0]$"}, {"--iface-regex=^eth7,h0$"}}, "eth0"},
		{"--iface-can-reach", [2][]string{{"--iface-can-reach=10.99.0.250"}, {"--iface-can-reach=fd99::250"}}, "eth1"},
		{"--iface before --iface-regex", [2][]string{{"--iface=eth0", "--iface-regex=eth1"}, {"--iface-regex=eth1", "--iface=eth0"}}, "eth0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := c.sub(t)
			c.runEach(func(n *netlab.Node) []string { return tt.flags[number(n)-1] }, c.Nodes...)
			want := []subnet.PerFamily[netip.Addr]{one.Addrs, two.Addrs}
			if tt.iface == "eth1" {
				want = second
			}
			for i, n := range c.Nodes {
				require.NoError(t, c.tunnelsFrom(n, tt.iface, want[i]))
				require.Equal(t, tt.iface, c.status(n).Underlay.Interface)
				c.eventually(func() error { return c.tunnelsTo(n, want[1-i]) })
				c.probe(n, tt.iface, 1500, 8472)
			}
			if pods == nil {
				pods = c.addPods("pod", c.Nodes...)
			}
			for _, f := range subnet.Families {
				c.largest(&pods[0].Host, &pods[1].Host, f, 1430)
			}
			for _, n := range c.Nodes {
				sent := c.count(n)
				require.NotZero(t, sent.tunnel[subnet.IPv4])
				require.NotZero(t, sent.tunnel[subnet.IPv6])
			}
		})
	}

	t.Run("none matches", func(t *testing.T) {
		c := c.sub(t)
		c.unharmed(netlabtest.Each(pods[0], pods[1]), func(*netlabtest.Traffic) {
			require.NoError(t, c.daemons[0].Stop(t.Context()))
			daemon, err := one.StartTwilld("--iface=eth7")
			require.NoError(t, err)
			c.daemons[0] = daemon
			c.eventually(func() error {
				s, err := c.ask(one)
				if err != nil {
					return err
				}
				for _, p := range s.Problems {
					if strings.Contains(p.Error, "no interface matches --iface eth7: there are eth0, eth1") {
						return nil
					}
				}
				return fmt.Errorf("the problem is not told: %+v", s)
			})
		})
	})
}

// Behind NAT a node announces an address that is not its own.
func TestPublicIPIsAnnounced(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 2, Segments: 2})
	one, two := c.Node(1), c.Node(2)
	public := subnet.PerFamily[netip.Addr]{netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:100::2")}
	_, err := c.Lan.ExecInput(t.Context(), fmt.Sprintf(`table inet nat { chain pre { type nat hook prerouting priority dstnat
		ip daddr %s dnat ip to %s
		ip6 daddr %s dnat ip6 to %s
	}; }`, public[0], two.Addrs[0], public[1], two.Addrs[1]), "nft", "-f", "-")
	require.NoError(t, err)
	c.run(nil, one)
	c.run([]string{"--public-ip=" + public[0].String(), "--public-ipv6=" + public[1].String()}, two)
	c.meshed(c.Nodes...)
	require.NoError(t, c.tunnelsTo(one, public))
	require.NoError(t, c.tunnelsFrom(two, "eth0", two.Addrs), "what it sends has an address of its own")
	require.NoError(t, c.tunnelsTo(two, one.Addrs))
	require.Equal(t, []string{public[0].String(), public[1].String()}, c.status(one).Peers[0].PublicIPs)
	pods := c.addPods("pod", c.Nodes...)
	for _, f := range subnet.Families {
		c.largest(&pods[0].Host, &pods[1].Host, f, 1430)
	}
	c.nothingFragmented()
}

// A node that gets another address tells its peers, and keeps its lease.
func TestAddressMoves(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 2}).start()
	one, two := c.Node(1), c.Node(2)
	pods := c.addPods("pod", c.Nodes...)
	lease := c.subnets(two)
	moved := subnet.PerFamily[netip.Addr]{netip.MustParseAddr("192.168.77.112"), netip.MustParseAddr("fd77::112")}
	traffic := c.traffic(netlabtest.Each(pods[0], pods[1])...)
	// Else the second address of a subnet goes with the first (ip-sysctl).
	c.on(&two.Host, "sysctl", "-qw", "net.ipv4.conf.all.promote_secondaries=1")
	for f, length := range []string{"24", "64"} {
		c.on(&two.Host, "ip", "addr", "add", moved[f].String()+"/"+length, "dev", "eth0")
		c.on(&two.Host, "ip", "addr", "del", two.Addrs[f].String()+"/"+length, "dev", "eth0")
	}
	c.on(&two.Host, "sh", "-c", "ip route replace default via 192.168.77.1; ip -6 route replace default via fd77::1")
	c.eventually(func() error { return c.tunnelsFrom(two, "eth0", moved) })
	c.eventually(func() error { return c.tunnelsTo(one, moved) })
	traffic.Lost(c.t)
	for _, f := range subnet.Families {
		c.largest(&pods[0].Host, &pods[1].Host, f, 1430)
	}
	require.Equal(t, lease, c.subnets(two))
	c.eventually(func() error {
		if entries := c.entries(one); strings.Contains(entries, " dst "+two.Addrs[subnet.IPv4].String()+" ") {
			return fmt.Errorf("it still sends to the old address: %s", entries)
		}
		return nil
	})
}
