package nftables_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/subnet"
)

func TestRemove(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	ns.Pipe(t, foreign, "nft", "-f", "-")
	require.NoError(t, ns.table().Remove(t.Context()), "nothing there")
	ns.sync(t, rulestest.Dual())
	require.NoError(t, ns.table().Remove(t.Context()))
	require.Equal(t, foreign, ns.Run(t, "nft", "list", "ruleset"))
	require.NoError(t, ns.table().Remove(t.Context()), "twice")
}

// A chain without rules is not there: masquerade off leaves no nat chain, which
// would keep connection tracking on.
func TestSyncFollowsTheConfig(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	ns.Pipe(t, foreign, "nft", "-f", "-")
	show := func() string { return ns.Run(t, "sh", "-c", "nft list table inet twill 2>/dev/null || :") }

	c := rulestest.Dual()
	require.True(t, ns.sync(t, c))

	c.Subnets[subnet.IPv4] = netip.MustParsePrefix("10.244.7.0/24")
	require.True(t, ns.sync(t, c))
	require.Contains(t, show(), "ip saddr 10.244.7.0/24 ip daddr 10.244.0.0/16 return")
	require.NotContains(t, show(), "10.244.1.0/24")

	c.RandomFully = false
	require.True(t, ns.sync(t, c))
	require.Contains(t, show(), "ip saddr 10.244.0.0/16 masquerade comment")
	require.NotContains(t, show(), "fully-random")

	c.Forward = false
	require.False(t, ns.sync(t, c), "accepts are of no use in a table of ours")

	c.Masquerade = subnet.PerFamily[bool]{}
	require.True(t, ns.sync(t, c))
	require.Equal(t, foreign, ns.Run(t, "nft", "list", "ruleset"))
}

func TestErrors(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := ns.table().Sync(cancelled, masq.Plan(rulestest.Dual()))
	require.ErrorIs(t, err, context.Canceled)

	// A transaction that the kernel refuses leaves everything as it was.
	ns.sync(t, rulestest.Dual())
	before := ns.Run(t, "nft", "list", "ruleset")
	bad := masq.Plan(rulestest.Dual())
	bad.Postrouting[0].Comment = string(make([]byte, 300)) // userdata ends at 256 octets
	_, err = ns.table().Sync(t.Context(), bad)
	require.ErrorIs(t, err, unix.ERANGE)
	require.ErrorContains(t, err, "writing table inet twill (chain postrouting has other rules): ")
	require.Equal(t, before, ns.Run(t, "nft", "list", "ruleset"))
}

// Without CAP_NET_ADMIN the error says so.
func TestWithoutCapability(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for name, call := range map[string]func() error{
		"Supported": func() error { return ns.table().Supported(t.Context()) },
		"Sync": func() error {
			_, err := ns.table().Sync(t.Context(), masq.Plan(rulestest.Dual()))
			return err
		},
		"Remove": func() error { return ns.table().Remove(t.Context()) },
	} {
		var err error
		require.NoError(t, rulestest.OnOwnThread(func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			data := [2]unix.CapUserData{}
			if err := unix.Capget(&header, &data[0]); err != nil {
				return err
			}
			data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
			if err := unix.Capset(&header, &data[0]); err != nil {
				return err
			}
			err = call()
			return nil
		}))
		require.ErrorIs(t, err, unix.EPERM, name)
		require.ErrorContains(t, err, "CAP_NET_ADMIN", name)
	}
}
