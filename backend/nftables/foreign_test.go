package nftables_test

import (
	"bufio"
	"context"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/nftables"
	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/subnet"
)

func (ns namespace) foreign() *nftables.Foreign {
	return nftables.NewForeign(nftables.InNetNS(ns.FD()))
}

// nft loads a ruleset.
func (ns namespace) nft(t *testing.T, ruleset string) {
	t.Helper()
	ns.Pipe(t, ruleset, "nft", "-f", "-")
}

func (ns namespace) ruleset(t *testing.T) string {
	t.Helper()
	return ns.Run(t, "nft", "list", "ruleset")
}

// drops are the ways in which others drop what is forwarded, and the lines that
// Twill adds to each.
const drops = `table inet filter {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
	}
}
table ip by-hand {
	chain forward {
		type filter hook forward priority filter - 5; policy drop;
	}
}
table ip6 by-hand {
	chain forward {
		type filter hook forward priority filter + 5; policy accept;
		iifname "lo" accept
		counter packets 0 bytes 0 drop
	}
}
table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state established,related accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_FORWARD_ZONES
		reject with icmpx admin-prohibited
	}

	chain filter_FORWARD_ZONES {
		iifname "eth0" drop
	}
}
`

// harmless is what looks like it and is not.
const harmless = `table inet input-only {
	chain input {
		type filter hook input priority filter; policy drop;
	}

	chain forward {
		drop
	}
}
table inet conditional {
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname "eth0" drop
		ip saddr 192.0.2.0/24 reject with icmp port-unreachable
	}
}
table inet sleeping {
	flags dormant

	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
table bridge frames {
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
table inet twill-vtep {
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
`

var (
	accepts4 = []string{
		`ip saddr 10.244.0.0/16 accept comment "twill: from the network"`,
		`ip daddr 10.244.0.0/16 accept comment "twill: to the network"`,
	}
	accepts6 = []string{
		`ip6 saddr fd00:244::/48 accept comment "twill: from the network"`,
		`ip6 daddr fd00:244::/48 accept comment "twill: to the network"`,
	}
)

// accepted returns drops with our accepts at the head of each chain.
func accepted() string {
	out, family := "", ""
	for line := range strings.Lines(drops) {
		out += line
		if strings.HasPrefix(line, "table ") {
			family = strings.Fields(line)[1]
		}
		if strings.Contains(line, "hook forward") {
			var add []string
			if family != "ip6" {
				add = append(add, accepts4...)
			}
			if family != "ip" {
				add = append(add, accepts6...)
			}
			for _, a := range add {
				out += "\t\t" + a + "\n"
			}
		}
	}
	return out
}

func forward() []masq.Rule { return masq.Plan(rulestest.Dual()).Forward }

func (ns namespace) syncForeign(t *testing.T, rules []masq.Rule) masq.Report {
	t.Helper()
	report, err := ns.foreign().Sync(t.Context(), rules, subnet.PerFamily[bool]{})
	require.NoError(t, err)
	return report
}

func TestForeignAcceptsWhereTheDropIs(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	require.Zero(t, ns.syncForeign(t, forward()), "nothing there")
	ns.nft(t, drops+harmless)
	want := masq.Report{Changed: true, Forward: []string{
		"inet filter forward", "inet firewalld filter_FORWARD", "ip by-hand forward", "ip6 by-hand forward",
	}}
	require.Equal(t, want, ns.syncForeign(t, forward()))
	require.Equal(t, accepted()+harmless, ns.ruleset(t))

	before := ns.generation(t)
	want.Changed = false
	require.Equal(t, want, ns.syncForeign(t, forward()))
	require.Equal(t, before, ns.generation(t), "what is right is not written")

	// Without rules, and by Remove, all is as it was.
	require.Equal(t, masq.Report{Changed: true}, ns.syncForeign(t, nil))
	require.Equal(t, drops+harmless, ns.ruleset(t))
	ns.syncForeign(t, forward())
	require.NoError(t, ns.foreign().Remove(t.Context()))
	require.Equal(t, drops+harmless, ns.ruleset(t))
	require.NoError(t, ns.foreign().Remove(t.Context()), "twice")
}

func TestForeignRepairs(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	ns.nft(t, drops)
	ns.syncForeign(t, forward())
	for _, damage := range []string{
		`nft insert rule inet filter forward ip saddr 192.0.2.1 drop`,
		`nft delete rule inet filter forward handle $(nft -a list table inet filter | sed -n '/from the network/s/.*handle //p' | head -1)`,
		`nft add rule ip by-hand forward ip saddr 10.99.0.0/16 accept comment '"twill: of another time"'`,
		`nft flush chain inet firewalld filter_FORWARD; nft add rule inet firewalld filter_FORWARD drop`,
		`nft delete table inet firewalld; echo 'table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; reject; }; }' | nft -f -`,
	} {
		ns.Run(t, "sh", "-ec", damage)
		require.True(t, ns.syncForeign(t, forward()).Changed, damage)
		require.False(t, ns.syncForeign(t, forward()).Changed, damage)
		require.NotContains(t, ns.ruleset(t), "of another time")
		require.Equal(t, 5, strings.Count(ns.ruleset(t), accepts4[0])+strings.Count(ns.ruleset(t), accepts6[0])-1, damage)
	}
	// Another network, and no drop any more.
	other := rulestest.Dual()
	other.Networks[subnet.IPv4] = []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}
	require.True(t, ns.syncForeign(t, masq.Plan(other).Forward).Changed)
	require.NotContains(t, ns.ruleset(t), "10.244.0.0/16")
	ns.nft(t, "chain inet filter forward { policy accept; }")
	report := ns.syncForeign(t, forward())
	require.NotContains(t, report.Forward, "inet filter forward")
	require.NotContains(t, ns.Run(t, "nft", "list", "table", "inet", "filter"), "twill")
	require.Contains(t, ns.Run(t, "nft", "list", "table", "inet", "filter"), "ct state established,related accept")
}

// FORWARD of iptables-nft is left to iptables where that is there; where it is
// not, nobody else would see to it.
func TestForeignLeavesIPTables(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	ns.nft(t, `table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; }; }
		table ip mangle { chain FORWARD { type filter hook forward priority mangle; policy drop; }; }`)
	before := ns.ruleset(t)
	report, err := ns.foreign().Sync(t.Context(), forward(), subnet.PerFamily[bool]{true, true})
	require.NoError(t, err)
	require.Empty(t, report.Forward)
	require.Len(t, report.Blocked, 1)
	require.Equal(t, "ip mangle FORWARD", report.Blocked[0].Chain)
	require.Contains(t, report.Blocked[0].Reason, "accept 10.244.0.0/16 and fd00:244::/48 there (iptables -t mangle")
	require.Equal(t, before, ns.ruleset(t))
	require.Equal(t, []string{"ip filter FORWARD"}, ns.syncForeign(t, forward()).Forward)
	report, err = ns.foreign().Sync(t.Context(), forward(), subnet.PerFamily[bool]{true, true})
	require.NoError(t, err)
	require.True(t, report.Changed, "it was installed")
	require.Equal(t, before, ns.ruleset(t))
}

// own makes a table with the flag owner and keeps it, as firewalld does, until
// the test ends; it returns a function that writes more into it.
func (ns namespace) own(t *testing.T, ruleset string) (more func(string)) {
	t.Helper()
	var stdin io.WriteCloser
	var stdout io.Reader
	cmd := exec.Command("nft", "-i")
	require.NoError(t, ns.Do(func() (err error) {
		if stdin, err = cmd.StdinPipe(); err != nil {
			return err
		}
		if stdout, err = cmd.StdoutPipe(); err != nil {
			return err
		}
		return cmd.Start()
	}))
	t.Cleanup(func() {
		require.NoError(t, stdin.Close())
		_, _ = io.Copy(io.Discard, stdout)
		require.NoError(t, cmd.Wait())
	})
	lines := bufio.NewScanner(stdout)
	more = func(commands string) {
		_, err := io.WriteString(stdin, commands+"\nlist tables\n")
		require.NoError(t, err)
		for lines.Scan() { // until the answer to the last
			if strings.Contains(lines.Text(), "table inet firewalld") && !strings.Contains(lines.Text(), "add") {
				return
			}
		}
		require.FailNow(t, "nft has ended", "%v", lines.Err())
	}
	more(ruleset)
	return more
}

// A table with an owner cannot be written: that is told with what to do, keeps
// nothing else from being written, and ends when the owner lets us through.
func TestForeignOwner(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	ns.nft(t, `table inet filter { chain forward { type filter hook forward priority filter; policy drop; }; }`)
	more := ns.own(t, `add table inet firewalld { flags owner; }
add chain inet firewalld filter_FWD_trusted
add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }
add rule inet firewalld filter_FORWARD ct state established,related accept
add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited`)
	require.Contains(t, ns.ruleset(t), "flags owner")
	report := ns.syncForeign(t, forward())
	require.Equal(t, []string{"inet filter forward"}, report.Forward)
	require.Len(t, report.Blocked, 1)
	require.Equal(t, "inet firewalld filter_FORWARD", report.Blocked[0].Chain)
	require.Contains(t, report.Blocked[0].Reason, "owner")
	require.Contains(t, report.Blocked[0].Reason,
		"firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16 --add-source=fd00:244::/48")

	more(`insert rule inet firewalld filter_FORWARD ip saddr 10.244.0.0/16 goto filter_FWD_trusted`)
	require.Len(t, ns.syncForeign(t, forward()).Blocked, 1, "IPv6 is missing")
	more(`insert rule inet firewalld filter_FORWARD ip6 saddr fd00:244::/48 goto filter_FWD_trusted`)
	report = ns.syncForeign(t, forward())
	require.Empty(t, report.Blocked)
	require.Equal(t, []string{"inet filter forward"}, report.Forward)
	require.NoError(t, ns.foreign().Remove(t.Context()))
}

// What may concern us is told, and what others write all day is not.
func TestForeignWatch(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	ns.nft(t, "table ip kube-proxy { chain filter-forward { type filter hook forward priority -110; }; chain services { }; }")
	foreign := ns.foreign()
	ctx, cancel := context.WithCancel(t.Context())
	calls, done := make(chan struct{}, 100), make(chan error, 1)
	also := func(c nftables.Chain) bool {
		return c == nftables.Chain{Family: unix.NFPROTO_IPV4, Table: "filter", Name: "DOCKER-USER"}
	}
	go func() { done <- foreign.Watch(ctx, also, func() { calls <- struct{}{} }) }()
	defer func() {
		cancel()
		require.NoError(t, <-done)
	}()
	told := func(what string) {
		t.Helper()
		select {
		case <-calls:
		case <-time.After(time.Minute):
			require.FailNow(t, "not told", what)
		}
	}
	told("at the start")
	_, err := foreign.Sync(t.Context(), forward(), subnet.PerFamily[bool]{})
	require.NoError(t, err)
	for _, concern := range []string{
		"add rule ip kube-proxy filter-forward drop",
		"flush chain ip kube-proxy filter-forward",
		"add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }",
		"chain inet filter forward { policy accept; }",
		"add rule inet filter forward ip saddr 192.0.2.1 drop",
		"add table inet filter { flags dormant; }",
		"delete table inet filter",
		"add table inet twill; add chain inet twill x",
		"add rule inet twill x drop",
		"add set inet twill s { type ipv4_addr; elements = { 192.0.2.1 }; }",
		"add table inet twill { flags dormant; }",
		"delete table inet twill",
		"add table ip filter; add chain ip filter DOCKER-USER",
	} {
		for _, noise := range []string{
			"add rule ip kube-proxy services ip daddr 192.0.2.1 drop",
			"add set ip kube-proxy s { type ipv4_addr; }; delete set ip kube-proxy s",
			"add table inet other; add chain inet other input { type filter hook input priority 0; policy drop; }; delete table inet other",
			"add table inet twill-vtep; delete table inet twill-vtep",
			"add table ip twill; add chain ip twill x; delete table ip twill",
			"add table ip nat; add chain ip nat KUBE-SVC-X; add rule ip nat KUBE-SVC-X drop; flush chain ip nat KUBE-SVC-X; delete chain ip nat KUBE-SVC-X",
		} {
			ns.Run(t, "nft", noise)
		}
		ns.Run(t, "nft", concern)
		told(concern)
		require.Empty(t, calls, concern)
	}
}
