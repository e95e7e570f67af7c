package kernel_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/subnet"
)

// insideEnv marks the process whose /proc/sys a test mounts read-only.
const insideEnv = "TWILL_TEST_INSIDE"

// In a container /proc/sys is read-only. What netlink can set is set, what is as
// good as wanted is left, and what cannot be is told with what to do.
func TestReadOnlySysctls(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--net", "sh", "-ec", `
			sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=1
			mount --bind /proc/sys /proc/sys
			mount -o remount,bind,ro /proc/sys
			exec "$0" "$@"`, os.Args[0], "-test.run=^TestReadOnlySysctls$", "-test.v")
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	k, err := kernel.New(kernel.Config{})
	require.NoError(t, err)
	defer k.Close()
	for _, args := range [][]string{
		{"link", "set", "lo", "up"}, {"link", "add", "eth0", "type", "veth", "peer", "name", "far"}, {"link", "set", "eth0", "up"},
		{"address", "add", "192.0.2.1/24", "dev", "eth0"},
	} {
		out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	require.NoError(t, k.Apply(t.Context(), []backend.Change{{Want: link(subnet.IPv4)}})[0])
	sysctl := func(name, value string) backend.Sysctl { return backend.Sysctl{Name: "net/" + name, Value: value} }
	put := func(s backend.Sysctl) error { return k.Apply(t.Context(), []backend.Change{{Want: s}})[0] }
	read := func(name string) string {
		b, err := os.ReadFile("/proc/sys/net/" + name)
		require.NoError(t, err)
		return string(b)
	}
	require.ErrorIs(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644), unix.EROFS, "the test is as it says")

	filter := sysctl("ipv4/conf/twill.1/rp_filter", "2")
	require.NotEqual(t, "2\n", read("ipv4/conf/twill.1/rp_filter"))
	require.NoError(t, put(filter))
	require.Equal(t, "2\n", read("ipv4/conf/twill.1/rp_filter"))
	state, err := k.Observe(t.Context(), []string{filter.Name})
	require.NoError(t, err)
	require.Equal(t, backend.Object(filter), state[filter.Key()])

	ra := sysctl("ipv6/conf/twill.1/accept_ra", "0")
	require.Equal(t, "1\n", read("ipv6/conf/twill.1/accept_ra"))
	require.Equal(t, "1\n", read("ipv6/conf/twill.1/forwarding"))
	state, err = k.Observe(t.Context(), []string{ra.Name})
	require.NoError(t, err)
	require.Equal(t, backend.Object(ra), state[ra.Key()], "a device that forwards takes none")
	require.NoError(t, put(ra))

	forward := sysctl("ipv4/ip_forward", "1")
	err = put(forward)
	require.ErrorIs(t, err, unix.EROFS)
	require.ErrorContains(t, err, "set it on the host (sysctl -w net.ipv4.ip_forward=1)")
	err = put(sysctl("ipv6/conf/twill.1/disable_ipv6", "1"))
	require.ErrorContains(t, err, "sysctl -w net.ipv6.conf.twill/1.disable_ipv6=1")
	err = put(sysctl("ipv4/conf/all/rp_filter", "2"))
	require.ErrorIs(t, err, unix.EROFS, "of no device: netlink has no such thing")
}
