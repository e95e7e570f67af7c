package firewall_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/nftables"
	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/overlay/firewall"
)

// lingering is a host whose accepts stay for a time that no test waits for.
func lingering(ns rulestest.Namespace) host {
	in := nftables.InNetNS(ns.FD())
	return host{ns, firewall.New(firewall.Config{Resync: 50 * time.Millisecond, Linger: time.Hour}, nftables.New(in), nftables.NewForeign(in))}
}

const (
	early4 = "ip nft TWILL-FORWARD\n"
	place4 = "ip filter FORWARD (iptables-nft)"
)

// Where others use FORWARD of iptables-nft, the accepts are there before it
// drops, and cost no process. They go when nobody uses it any more.
func TestForwardEarly(t *testing.T) {
	as(t, "nft")
	for _, mode := range []masq.Renderer{masq.NFTables, masq.AnyRenderer} {
		runs := counted(t)
		h := newHost(fresh(t), masq.AnyRenderer)
		h.sh(t, "iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER; ip6tables -A INPUT -j ACCEPT")
		require.Equal(t, []string{place4}, h.mustSync(t, rules(mode)).Forward)
		require.Equal(t, nftOwn+early4, h.everything(t))
		for _, policy := range []string{"DROP", "ACCEPT", "DROP"} {
			h.sh(t, "iptables -P FORWARD "+policy)
			report := h.mustSync(t, rules(mode))
			require.False(t, report.Changed, "the accepts were there before")
			require.Equal(t, []string{place4}, report.Forward)
			runs()
			h.mustSync(t, rules(mode))
			require.Empty(t, runs())
		}
		h.sh(t, "iptables -P FORWARD ACCEPT")

		off := rulestest.Dual()
		off.Forward, off.Renderer = false, mode
		h.mustSync(t, masq.Plan(off))
		require.NotContains(t, h.everything(t), "TWILL-FORWARD")

		h.mustSync(t, rules(mode))
		h.sh(t, "iptables -D FORWARD -j DOCKER-USER")
		require.Empty(t, h.mustSync(t, rules(mode)).Forward, "nobody uses it")
		require.Equal(t, nftOwn, h.everything(t))

		h.sh(t, "iptables -A FORWARD -j DOCKER-USER")
		h.mustSync(t, rules(mode))
		require.NoError(t, h.Do(func() error { return newHost(h.Namespace, masq.AnyRenderer).Remove(t.Context()) }))
		require.Empty(t, h.everything(t))
		require.Contains(t, h.sh(t, "iptables -S FORWARD"), "-A FORWARD -j DOCKER-USER")
	}
}

// Scripts empty FORWARD before they fill it and make it drop: the accepts are
// there all along.
func TestForwardLingers(t *testing.T) {
	as(t, "nft")
	h := lingering(fresh(t))
	h.sh(t, "iptables -P FORWARD DROP")
	h.mustSync(t, rules(masq.AnyRenderer))
	for _, step := range []string{"iptables -P FORWARD ACCEPT", "iptables -F", "iptables -X TWILL-FORWARD || iptables -F; iptables -P FORWARD DROP"} {
		h.sh(t, step)
		h.mustSync(t, rules(masq.AnyRenderer))
		require.Contains(t, h.sh(t, "iptables -S"), "-A FORWARD -m comment --comment \"twill forward\" -j TWILL-FORWARD", step)
	}
	h.sh(t, "iptables -P FORWARD ACCEPT")
	off := rulestest.Dual()
	off.Forward = false
	h.mustSync(t, masq.Plan(off))
	require.Equal(t, nftOwn, h.everything(t), "unless there are to be none")

	// One that never saw it used leaves nothing there.
	h = lingering(h.Namespace)
	h.sh(t, "iptables -N TWILL-FORWARD; iptables -A FORWARD -j TWILL-FORWARD")
	h.mustSync(t, rules(masq.AnyRenderer))
	require.Equal(t, nftOwn, h.everything(t))
}

// A FORWARD that iptables-nft cannot read is nobody's problem before it drops,
// and is left alone after some tries.
func TestForwardEarlyImpossible(t *testing.T) {
	as(t, "nft")
	runs := counted(t)
	h := newHost(fresh(t), masq.AnyRenderer)
	h.sh(t, `nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; }
		add rule ip filter FORWARD ct mark 1 counter drop'
		ip6tables -A FORWARD -j ACCEPT`)
	for range 6 {
		report := h.mustSync(t, rules(masq.AnyRenderer))
		require.Empty(t, report.Blocked)
		require.Equal(t, []string{"ip6 filter FORWARD (iptables-nft)"}, report.Forward, "the other family")
	}
	runs()
	h.mustSync(t, rules(masq.AnyRenderer))
	require.Empty(t, runs())
	h.sh(t, "nft 'chain ip filter FORWARD { policy drop; }'")
	require.Len(t, h.mustSync(t, rules(masq.AnyRenderer)).Blocked, 1)
}

// One table that cannot be written keeps the accepts from no other, and what
// the mode before has left is not swept meanwhile.
func TestPlacesThoughOneTableFails(t *testing.T) {
	as(t, "nft")
	h := newHost(fresh(t), masq.AnyRenderer)
	h.mustSync(t, rules(masq.NFTables))
	h.sh(t, `nft 'add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }
		add table ip6 nat; add chain ip6 nat POSTROUTING { type nat hook postrouting priority 100; }; add rule ip6 nat POSTROUTING ct mark 1 counter accept'
		iptables-legacy -P FORWARD DROP`)
	report, err := h.sync(t, rules(masq.IPTables))
	require.ErrorContains(t, err, "TWILL-POSTRTG of ip6tables table nat")
	require.Equal(t, []string{"inet filter forward", "ip filter FORWARD (iptables-legacy)"}, report.Forward)
	require.Contains(t, h.everything(t), nftOwn+"foreign \"\n", "not swept")
	require.Contains(t, h.everything(t), "ip legacy TWILL-FORWARD\n")

	h.sh(t, "nft delete table ip6 nat")
	require.Len(t, h.mustSync(t, rules(masq.IPTables)).Forward, 4)
	require.NotContains(t, h.everything(t), nftOwn)
}
