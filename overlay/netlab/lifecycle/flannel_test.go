package lifecycle

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// flannel is a node as flannel makes it, by hand: what its documents and its
// behaviour (0.28) tell.
type flannel struct {
	*netlab.Node
	families []subnet.Family
	key      string
	subnets  subnet.PerFamily[netip.Prefix]
	macs     subnet.PerFamily[string]
}

var flannelDevices = subnet.PerFamily[string]{"flannel.1", "flannel-v6.1"}

func newFlannel(n *netlab.Node, stack netlab.Stack) *flannel {
	f := &flannel{
		Node: n, families: stack.Families(), key: "10.244.33.0-24",
		subnets: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.33.0/24"), netip.MustParsePrefix("fd00:244:0:33::/64")},
		macs:    subnet.PerFamily[string]{"0e:00:00:00:04:33", "0e:00:00:00:06:33"},
	}
	if stack == netlab.DualStack {
		f.key += "&fd00:244:0:33::-64"
	}
	return f
}

// announce writes the lease as flannel does, also to renew it: without a node
// name, on a new etcd lease.
func (f *flannel) announce(t *testing.T, c *cluster) {
	t.Helper()
	value := fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":%q}}`, f.Addrs[0], f.macs[0])
	if len(f.families) == 2 {
		value = fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":%q,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":%q},"BackendV6Data":{"VNI":1,"VtepMAC":%q}}`,
			f.Addrs[0], f.Addrs[1], f.macs[0], f.macs[1])
	}
	lease, err := c.etcd.Grant(t.Context(), 24*3600)
	require.NoError(t, err)
	_, err = c.etcd.Put(t.Context(), leases+f.key, value, clientv3.WithLease(lease.ID))
	require.NoError(t, err)
}

// configure makes the devices, the way to each peer, and the subnet.env of the
// CNI plugin.
func (f *flannel) configure(t *testing.T, peers []record) {
	t.Helper()
	script := "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n"
	for _, family := range f.families {
		own, dev := f.subnets[family].Addr(), flannelDevices[family]
		script += fmt.Sprintf(`
			ip link add %s address %s type vxlan id 1 dstport 8472 local %s dev eth0 nolearning
			ip address add %s/%d dev %[1]s
			ip link set %[1]s up
			`, dev, f.macs[family], f.Addrs[family], own, own.BitLen())
		for _, r := range peers {
			script += fmt.Sprintf(`
				ip neigh add %[1]s lladdr %[2]s dev %[3]s nud permanent
				bridge fdb add %[2]s dev %[3]s dst %[4]s
				ip route add %[5]s via %[1]s dev %[3]s onlink
				`, r.Subnets[family].Addr(), r.MAC(family), dev, r.Announced(family), r.Subnets[family])
		}
	}
	netlabtest.Run(t, &f.Host, script)
	env := "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.33.1/24\n"
	if len(f.families) == 2 {
		env += "FLANNEL_IPV6_NETWORK=fd00:244::/48\nFLANNEL_IPV6_SUBNET=fd00:244:0:33::1/64\n"
	}
	require.NoError(t, os.MkdirAll(f.Path("/run/twill"), 0o755))
	require.NoError(t, os.WriteFile(f.Path("/run/twill/subnet.env"), []byte(env+"FLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n"), 0o644))
}

// A flannel node is a peer like any other. A node that ran flannel before
// keeps its subnet, and so its pods; where flannel's devices are still there,
// the status says what to do.
func TestFlannelNode(t *testing.T) {
	t.Parallel()
	for _, stack := range []netlab.Stack{netlab.IPv4Only, netlab.DualStack} {
		t.Run(string(stack), func(t *testing.T) {
			c := newCluster(t, netlab.Options{Nodes: 3, Overlay: stack})
			pods := c.deploy(t, c.Nodes[:2])
			f := newFlannel(c.Node(3), stack)
			f.configure(t, c.records(t))
			f.announce(t, c)

			for _, n := range c.Nodes[:2] {
				c.awaitWays(t, n)
				s := status(t, n)
				require.Empty(t, s.Refused)
				require.Len(t, s.Peers, 2)
				require.Equal(t, f.Addrs[subnet.IPv4].String(), s.Peers[0].Node, "its public IP stands for the name")
			}
			pods = append(pods, netlabtest.AddPod(t, f.Node, "pod"))
			requirePings(t, pods...)
			unharmed(t, pods, func() {
				m := startMonitor(t, c.Node(1))
				f.announce(t, c)
				c.put(t, "10.244.200.0-24", "no JSON") // told after the renewal
				awaitStatus(t, c.Node(1), "it has seen the renewal", func(s overlay.Status) bool { return len(s.Refused) == 1 })
				require.Empty(t, m.stop(t), "a renewal changes nothing")
				c.delete(t, "10.244.200.0-24")
			})

			c.launch(t, f.Node)
			s := awaitStatus(t, f.Node, "flannel's devices are named", func(s overlay.Status) bool {
				return strings.Count(s.Text(), "already uses VNI 1 on port 8472") >= len(f.families)
			})
			for _, family := range f.families {
				require.Contains(t, s.Text(), "ip link delete "+flannelDevices[family])
			}
			require.False(t, s.Ready)
			now := c.record(t, f.Name)
			require.Equal(t, f.key, now.Key)
			require.NotEqual(t, f.macs[subnet.IPv4], now.BackendData.VtepMAC)
			require.Len(t, c.records(t), 3)
			require.Contains(t, statEnv(t, f.Node).content, "FLANNEL_MTU=1400\n", "flannel's file is not touched yet")

			for _, family := range f.families {
				netlabtest.Run(t, &f.Host, "ip link delete "+flannelDevices[family])
			}
			c.awaitReady(t, f.Node)
			for _, n := range c.Nodes {
				c.awaitWays(t, n)
				// Looks at the host's routes are paced: those of flannel, which went
				// with its devices, may be named for a moment.
				awaitStatus(t, n, "nothing fails any more", func(s overlay.Status) bool { return len(s.Failing) == 0 })
			}
			require.NotContains(t, statEnv(t, f.Node).content, "FLANNEL_MTU=1400\n")
			requirePings(t, pods...)
		})
	}
}
