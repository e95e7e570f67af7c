package pods_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/subnet"
)

func veth(name, master, alias string) backend.Interface {
	return backend.Interface{Name: name, Kind: "veth", Master: master, Alias: alias, MTU: 1450}
}

func bridge(name string, mtu int, addresses ...string) backend.Interface {
	i := backend.Interface{Name: name, Kind: "bridge", MTU: mtu}
	for _, a := range addresses {
		i.Addresses = append(i.Addresses, backend.InterfaceAddress{Prefix: prefix(a), Usable: true})
	}
	return i
}

func interfaces(all ...backend.Interface) []backend.Interface { return all }

// uplink is a veth with addresses at our end.
func uplink(name string, addresses ...string) backend.Interface {
	i := bridge(name, 1500, addresses...)
	i.Kind = "veth"
	return i
}

func host(all ...backend.Interface) backend.Host { return backend.Host{Interfaces: all} }

func pod(network, id, ifName, v4, v6, link, bridge string) pods.Pod {
	p := pods.Pod{Network: network, Container: id, IfName: ifName, Link: link, Bridge: bridge}
	for f, a := range map[subnet.Family]string{subnet.IPv4: v4, subnet.IPv6: v6} {
		if a != "" {
			p.Addresses[f] = addr(a)
		}
	}
	return p
}

func TestFrom(t *testing.T) {
	t.Parallel()
	got := pods.From(interfaces(
		backend.Interface{Name: "eth0", Alias: "twill:n/c/eth0//"},
		bridge("cni0", 1450),
		veth("veth1", "cni0", "twill:cbr0/a/eth0/10.5.1.2/fd00::2"),
		veth("veth2", "", "twill:cbr0/b/net1/10.5.1.3/"),
		veth("veth3", "cni0", "uplink of rack 3"),
		veth("veth4", "cni0", "twill:v2:cbr0/b"),
		veth("veth5", "vrf1", "twill:cbr0/c/eth0/10.5.1.4/"),
		backend.Interface{Name: "vrf1", Kind: "vrf"},
	))
	require.Equal(t, []pods.Pod{
		pod("cbr0", "a", "eth0", "10.5.1.2", "fd00::2", "veth1", "cni0"),
		pod("cbr0", "b", "net1", "10.5.1.3", "", "veth2", ""),
		pod("cbr0", "c", "eth0", "10.5.1.4", "", "veth5", ""),
	}, got)
}

func TestTake(t *testing.T) {
	t.Parallel()
	h := interfaces(
		bridge("cni0", 1450, "10.5.1.1/24"),
		bridge("docker0", 1500, "172.17.0.1/16", "fe80::1/64"),
		bridge("bare0", 1500, "fe80::1/64"),
		bridge("mine0", 1500, "192.168.7.1/24"),
		bridge("alias0", 1500, "192.168.8.1/24"),
		bridge("old0", 1500, "10.5.9.1/24"),
		veth("aliased", "cni0", "twill:cbr0/a/eth0/10.5.1.2/"),
		veth("flannel", "cni0", ""),
		veth("defaced", "cni0", "twill:v2:what/ever"),
		veth("starting", "cni0", ""),
		veth("docker", "docker0", ""),
		veth("bare", "bare0", ""),
		veth("mine", "mine0", ""),
		veth("alias", "alias0", "twill:cbr0/b/eth0/10.5.1.9/"),
		veth("stranger", "alias0", ""),
		veth("old", "old0", ""),
		veth("loose", "", "rack 3"),
		veth("pair", "", ""),
		veth("gone", "", ""),
		veth("broken", "", ""),
		veth("nspawn", "", ""),
		veth("starting6", "", ""),
		veth("second", "cni0", ""),
		uplink("eth0", "192.168.1.2/24", "fe80::1/64"),
		uplink("routed", "10.5.1.1/32"),
		uplink("bare6", "fe80::1/64"),
		backend.Interface{Name: "tap0", Kind: "tun", Master: "cni0"},
	)
	type addrs = []netip.Addr
	own := map[string]addrs{ // at the veth's other end itself
		"flannel": {addr("10.5.1.3"), addr("fd00::3")},
		"defaced": {addr("10.5.1.4")},
		"old":     {addr("10.5.9.2")},
		"nspawn":  {addr("192.168.1.7"), addr("2001:db8::7")},
		"bare":    nil, "mine": nil, "stranger": nil, "starting": nil, "starting6": nil, "loose": nil, "second": nil,
		"routed": nil, "bare6": nil,
	}
	others := map[string]addrs{
		"flannel":   {addr("192.0.2.1")},
		"loose":     {addr("10.5.1.5")},
		"bare":      {addr("192.168.1.1")},
		"starting6": {addr("2001:db8::9")}, // a router advertises it
		"second":    {addr("10.5.1.6")},    // of its first attachment, to another network perhaps
	}
	look := func(_ context.Context, link string) (int, []netip.Addr, []netip.Addr, error) {
		switch _, ok := own[link]; {
		case ok:
			return 7, own[link], others[link], nil
		case link == "pair":
			return 0, nil, nil, nil
		case link == "gone":
			return 0, nil, nil, unix.ENODEV
		case link == "broken":
			return 8, nil, nil, unix.EPERM
		}
		t.Errorf("veth %s was looked at", link)
		return 0, nil, nil, nil
	}
	g := pods.Ground{Overlay: []netip.Prefix{prefix("10.5.0.0/16"), prefix("fd00::/48")}, Bridges: []string{"mine0"}}
	inv, err := pods.Take(t.Context(), h, g, look)
	require.NoError(t, err)
	require.Len(t, inv.Pods, 2)
	var inUse []netip.Addr
	for _, behind := range []map[string]addrs{own, others} {
		for _, found := range behind {
			inUse = append(inUse, found...)
		}
	}
	require.ElementsMatch(t, inUse, inv.InUse)
	var unknown []string
	for _, v := range inv.Unknown {
		unknown = append(unknown, v.Name)
	}
	require.Equal(t, []string{"starting", "bare", "mine", "stranger", "loose", "broken", "starting6", "second", "routed", "bare6"}, unknown)
	require.Equal(t, 7, inv.Unknown[0].Index)

	// Who does not know the overlay takes no bridge for another's.
	docker := interfaces(bridge("docker0", 1500, "172.17.0.1/16"), veth("docker", "docker0", ""))
	inv, err = pods.Take(t.Context(), docker, pods.Ground{}, func(context.Context, string) (int, []netip.Addr, []netip.Addr, error) {
		return 9, []netip.Addr{addr("172.17.0.2")}, nil, nil
	})
	require.NoError(t, err)
	require.Equal(t, pods.Inventory{InUse: []netip.Addr{addr("172.17.0.2")}, Unknown: []pods.Veth{{Name: "docker", Index: 9}}}, inv)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = pods.Take(ctx, h, g, func(context.Context, string) (int, []netip.Addr, []netip.Addr, error) {
		return 0, nil, nil, errors.New("odd")
	})
	require.ErrorIs(t, err, context.Canceled)
}
