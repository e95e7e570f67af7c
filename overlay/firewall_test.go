package overlay

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

func (f *memFirewall) wanted() masq.Rules {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rules == nil {
		return masq.Rules{}
	}
	return *f.rules
}

func (f *memFirewall) says(r masq.Report) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report = r
}

// What the network config says of the firewall is taken over by a running
// node, and is no repair; the lease is not asked for again.
func TestFirewallConfigIsLive(t *testing.T) {
	b := start(t, func(c *Config, _ *memKernel) { c.Forward = true })
	b.ready()
	for _, c := range []struct {
		keys string
		is   func(masq.Rules) bool
	}{
		{``, func(r masq.Rules) bool {
			return r.Renderer == masq.AnyRenderer && len(r.Postrouting) > 0 && len(r.Forward) == 2
		}},
		{`, "EnableNFTables": false`, func(r masq.Rules) bool { return r.Renderer == masq.IPTables }},
		{`, "EnableNFTables": true`, func(r masq.Rules) bool { return r.Renderer == masq.NFTables }},
		{`, "NonMasqueradeCIDRs": ["192.0.2.0/24", "2001:db8::/32"]`, func(r masq.Rules) bool {
			return strings.Contains(r.String(), "to 192.0.2.0/24: return") && !strings.Contains(r.String(), "2001:db8") && r.Renderer == masq.AnyRenderer
		}},
		{`, "MasqueradeIPv6": false`, func(r masq.Rules) bool { return len(r.Postrouting) > 0 && !strings.Contains(r.String(), "192.0.2.0") }},
		{`, "MasqueradeIPv4": false`, func(r masq.Rules) bool { return len(r.Postrouting) == 0 && len(r.Forward) == 2 }},
	} {
		b.store.configs <- []byte(`{"Network": "10.244.0.0/16"` + c.keys + `}`)
		b.eventually("taken over: "+c.keys, func() bool { return c.is(b.firewall.wanted()) })
	}
	b.eventually("it is told", func() bool { return slices.Equal(b.agent.Status().Firewall.MasqueradeOff, []string{"IPv4"}) })
	s := b.agent.Status()
	require.True(t, s.Ready)
	require.Zero(t, s.Repairs.Total)
	require.Empty(t, b.store.claims, "the lease does not depend on it")
}

// Without --ip-masq nothing is masqueraded, and without
// --iptables-forward-rules nothing accepted.
func TestFirewallOff(t *testing.T) {
	b := start(t, func(c *Config, _ *memKernel) { c.Masquerade = false })
	b.ready()
	require.Equal(t, masq.Rules{}, b.firewall.wanted())
	require.False(t, b.agent.masquerade().Masquerade[subnet.IPv4])
	s := b.agent.Status()
	require.Regexp(t, "(?m)^firewall .*, masquerade off$", s.Text())
	s.Config.Networks = append(s.Config.Networks, "fd00:244::/48")
	require.Regexp(t, "(?m)^firewall .*, masquerade off for IPv4$", s.Text())
	s.Firewall.MasqueradeOff = nil // as of a twilld that does not tell
	require.NotContains(t, s.Text(), "masquerade")
}

// Another program's drop is a problem that is told, and no reason not to be
// ready; that it comes and goes is no repair.
func TestForwardingBlocked(t *testing.T) {
	b := start(t, nil)
	b.firewall.says(masq.Report{Mode: "nftables"})
	b.ready()
	b.firewall.says(masq.Report{
		Mode: "nftables", Forward: []string{"ip filter FORWARD (iptables-nft)"},
		Blocked: []masq.Blocked{{Chain: "inet firewalld filter_FORWARD", Reason: "it drops what is forwarded; tell firewalld"}},
	})
	b.agent.inbox.rules()
	b.eventually("it is told", func() bool { return len(b.agent.Status().Problems) == 1 })
	s := b.agent.Status()
	require.True(t, s.Ready)
	require.Equal(t, "forwarding", s.Problems[0].What)
	require.Equal(t, "chain inet firewalld filter_FORWARD: it drops what is forwarded; tell firewalld", s.Problems[0].Error)
	require.Equal(t, &FireStatus{
		Mode: "nftables", Forward: []string{"ip filter FORWARD (iptables-nft)"},
		Blocked: []Blocked{{Chain: "inet firewalld filter_FORWARD", Reason: "it drops what is forwarded; tell firewalld"}},
	}, s.Firewall)
	require.Contains(t, s.Text(), "firewall   nftables\n           accepts in ip filter FORWARD (iptables-nft)\n")
	require.Equal(t, 1, b.agent.counts().blocked)

	b.firewall.says(masq.Report{Mode: "nftables", Changed: true})
	b.agent.inbox.rules()
	b.eventually("it is over", func() bool { return len(b.agent.Status().Problems) == 0 })
	require.Zero(t, b.agent.Status().Repairs.Total)
	require.Zero(t, b.agent.counts().blocked)
}
