package pods_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/subnet"
)

// node has moved from 10.5.1.0/24 and fd00:5:0:1::/64 to number 2.
func node() pods.Node {
	n := pods.Node{Overlay: []netip.Prefix{prefix("10.5.0.0/16"), prefix("fd00:5::/48")}, Bridges: []string{"mine0"}}
	n.Subnets[subnet.IPv4], n.Subnets[subnet.IPv6] = prefix("10.5.2.0/24"), prefix("fd00:5:0:2::/64")
	return n
}

func put(bridge, p string) backend.Change {
	return backend.Change{Want: backend.Address{Link: bridge, Prefix: prefix(p)}}
}

func drop(bridge, p string) backend.Change {
	return backend.Change{Have: backend.Address{Link: bridge, Prefix: prefix(p)}}
}

func TestBridgeAddresses(t *testing.T) {
	t.Parallel()
	oldPod := veth("v", "cni0", "twill:cbr0/a/eth0/10.5.1.7/fd00:5:0:1::7")
	newPod := veth("v", "cni0", "twill:cbr0/a/eth0/10.5.2.7/fd00:5:0:2::7")
	for _, c := range []struct {
		name   string
		change func(*pods.Node)
		inv    pods.Inventory
		host   backend.Host
		want   []backend.Change
	}{
		{name: "no bridge", host: host()},
		{name: "as it should be", host: host(bridge("cni0", 1450, "10.5.2.1/24", "fd00:5:0:2::1/64"), newPod)},
		{name: "no address yet: the plugin puts it", host: host(bridge("cni0", 1450), newPod)},
		{name: "a gateway that the admin chose", host: host(bridge("cni0", 1450, "10.5.2.254/24"), newPod)},
		{
			name: "the subnet changed, no pods", host: host(bridge("cni0", 1450, "10.5.1.1/24", "fd00:5:0:1::1/64", "fe80::1/64")),
			want: []backend.Change{
				put("cni0", "10.5.2.1/24"), drop("cni0", "10.5.1.1/24"),
				put("cni0", "fd00:5:0:2::1/64"), drop("cni0", "fd00:5:0:1::1/64"),
			},
		},
		{
			name: "only new pods", host: host(bridge("cni0", 1450, "10.5.2.1/24", "10.5.1.1/24"), newPod),
			want: []backend.Change{drop("cni0", "10.5.1.1/24"), put("cni0", "fd00:5:0:2::1/64")},
		},
		{
			name: "down and up: IPv6 is lost", host: host(bridge("cni0", 1450, "10.5.2.1/24", "fe80::1/64"), newPod),
			want: []backend.Change{put("cni0", "fd00:5:0:2::1/64")},
		},
		{
			name: "the only gateway is lost, which the network's config names", host: host(bridge("cni0", 1450), newPod),
			change: func(n *pods.Node) { n.Gateways = []string{"cni0"}; n.Subnets[subnet.IPv6] = netip.Prefix{} },
			want:   []backend.Change{put("cni0", "10.5.2.1/24")},
		},
		{
			name: "and both of them", host: host(bridge("cni0", 1450, "fe80::1/64"), newPod),
			change: func(n *pods.Node) { n.Gateways = []string{"cni0"} },
			want:   []backend.Change{put("cni0", "10.5.2.1/24"), put("cni0", "fd00:5:0:2::1/64")},
		},
		{
			name: "a bridge that has one, without pods", host: host(bridge("cni0", 1450)),
			change: func(n *pods.Node) { n.Gateways = []string{"cni0"} },
		},
		{name: "pods of IPv4 alone", host: host(bridge("cni0", 1450, "10.5.2.1/24"), veth("v", "cni0", "twill:cbr0/a/eth0/10.5.2.7/"))},
		{name: "not the gateway of IPv4 either", host: host(bridge("cni0", 1450, "10.5.2.254/24"), newPod)},
		{
			name: "old pods keep their gateway, behind ours", host: host(bridge("cni0", 1450, "10.5.1.1/24", "fd00:5:0:1::1/64"), oldPod),
			want: []backend.Change{
				put("cni0", "10.5.2.1/24"), drop("cni0", "10.5.1.1/24"), put("cni0", "10.5.1.1/24"),
				put("cni0", "fd00:5:0:2::1/64"),
			},
		},
		{name: "that is a stable state", host: host(bridge("cni0", 1450, "10.5.2.1/24", "10.5.1.1/24", "fd00:5:0:1::1/64", "fd00:5:0:2::1/64"), oldPod)},
		{
			name: "a peer has the old subnet", host: host(bridge("cni0", 1450, "10.5.1.1/24"), oldPod),
			change: func(n *pods.Node) { n.Taken = func(p netip.Prefix) bool { return p == prefix("10.5.1.0/24") } },
			want:   []backend.Change{put("cni0", "10.5.2.1/24"), drop("cni0", "10.5.1.1/24")},
		},
		{
			name: "a pod without alias", host: host(bridge("cni0", 1450, "10.5.2.1/24", "10.5.1.1/24", "10.5.3.1/24")),
			inv:  pods.Inventory{InUse: []netip.Addr{addr("10.5.3.9")}},
			want: []backend.Change{drop("cni0", "10.5.1.1/24")},
		},
		{
			name: "pods that nobody knows", host: host(bridge("cni0", 1450, "10.5.2.1/24", "10.5.1.1/24")),
			inv: pods.Inventory{Unknown: []pods.Veth{{Name: "v"}}},
		},
		{
			name: "another length of the subnet", host: host(bridge("cni0", 1450, "10.5.2.1/23"), newPod),
			want: []backend.Change{put("cni0", "10.5.2.1/24"), drop("cni0", "10.5.2.1/23")},
		},
		{
			name: "the overlay network changed", host: host(bridge("cni0", 1450, "10.99.1.1/24"), veth("v", "cni0", "twill:cbr0/a/eth0/10.99.1.7/")),
			want: []backend.Change{put("cni0", "10.5.2.1/24"), drop("cni0", "10.99.1.1/24"), put("cni0", "10.99.1.1/24")},
		},
		{name: "cni0 is somebody else's", host: host(bridge("cni0", 1450, "10.88.0.1/16", "192.168.0.1/24"), veth("v", "cni0", ""))},
		{name: "no gateway but an address of an admin", host: host(bridge("cni0", 1450, "10.5.1.200/24"), oldPod)},
		{name: "the whole network", host: host(bridge("cni0", 1450, "10.5.0.1/16"))},
		{name: "a bridge without pods of ours", host: host(bridge("br0", 1450, "10.5.1.1/24"), veth("v", "br0", ""))},
		{name: "no bridge at all", host: host(backend.Interface{Name: "cni0", Kind: "veth", Addresses: bridge("", 0, "10.5.1.1/24").Addresses})},
		{
			name: "a bridge of a network of ours, and one found by its pods",
			host: host(bridge("mine0", 1450, "10.5.1.1/24"), bridge("br0", 1450, "10.5.3.1/24"), veth("v", "br0", "twill:blue/a/eth0/10.5.2.7/")),
			want: []backend.Change{put("mine0", "10.5.2.1/24"), drop("mine0", "10.5.1.1/24"), put("br0", "10.5.2.1/24"), drop("br0", "10.5.3.1/24")},
		},
		{
			name: "a family that is not ours", host: host(bridge("cni0", 1450, "10.5.1.1/24", "fd00:5:0:1::1/64")),
			change: func(n *pods.Node) { n.Subnets[subnet.IPv6] = netip.Prefix{} },
			want:   []backend.Change{put("cni0", "10.5.2.1/24"), drop("cni0", "10.5.1.1/24")},
		},
		{
			name: "no lease", host: host(bridge("cni0", 1450, "10.5.1.1/24")),
			change: func(n *pods.Node) { n.Subnets = subnet.PerFamily[netip.Prefix]{} },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := node()
			if c.change != nil {
				c.change(&n)
			}
			c.inv.Pods = pods.From(c.host.Interfaces)
			plan := pods.Bridges(c.host, c.inv, n)
			require.Equal(t, c.want, plan.Changes)
		})
	}
}

func TestStranded(t *testing.T) {
	t.Parallel()
	h := host(
		bridge("cni0", 1450),
		veth("v1", "cni0", "twill:cbr0/new/eth0/10.5.2.7/fd00:5:0:2::7"),
		veth("v2", "cni0", "twill:cbr0/old/eth0/10.5.1.7/fd00:5:0:1::7"),
		veth("v3", "cni0", "twill:cbr0/half/eth0/10.5.2.8/fd00:5:0:1::8"),
		veth("v4", "cni0", "twill:cbr0/bare/eth0//"),
	)
	names := []string{}
	for _, p := range pods.Bridges(h, pods.Inventory{Pods: pods.From(h.Interfaces)}, node()).Stranded {
		names = append(names, p.Container)
	}
	require.Equal(t, []string{"old", "half"}, names)
}

func TestBridgeMTU(t *testing.T) {
	t.Parallel()
	small, large, foreign := veth("v1", "cni0", "twill:n/a/eth0//"), veth("v2", "cni0", "twill:n/b/eth0//"), veth("v3", "cni0", "")
	large.MTU = 8950
	for _, c := range []struct {
		name string
		host backend.Host
		want []pods.BridgeMTU
	}{
		{"the kernel's own", host(bridge("cni0", 1450), small, large), nil},
		{"no ports", host(bridge("cni0", 1500)), nil},
		{"no port of ours", host(bridge("cni0", 1500), foreign), nil},
		{"set too low", host(bridge("cni0", 1450), large), []pods.BridgeMTU{{Bridge: "cni0", Have: 1450, Want: 8950}}},
		{"set too high", host(bridge("cni0", 8950), large, small), []pods.BridgeMTU{{Bridge: "cni0", Have: 8950, Want: 1450}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, pods.Bridges(c.host, pods.Inventory{}, node()).MTUs)
		})
	}
}

func TestGatewayOfANetwork(t *testing.T) {
	t.Parallel()
	for conf, want := range map[string]bool{
		`{}`:                                true, // our plugin says isGateway then
		`{"delegate":{"isGateway":true}}`:   true,
		`{"delegate":{"isGateway":false}}`:  false,
		`{"ipam":{"gateway":"10.5.1.254"}}`: false,
		`{"delegate":{"type":"ptp"}}`:       false,
		`{"delegate":{"isGateway":false,"isDefaultGateway":true}}`: true,
	} {
		n, err := pods.NetworkOf("cbr0", []byte(conf))
		require.NoError(t, err)
		require.Equal(t, want, n.Gateway, conf)
	}
}
