package kernel_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
)

func TestInterface(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.run("ip link add br0 type bridge")
	ns.run("ip link set far master br0 alias 'one two' mtu 1400")
	ns.run("ip address add 10.5.52.0/32 dev br0")
	ns.run("ip address add 10.5.52.1/24 dev eth0")
	for name, want := range map[string]backend.Interface{
		"far": {Name: "far", Kind: "veth", MTU: 1400, Up: true, Master: "br0", Alias: "one two"},
		"br0": {Name: "br0", Kind: "bridge", MTU: 1400, Addresses: []backend.InterfaceAddress{{Prefix: prefix("10.5.52.0/32"), Usable: true}}},
	} {
		got, err := ns.Interface(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, name := range []string{"none0", strings.Repeat("x", 40)} {
		_, err := ns.Interface(t.Context(), name)
		require.Error(t, err)
	}
	_, err := ns.Interface(t.Context(), "none0")
	require.ErrorIs(t, err, unix.ENODEV)
	require.ErrorContains(t, err, "finding link none0")
	_, err = ns.Interface(cancelled(t), "far")
	require.Error(t, err)

	got, err := ns.Carrying(t.Context(), prefix("10.5.52.0/32"))
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, "br0", got[0].Name)
	got, err = ns.Carrying(t.Context(), prefix("10.5.52.1/32"))
	require.NoError(t, err)
	require.Empty(t, got, "another prefix length is another address")
}

func TestHostEnd(t *testing.T) {
	t.Parallel()
	ns, pod, other := newNamespace(t), newNamespace(t), newNamespace(t)
	for i, n := range []*namespace{pod, other} { // the same indexes in each of the namespaces
		ns.run(fmt.Sprintf("ip link add veth%d type veth peer name peer%d", i, i))
		ns.run(fmt.Sprintf("ip link set peer%d netns /proc/%d/fd/%d", i, os.Getpid(), n.fd))
		name, ok, err := ns.HostEnd(t.Context(), n.Kernel, fmt.Sprintf("peer%d", i))
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, fmt.Sprintf("veth%d", i), name)
	}
	for _, name := range []string{"lo", "eth0"} { // no veth; a veth with its other end in the pod
		_, ok, err := ns.HostEnd(t.Context(), pod.Kernel, name)
		require.NoError(t, err)
		require.False(t, ok, name)
	}
	_, ok, err := other.HostEnd(t.Context(), pod.Kernel, "peer0")
	require.NoError(t, err)
	require.False(t, ok, "its other end is in another namespace")
	_, _, err = ns.HostEnd(t.Context(), pod.Kernel, "none0")
	require.ErrorIs(t, err, unix.ENODEV)
}

func TestAliasAndDelete(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	alias := strings.Repeat("a", 255)
	for _, want := range []string{alias, "twill:a/b/eth0//"} {
		require.NoError(t, ns.SetAlias(t.Context(), "far", want))
		got, err := ns.Interface(t.Context(), "far")
		require.NoError(t, err)
		require.Equal(t, want, got.Alias)
	}
	require.Error(t, ns.SetAlias(t.Context(), "far", alias+"a"))
	require.ErrorIs(t, ns.SetAlias(t.Context(), "none0", alias), unix.ENODEV)
	require.Error(t, ns.SetAlias(cancelled(t), "far", alias))

	require.ErrorContains(t, ns.DeleteVeth(t.Context(), "lo"), `deleting link lo: it is of kind "", not a veth`)
	for range 2 {
		require.NoError(t, ns.DeleteVeth(t.Context(), "far"))
	}
	_, err := ns.Interface(t.Context(), "eth0")
	require.ErrorIs(t, err, unix.ENODEV, "the other end has gone too")
	require.Error(t, ns.DeleteVeth(cancelled(t), "lo"))
}

func TestChains(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	chains := []kernel.Chain{
		{Family: unix.NFPROTO_IPV4, Table: "nat", Name: "CNI-x"},
		{Family: unix.NFPROTO_INET, Table: "nat", Name: "CNI-x"},
		{Family: unix.NFPROTO_IPV4, Table: "nat", Name: "CNI-y"},
		{Family: unix.NFPROTO_IPV4, Table: "nat", Name: strings.Repeat("longer than a name can be", 20)},
	}
	there, err := ns.Chains(t.Context(), chains...)
	require.NoError(t, err)
	require.Equal(t, []bool{false, false, false, false}, there, "there is no table")
	ns.run("nft add table ip nat")
	ns.run("nft add chain ip nat CNI-x")
	there, err = ns.Chains(t.Context(), chains...)
	require.NoError(t, err)
	require.Equal(t, []bool{true, false, false, false}, there)
	_, err = ns.Chains(cancelled(t), chains...)
	require.Error(t, err)
}

func TestChainsWithoutRights(t *testing.T) {
	t.Parallel()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with what it may not
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- err
			return
		}
		k, err := kernel.New(kernel.Config{})
		if err != nil {
			done <- err
			return
		}
		defer k.Close()
		_, err = k.Chains(t.Context(), kernel.Chain{Family: unix.NFPROTO_IPV4, Table: "nat", Name: "a"}, kernel.Chain{Family: unix.NFPROTO_IPV4, Table: "nat", Name: "b"})
		done <- err
	}()
	require.ErrorIs(t, <-done, unix.EPERM)
}

func TestDeleteRules(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	base := kernel.Chain{Family: unix.NFPROTO_BRIDGE, Table: "nat", Name: "PREROUTING"}
	one := kernel.Chain{Family: unix.NFPROTO_BRIDGE, Table: "nat", Name: "one"}
	two := kernel.Chain{Family: unix.NFPROTO_BRIDGE, Table: "nat", Name: "two"}
	mine := func(comment string) bool { return comment == "mine" }
	require.NoError(t, ns.DeleteRules(t.Context(), base, mine, one, two), "there is no table")
	for _, command := range []string{
		"table bridge nat", "chain bridge nat PREROUTING", "chain bridge nat one", "chain bridge nat two",
		`rule bridge nat PREROUTING jump one comment "mine"`, `rule bridge nat PREROUTING counter comment "mine"`,
		`rule bridge nat PREROUTING counter comment "theirs"`, "rule bridge nat PREROUTING counter",
		`rule bridge nat one jump two comment "theirs"`, "rule bridge nat two drop",
	} {
		ns.run("nft add " + command)
	}
	require.ErrorIs(t, ns.DeleteRules(t.Context(), base, func(string) bool { return false }, one), unix.EBUSY)
	require.Error(t, ns.DeleteRules(cancelled(t), base, mine))
	for range 2 {
		require.NoError(t, ns.DeleteRules(t.Context(), base, mine, one, two))
		there, err := ns.Chains(t.Context(), base, one, two)
		require.NoError(t, err)
		require.Equal(t, []bool{true, false, false}, there)
		left := ns.run("nft -a list table bridge nat")
		require.Equal(t, 2, strings.Count(left, "counter"), left)
		require.NotContains(t, left, "mine")
	}
}
