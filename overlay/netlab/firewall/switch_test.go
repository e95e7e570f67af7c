package firewall

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// unharmed does something while pings go every 10 ms through each row of the
// matrix that pings can tell of, and fails if one is lost.
func (l *lab) unharmed(t *testing.T, what string, do func()) {
	t.Helper()
	var flows []*netlab.Flow
	var names []string
	for _, f := range subnet.Families {
		for _, w := range [][2]*netlab.Host{
			{&l.pod.Host, &l.remote.Host},
			{&l.remote.Host, &l.pod.Host},
			{&l.pod.Host, l.Lan},
			{l.Outside, &l.pod.Host},
			{l.Outside, &l.remote.Host},
		} {
			flow, err := w[0].PingContinuously(t.Context(), w[1].Addrs[f], 10*time.Millisecond)
			require.NoError(t, err)
			flows = append(flows, flow)
			names = append(names, fmt.Sprintf("%s: %s to %s", what, w[0].Name, w[1].Addrs[f]))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i, flow := range flows {
		require.NoError(t, flow.Await(ctx, 5), names[i])
	}
	do()
	sent := 0
	for i, flow := range flows {
		require.NoError(t, flow.Await(ctx, 10), names[i])
		loss, err := flow.Stop()
		require.NoError(t, err)
		require.Zero(t, loss.Lost(), "%s: %+v", names[i], loss)
		sent += loss.Sent
	}
	t.Logf("%s: 0 of %d lost", what, sent)
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
		eventually(t, "the others' leftovers are swept", func() error {
			if got := ours(t, &l.one.Host); got != want[mode] {
				return fmt.Errorf("it has\n%s\nand not\n%s", got, want[mode])
			}
			return nil
		})
		require.Equal(t, foreign, others(t, &l.one.Host))
	}
	config := map[string]map[string]any{"nftables": {"EnableNFTables": true}, "iptables-nft": {"EnableNFTables": false}}
	for _, mode := range []string{"nftables", "iptables-nft", "nftables", "iptables-nft"} {
		l.unharmed(t, "to "+mode+" by config", func() {
			l.configure(t, config[mode])
			settled(t, mode)
		})
	}
	for _, variant := range []string{"legacy", "nft"} {
		l.unharmed(t, "to iptables-"+variant+" by a restart", func() {
			sh(t, &l.one.Host, iptablesIs(variant))
			l.start(t, l.one)
			settled(t, "iptables-"+variant)
		})
		l.unharmed(t, "to nftables by flag", func() {
			l.start(t, l.one, "--firewall=nftables")
			settled(t, "nftables")
		})
	}
	for _, more := range []map[string]any{
		{"EnableNFTables": false, "NonMasqueradeCIDRs": excluded},
		{"EnableNFTables": false},
	} {
		l.unharmed(t, "other destinations", func() {
			l.configure(t, more)
			l.eventuallyExcluded(t, more["NonMasqueradeCIDRs"] != nil)
		})
	}
	l.unharmed(t, "IPv4 alone", func() {
		l.configure(t, map[string]any{"MasqueradeIPv6": false})
		eventually(t, "IPv6 is not masqueraded", func() error {
			if got := seen(t, &l.pod.Host, l.Outside, subnet.IPv6); got != l.pod.Addrs[subnet.IPv6] {
				return fmt.Errorf("%s is seen", got)
			}
			return nil
		})
		require.Equal(t, l.one.Addrs[subnet.IPv4], seen(t, &l.pod.Host, l.Outside, subnet.IPv4))
	})
}
