package kernel_test

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

func (ns *namespace) interfaceOf(name string) backend.Interface {
	ns.t.Helper()
	host, err := ns.Host(ns.t.Context())
	require.NoError(ns.t, err)
	i, ok := host.Interface(name)
	require.True(ns.t, ok, name)
	return i
}

// prefixes returns the addresses of a link in the order of the kernel, without
// link-local ones.
func (ns *namespace) prefixes(name string) (all []netip.Prefix) {
	ns.t.Helper()
	for _, a := range ns.interfaceOf(name).Addresses {
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			all = append(all, a.Prefix)
		}
	}
	return all
}

func TestApplyBridge(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.run("ip link add cni0 type bridge")
	ns.run("ip link set cni0 up")
	ns.run("ip address add 10.5.1.1/24 dev cni0")
	old := backend.Address{Link: "cni0", Prefix: prefix("10.5.1.1/24")}
	now := backend.Address{Link: "cni0", Prefix: prefix("10.5.2.1/24")}
	six := backend.Address{Link: "cni0", Prefix: prefix("fd00:5:2::1/64")}
	move := []backend.Change{{Want: now}, {Have: old}, {Want: old}, {Want: six}}
	for range 2 { // the second time it is all there
		for _, err := range ns.ApplyBridge(t.Context(), move) {
			require.NoError(t, err)
		}
		require.Equal(t, []netip.Prefix{now.Prefix, old.Prefix, six.Prefix}, ns.prefixes("cni0"), "the kernel lists what was put first, first")
	}
	require.NotContains(t, ns.run("ip -6 address show dev cni0"), "tentative")
	for range 2 {
		require.NoError(t, ns.ApplyBridge(t.Context(), []backend.Change{{Have: old}})[0])
		require.Equal(t, []netip.Prefix{now.Prefix, six.Prefix}, ns.prefixes("cni0"))
	}
	// What fails holds up the rest of IPv4, and not IPv6.
	bad := backend.Neighbor{Link: "cni0", IP: addr("10.5.9.9")}
	ns.run("ip address add 10.5.3.1/24 dev cni0")
	third := backend.Address{Link: "cni0", Prefix: prefix("10.5.3.1/24")}
	errs := ns.ApplyBridge(t.Context(), []backend.Change{{Want: bad}, {Have: third}, {Have: six}})
	require.Error(t, errs[0])
	require.ErrorContains(t, errs[1], "deleting address 10.5.3.1/24 dev cni0: not tried after a failure: ")
	require.NoError(t, errs[2])
	require.Equal(t, []netip.Prefix{now.Prefix, third.Prefix}, ns.prefixes("cni0"))

	gone := backend.Address{Link: "nobr0", Prefix: old.Prefix}
	require.NoError(t, ns.ApplyBridge(t.Context(), []backend.Change{{Have: gone}})[0])
	require.ErrorIs(t, ns.ApplyBridge(t.Context(), []backend.Change{{Want: gone}})[0], unix.ENODEV)

	onEth0 := backend.Address{Link: "eth0", Prefix: old.Prefix}
	require.ErrorContains(t, ns.ApplyBridge(t.Context(), []backend.Change{{Want: onEth0}})[0],
		"adding address 10.5.1.1/24 dev eth0: veth device eth0 is not a bridge")
	require.NoError(t, ns.ApplyBridge(t.Context(), []backend.Change{{Have: backend.Address{Link: "eth0", Prefix: prefix("192.0.2.1/24")}}})[0])
	require.Contains(t, ns.prefixes("eth0"), prefix("192.0.2.1/24"), "only a bridge's addresses are taken away")
	require.ErrorContains(t, ns.ApplyBridge(t.Context(), []backend.Change{{Want: backend.Route{Dst: prefix("10.0.0.0/8"), Link: "cni0"}}})[0], "nothing but an address")
	require.Error(t, ns.ApplyBridge(cancelled(t), move)[3])
}

func TestBridgeMTU(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.run("ip link add cni0 mtu 1450 type bridge")
	ns.run("ip link set far master cni0")
	require.Equal(t, 1500, ns.interfaceOf("cni0").MTU, "the kernel follows the smallest port")
	require.NoError(t, ns.SetBridgeMTU(t.Context(), "cni0", 1400))
	require.Equal(t, 1400, ns.interfaceOf("cni0").MTU)
	ns.run("ip link set far mtu 1300")
	require.Equal(t, 1400, ns.interfaceOf("cni0").MTU, "but not any more once somebody has set it")
	require.ErrorContains(t, ns.SetBridgeMTU(t.Context(), "eth0", 1400), "setting the MTU of bridge eth0 to 1400 bytes: veth device eth0 is not a bridge")
}

func TestBehind(t *testing.T) {
	t.Parallel()
	ns, pod := newNamespace(t), newNamespace(t)
	index, _, _, err := ns.Behind(t.Context(), "far")
	require.NoError(t, err)
	require.Zero(t, index, "both ends are here")

	ns.run("ip link add veth0 type veth peer name peer0")
	ns.run(fmt.Sprintf("ip link set peer0 netns /proc/%d/fd/%d", os.Getpid(), pod.fd))
	pod.run("ip link set peer0 up")
	pod.run("ip address add 10.5.1.7/24 dev peer0")
	pod.run("ip address add 10.5.1.8/24 dev peer0 valid_lft 1000 preferred_lft 1000") // by DHCP
	pod.run("ip address add fd00:5::7/64 dev peer0 nodad")
	pod.run("ip address add fd00:5::8/64 dev peer0 nodad valid_lft 1000 preferred_lft 1000") // by a router advertisement
	index, own, others, err := ns.Behind(t.Context(), "veth0")
	require.NoError(t, err)
	require.Equal(t, strings.Split(ns.run("ip -o link show dev veth0"), ":")[0], strconv.Itoa(index))
	require.ElementsMatch(t, []netip.Addr{addr("10.5.1.7"), addr("10.5.1.8"), addr("fd00:5::7")}, own)
	require.ElementsMatch(t, []netip.Addr{addr("fd00:5::8"), addr("192.0.2.1"), addr("192.0.2.2"), addr("2001:db8::1"), addr("2001:db8::2")}, others)

	for _, name := range []string{"lo", "none0"} {
		_, _, _, err = ns.Behind(t.Context(), name)
		require.ErrorIs(t, err, unix.ENODEV)
	}
	_, _, _, err = ns.Behind(cancelled(t), "veth0")
	require.Error(t, err)
}
