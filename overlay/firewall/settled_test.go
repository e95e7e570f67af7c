package firewall_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/masq"
)

// What a Sync found in order is not read again until somebody writes to
// nf_tables or iptables-legacy, or other rules are wanted.
func TestSettled(t *testing.T) {
	as(t, "legacy")
	h := newHost(fresh(t), masq.AnyRenderer)
	settled := func(what string) {
		t.Helper()
		report := h.mustSync(t, rules(masq.AnyRenderer))
		require.False(t, report.Changed, what)
		require.False(t, h.Settled(), "%s: it may not be all in effect yet", what)
		for until := time.Now().Add(time.Minute); !h.Settled(); <-time.After(50 * time.Millisecond) {
			require.True(t, time.Now().Before(until), what)
			require.False(t, h.mustSync(t, rules(masq.AnyRenderer)).Changed, what)
		}
		require.Equal(t, report, h.mustSync(t, rules(masq.AnyRenderer)), what)
	}
	repaired := func(what string) {
		t.Helper()
		require.True(t, h.mustSync(t, rules(masq.AnyRenderer)).Changed, what)
		require.False(t, h.Settled(), what)
		settled("after " + what)
	}
	repaired("the first one")
	h.sh(t, "nft add table ip foreign")
	settled("somebody's table")
	h.sh(t, "nft flush table inet twill")
	repaired("a flush")
	h.sh(t, "nft add table inet foreign; nft add chain inet foreign f '{ type filter hook forward priority 0; policy drop; }'")
	require.Equal(t, []string{"inet foreign f"}, h.mustSync(t, rules(masq.AnyRenderer)).Forward)
	settled("accepts in somebody's chain")
	require.Equal(t, []string{"inet foreign f"}, h.mustSync(t, rules(masq.AnyRenderer)).Forward)

	other := rules(masq.AnyRenderer)
	other.Postrouting = other.Postrouting[1:]
	require.True(t, h.mustSync(t, other).Changed)
	repaired("other rules")

	h.sh(t, "iptables -S >/dev/null") // makes table filter
	h.mustSync(t, rules(masq.AnyRenderer))
	h.mustSync(t, rules(masq.AnyRenderer))
	require.False(t, h.Settled(), "iptables-legacy announces nothing")
}
