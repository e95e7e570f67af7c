package hygiene_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/subnet"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func config(networks ...string) subnet.Config {
	cfg := subnet.Config{Backend: subnet.Backend{
		Type: subnet.BackendVXLAN, VXLAN: subnet.VXLAN{VNI: 7, Port: 8472, Learning: true},
	}}
	for _, n := range networks {
		cfg.Networks[subnet.FamilyOf(prefix(n).Addr())].Network = prefix(n)
	}
	return cfg
}

func TestHost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  subnet.Config
		want []backend.Object
	}{
		"both families": {config("10.244.0.0/16", "fd00:244::/48"), []backend.Object{hygiene.Guard{
			VNI: 7, Port: 8472, Networks: subnet.PerFamily[netip.Prefix]{prefix("10.244.0.0/16"), prefix("fd00:244::/48")},
		}}},
		"IPv6 alone": {config("fd00:244::/48"), []backend.Object{hygiene.Guard{
			VNI: 7, Port: 8472, Networks: subnet.PerFamily[netip.Prefix]{subnet.IPv6: prefix("fd00:244::/48")},
		}}},
		"no tunnels": {subnet.Config{Backend: subnet.Backend{Type: subnet.BackendAlloc}}, nil},
	} {
		require.Equal(t, c.want, hygiene.Host(c.cfg, subnet.Lease{}, false), name)
	}
}

func TestPeer(t *testing.T) {
	t.Parallel()
	dual := config("10.244.0.0/16", "fd00:244::/48")
	peer := subnet.Lease{
		Node:      "b",
		PublicIPs: subnet.PerFamily[netip.Addr]{addr("192.0.2.2"), addr("2001:db8::2")},
		Subnets:   subnet.PerFamily[netip.Prefix]{prefix("10.244.2.0/24"), prefix("fd00:244:0:2::/64")},
	}
	only4, only6 := peer, peer
	only4.PublicIPs[subnet.IPv6] = netip.Addr{}
	only6.PublicIPs[subnet.IPv4] = netip.Addr{}
	nat := only4
	nat.Sources[subnet.IPv4] = addr("10.0.2.15")
	mapped := only4
	mapped.PublicIPs[subnet.IPv4] = addr("::ffff:192.0.2.2")
	from4 := []string{"permit 192.0.2.2", "permit 192.0.2.2 from 10.244.2.0/24", "permit 192.0.2.2 from fd00:244:0:2::/64"}
	from6 := []string{"permit 2001:db8::2", "permit 2001:db8::2 from 10.244.2.0/24", "permit 2001:db8::2 from fd00:244:0:2::/64"}
	for name, c := range map[string]struct {
		cfg  subnet.Config
		peer subnet.Lease
		want []string
	}{
		"dual stack underlay":    {dual, peer, append(from4[:3:3], from6...)},
		"IPv6 pods in IPv4":      {dual, only4, from4},
		"IPv4 pods in IPv6":      {dual, only6, from6},
		"an IPv4-mapped address": {dual, mapped, from4},
		"NAT one way": {dual, nat, append(from4[:3:3],
			"permit 10.0.2.15", "permit 10.0.2.15 from 10.244.2.0/24", "permit 10.0.2.15 from fd00:244:0:2::/64")},
		"a family that is off":         {config("10.244.0.0/16"), peer, []string{from4[0], from4[1], from6[0], from6[1]}},
		"a peer that announces none":   {dual, subnet.Lease{Subnets: peer.Subnets}, nil},
		"a backend without any tunnel": {subnet.Config{Backend: subnet.Backend{Type: subnet.BackendAlloc}}, peer, nil},
	} {
		var have []string
		for _, o := range hygiene.Peer(c.cfg, subnet.Lease{}, c.peer) {
			have = append(have, o.String())
		}
		require.Equal(t, c.want, have, name)
	}
}

// A guard that asks for peers before they are known, or after they have been
// forgotten, would drop their packets.
func TestOrder(t *testing.T) {
	t.Parallel()
	guard := hygiene.Guard{VNI: 1, Port: 8472}
	permit := hygiene.Permit{Outer: addr("192.0.2.2")}
	link := backend.Link{Name: "twill.1"}
	route := backend.Route{Dst: prefix("10.244.2.0/24"), Via: addr("192.0.2.2"), Link: "eth0"}
	all := backend.NewState(route, link, guard, permit)
	var put, deleted []backend.Kind
	for _, c := range backend.Diff(all, nil) {
		put = append(put, c.Key().Kind)
	}
	for _, c := range backend.Diff(nil, all) {
		deleted = append(deleted, c.Key().Kind)
	}
	require.Equal(t, []backend.Kind{backend.KindPermit, backend.KindGuard, backend.KindLink, backend.KindRoute}, put)
	require.Equal(t, []backend.Kind{backend.KindRoute, backend.KindLink, backend.KindGuard, backend.KindPermit}, deleted)

	altered := guard
	altered.Condition = hygiene.Altered
	require.Len(t, backend.Diff(backend.NewState(guard), backend.NewState(altered)), 1)
}

func TestStrings(t *testing.T) {
	t.Parallel()
	guard := hygiene.Guard{VNI: 1, Port: 8472, Networks: subnet.PerFamily[netip.Prefix]{prefix("10.244.0.0/16"), prefix("fd00::/48")}}
	altered, broken := guard, guard
	altered.Condition, broken.Condition = hygiene.Altered, hygiene.Broken
	pod := hygiene.Pod{Link: "veth1", Addresses: subnet.PerFamily[netip.Addr]{addr("10.244.1.2"), addr("fd00::2")}}
	for want, o := range map[string]backend.Object{
		"guard vni 1 port 8472 network 10.244.0.0/16 fd00::/48": guard,
		"guard, altered": altered,
		"guard, broken":  broken,
		"pod veth1 address 10.244.1.2 address fd00::2": pod,
		"pod veth1, altered":                           hygiene.Pod{Link: "veth1", Altered: true},
	} {
		require.Equal(t, want, o.String())
	}
	require.Equal(t, "guard", guard.Key().String())
	require.Equal(t, "pod veth1", pod.Key().String())
	require.Equal(t, "pod", backend.KindPod.String())
}
