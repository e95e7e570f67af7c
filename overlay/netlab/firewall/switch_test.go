package firewall

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// unharmed does something while pings go through each row of the matrix that
// pings can tell of, and fails if one is lost. Before brings back what was
// before.
func (l *lab) unharmed(t *testing.T, what string, do, before func()) {
	t.Helper()
	netlabtest.Unharmed(t, what, []netlabtest.Pair{
		{From: &l.pod.Host, To: &l.remote.Host},
		{From: &l.remote.Host, To: &l.pod.Host},
		{From: &l.pod.Host, To: l.Lan},
		{From: l.Outside, To: &l.pod.Host},
		{From: l.Outside, To: &l.remote.Host},
	}, do, before)
}

// A change of what holds the rules, by the network config or by a flag, and of
// what they are, costs no packet, though all firewalls drop what they do not
// accept; and what the other mode had is swept.
func TestSwitchUnderTraffic(t *testing.T) {
	t.Parallel()
	l := newLab(t, dropAll)
	want, foreign := map[string]string{}, others(t, &l.one.Host)
	settled := func(t *testing.T, mode string) {
		t.Helper()
		l.awaitMode(t, mode)
		if want[mode] == "" {
			want[mode] = ours(t, &l.one.Host)
		}
		netlabtest.Eventually(t, "the others' leftovers are swept", func() error {
			if got := ours(t, &l.one.Host); got != want[mode] {
				return fmt.Errorf("it has\n%s\nand not\n%s", got, want[mode])
			}
			return nil
		})
		require.Equal(t, foreign, others(t, &l.one.Host))
	}
	config := map[string]map[string]any{"nftables": {"EnableNFTables": true}, "iptables-nft": {"EnableNFTables": false}}
	byConfig := func(mode string) func() {
		return func() {
			l.configure(t, config[mode])
			settled(t, mode)
		}
	}
	before := byConfig("nftables")
	step := func(what string, do func()) {
		l.unharmed(t, what, do, before)
		before = do
	}
	for _, mode := range []string{"nftables", "iptables-nft", "nftables", "iptables-nft"} {
		step("to "+mode+" by config", byConfig(mode))
	}
	for _, variant := range []string{"legacy", "nft"} {
		step("to iptables-"+variant+" by a restart", func() {
			netlabtest.Run(t, &l.one.Host, iptablesIs(variant))
			l.start(t, l.one)
			settled(t, "iptables-"+variant)
		})
		step("to nftables by flag", func() {
			l.start(t, l.one, "--firewall=nftables")
			settled(t, "nftables")
		})
	}
	for _, more := range []map[string]any{
		{"EnableNFTables": false, "NonMasqueradeCIDRs": excluded},
		{"EnableNFTables": false},
	} {
		step("other destinations", func() {
			l.configure(t, more)
			l.eventuallyExcluded(t, more["NonMasqueradeCIDRs"] != nil)
		})
	}
	step("IPv4 alone", func() {
		l.configure(t, map[string]any{"MasqueradeIPv6": false})
		netlabtest.Eventually(t, "IPv6 is not masqueraded", func() error {
			if got := seen(t, &l.pod.Host, l.Outside, subnet.IPv6); got != l.pod.Addrs[subnet.IPv6] {
				return fmt.Errorf("%s is seen", got)
			}
			return nil
		})
		require.Equal(t, l.one.Addrs[subnet.IPv4], seen(t, &l.pod.Host, l.Outside, subnet.IPv4))
	})
}
