package firewall_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/nftables"
	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/overlay/firewall"
	"github.com/twill-net/twill/subnet"
)

func TestMain(m *testing.M) { rulestest.Main(m) }

// host is a network namespace with a firewall.
type host struct {
	rulestest.Namespace
	*firewall.Firewall
}

// newHost starts a daemon's firewall in a namespace, so to speak.
func newHost(ns rulestest.Namespace, asked masq.Renderer) host {
	in := nftables.InNetNS(ns.FD())
	return host{ns, firewall.New(firewall.Config{Asked: asked, Resync: 50 * time.Millisecond, Linger: time.Nanosecond}, nftables.New(in), nftables.NewForeign(in))}
}

func (h host) sync(t *testing.T, rules masq.Rules) (report masq.Report, err error) {
	t.Helper()
	_ = h.Do(func() error {
		report, err = h.Sync(t.Context(), rules)
		return nil
	})
	return report, err
}

func (h host) mustSync(t *testing.T, rules masq.Rules) masq.Report {
	t.Helper()
	report, err := h.sync(t, rules)
	require.NoError(t, err)
	return report
}

func (h host) sh(t *testing.T, script string) string {
	t.Helper()
	return h.Run(t, "sh", "-ec", script)
}

// everything is all that is ours in any firewall of the host, by where it is.
func (h host) everything(t *testing.T) string {
	t.Helper()
	return h.sh(t, `nft list tables | grep -w twill || :
		nft list ruleset | grep '"twill: ' | sed 's/.*"/foreign "/' | sort -u
		for v in nft legacy; do for p in ip ip6; do
			[ $v = nft ] || [ -n "$(cat /proc/thread-self/net/${p}_tables_names)" ] || continue
			for table in nat filter; do
				[ $v = legacy ] || nft list table $p $table >/dev/null 2>&1 || continue
				${p}tables-$v -t $table -S 2>/dev/null | sed -n "s/^-N \(TWILL.*\)/$p $v \1/p"
			done
		done; done`)
}

func rules(r masq.Renderer) masq.Rules {
	c := rulestest.Dual()
	c.Renderer = r
	return masq.Plan(c)
}

func fresh(t *testing.T) rulestest.Namespace { return rulestest.NewNamespace(t) }

func lines(list ...string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.Join(list, "\n") + "\n"
}

// The binaries of this machine decide what iptables is; the tests make both.
func as(t *testing.T, variant string) {
	t.Helper()
	dir := t.TempDir()
	for _, p := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-restore"} {
			link(t, p+"-"+variant+suffix, dir+"/"+p+suffix)
		}
	}
	t.Setenv("PATH", dir+":"+path)
}

var ipt = subnet.PerFamily[string]{"ip", "ip6"}

// own is what is ours in each mode.
func own(variant string) string {
	var list []string
	for _, p := range ipt {
		list = append(list, p+" "+variant+" TWILL-POSTRTG", p+" "+variant+" TWILL-FORWARD")
	}
	return lines(list...)
}

const nftOwn = "table inet twill\n"

func TestModes(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			as(t, variant)
			for name, tt := range map[string]struct {
				flag, config masq.Renderer
				mode         string
			}{
				"nothing asked for":        {masq.AnyRenderer, masq.AnyRenderer, "nftables"},
				"nftables by flag":         {masq.NFTables, masq.IPTables, "nftables"},
				"nftables by config":       {masq.AnyRenderer, masq.NFTables, "nftables"},
				"iptables by flag":         {masq.IPTables, masq.NFTables, "iptables-" + variant},
				"iptables by flag alone":   {masq.IPTables, masq.AnyRenderer, "iptables-" + variant},
				"iptables by config alone": {masq.AnyRenderer, masq.IPTables, "iptables-" + variant},
			} {
				h := newHost(fresh(t), tt.flag)
				report := h.mustSync(t, rules(tt.config))
				require.Equal(t, tt.mode, report.Mode, name)
				require.True(t, report.Changed, name)
				require.Empty(t, report.Blocked)
				want, forward := nftOwn, []string(nil)
				if tt.mode != "nftables" {
					want = own(variant)
					forward = []string{"ip filter FORWARD (" + tt.mode + ")", "ip6 filter FORWARD (" + tt.mode + ")"}
				}
				require.Equal(t, want, h.everything(t), name)
				require.Equal(t, forward, report.Forward)
				require.False(t, h.mustSync(t, rules(tt.config)).Changed, name)
			}
		})
	}
}

// What is asked for and cannot be had is an error that names it, and leaves
// what is there.
func TestModeImpossible(t *testing.T) {
	h := newHost(fresh(t), masq.AnyRenderer)
	h.mustSync(t, rules(masq.NFTables))
	t.Setenv("PATH", t.TempDir())
	_, err := h.sync(t, rules(masq.IPTables))
	require.NoError(t, err, "what was found once is there")

	h = newHost(h.Namespace, masq.AnyRenderer)
	report := h.mustSync(t, rules(masq.IPTables))
	require.Equal(t, "nftables, as there is no iptables here, which EnableNFTables=false asks for", report.Mode)
	_, err = newHost(h.Namespace, masq.IPTables).sync(t, rules(masq.AnyRenderer))
	require.ErrorContains(t, err, "iptables, asked for by --firewall, cannot be used: iptables, with iptables-restore, is not in PATH")
	require.NoError(t, h.Remove(t.Context()))

	// It is installed at last.
	as(t, "nft")
	require.Equal(t, "iptables-nft", h.mustSync(t, rules(masq.IPTables)).Mode)
}

// Each mode sweeps what each other one left, of this process or an earlier one,
// and nothing of others.
func TestSwitch(t *testing.T) {
	const others = `nft -f - <<-end
		table inet other {
			chain postrouting {
				type nat hook postrouting priority srcnat; policy accept;
				ip daddr 192.0.2.1 accept
			}
		}
		end
		for v in nft legacy; do for p in ip ip6; do
			${p}tables-$v -t nat -N OTHER; ${p}tables-$v -t nat -A POSTROUTING -o lo -j OTHER
			${p}tables-$v -A FORWARD -o lo -j ACCEPT
		done; done`
	const dump = `nft list ruleset; for p in ip ip6; do for t in nat filter; do ${p}tables-legacy -t $t -S; done; done`
	const early = "ip nft TWILL-FORWARD\nip6 nft TWILL-FORWARD\n" // others use FORWARD of iptables-nft
	ns := fresh(t)
	bare := newHost(ns, masq.AnyRenderer)
	bare.sh(t, others)
	before := bare.sh(t, dump)
	modes := []string{"nftables", "nft", "legacy"}
	for _, restart := range []bool{false, true} {
		for _, from := range modes {
			for _, to := range modes {
				h := bare
				for i, m := range []string{from, to} {
					if m != "nftables" {
						as(t, m)
					}
					if restart || i == 0 || m != "nftables" { // a process knows its binaries once for all
						h = newHost(ns, masq.AnyRenderer)
					}
					if m == "nftables" {
						require.Equal(t, m, h.mustSync(t, rules(masq.NFTables)).Mode)
						require.Equal(t, nftOwn+early, h.everything(t), "%s to %s", from, to)
					} else {
						require.Equal(t, "iptables-"+m, h.mustSync(t, rules(masq.IPTables)).Mode)
						want := own(m)
						if m == "legacy" {
							want = early + want
						}
						require.Equal(t, want, h.everything(t), "%s to %s", from, to)
					}
				}
			}
		}
	}
	h := newHost(ns, masq.AnyRenderer)
	require.NoError(t, ns.Do(func() error { return h.Remove(t.Context()) }))
	require.Equal(t, before, h.sh(t, dump))
}

// What drops what is forwarded gets our accepts, as long as it does.
func TestForward(t *testing.T) {
	as(t, "nft")
	const firewalld = `nft 'add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; }
		add rule inet firewalld filter_FORWARD ct state established,related accept
		add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited'`
	const foreign = "foreign \"\n"
	for _, mode := range []masq.Renderer{masq.NFTables, masq.IPTables} {
		want := map[masq.Renderer]string{masq.NFTables: nftOwn, masq.IPTables: own("nft")}[mode]
		h := newHost(fresh(t), masq.AnyRenderer)
		h.mustSync(t, rules(mode))
		for _, tt := range []struct{ name, drop, undo, ours, places string }{
			{"Docker", "iptables-nft -P FORWARD DROP", "iptables-nft -P FORWARD ACCEPT", "ip nft TWILL-FORWARD\n", "ip filter FORWARD (iptables-nft)"},
			{"IPv6", "ip6tables-nft -A FORWARD -j REJECT", "ip6tables-nft -F FORWARD", "ip6 nft TWILL-FORWARD\n", "ip6 filter FORWARD (iptables-nft)"},
			{"legacy", "iptables-legacy -P FORWARD DROP", "iptables-legacy -P FORWARD ACCEPT", "ip legacy TWILL-FORWARD\n", "ip filter FORWARD (iptables-legacy)"},
			{"firewalld", firewalld, "nft delete table inet firewalld", foreign, "inet firewalld filter_FORWARD"},
		} {
			h.sh(t, tt.drop)
			report := h.mustSync(t, rules(mode))
			require.Contains(t, report.Forward, tt.places, tt.name)
			require.Empty(t, report.Blocked)
			got := h.everything(t)
			require.Contains(t, got, tt.ours, tt.name)
			require.False(t, h.mustSync(t, rules(mode)).Changed, tt.name)

			off := rulestest.Dual()
			off.Forward, off.Renderer = false, mode
			report = h.mustSync(t, masq.Plan(off))
			require.Empty(t, report.Forward)
			require.NotContains(t, h.everything(t), "TWILL-FORWARD")
			require.NotContains(t, h.everything(t), "foreign")

			h.mustSync(t, rules(mode))
			h.sh(t, tt.undo)
			h.mustSync(t, rules(mode))
			require.Equal(t, want, strings.Replace(h.everything(t), foreign, "", 1), tt.name)
			require.NotContains(t, h.everything(t), "foreign", tt.name)
		}

		// All at once, from nothing; without iptables the accepts go in all the same.
		h.sh(t, firewalld+"; for v in nft legacy; do iptables-$v -P FORWARD DROP; ip6tables-$v -P FORWARD DROP; done")
		require.Len(t, newHost(h.Namespace, masq.AnyRenderer).mustSync(t, rules(mode)).Forward, 5)
		require.NoError(t, h.Do(func() error { return newHost(h.Namespace, masq.AnyRenderer).Remove(t.Context()) }))
		require.Empty(t, h.everything(t))
	}
}

// Where there is no iptables, FORWARD of iptables-nft is a chain like others.
func TestForwardWithoutBinaries(t *testing.T) {
	h := newHost(fresh(t), masq.AnyRenderer)
	h.sh(t, "iptables-nft -P FORWARD DROP; iptables-legacy -P FORWARD DROP")
	t.Setenv("PATH", t.TempDir())
	report := h.mustSync(t, rules(masq.AnyRenderer))
	require.Equal(t, "nftables", report.Mode)
	require.Equal(t, []string{"ip filter FORWARD"}, report.Forward)
	require.Len(t, report.Blocked, 1, "of legacy nobody can tell")
	require.Contains(t, report.Blocked[0].Chain, "iptables-legacy")
}

// watch starts Watch for the time of a test.
func (h host) watch(t *testing.T) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	told, done := make(chan struct{}, 1000), make(chan error, 1)
	go func() { done <- h.Do(func() error { return h.Watch(ctx, func() { told <- struct{}{} }) }) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	await(t, told, "at the start")
	return told
}

func await(t *testing.T, told <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(time.Minute):
		require.FailNow(t, "not told", what)
	}
}

func drain(told <-chan struct{}) {
	for len(told) > 0 {
		<-told
	}
}

func TestWatch(t *testing.T) {
	h := newHost(fresh(t), masq.AnyRenderer)
	told := h.watch(t)
	h.mustSync(t, rules(masq.NFTables))
	await(t, told, "our own write")
	drain(told)
	for _, concern := range []string{
		"iptables-nft -P FORWARD DROP",
		"iptables-nft -N DOCKER-USER; iptables-nft -I FORWARD -j DOCKER-USER",
		"iptables-nft -A DOCKER-USER -j DROP",
		"iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE",
		"nft flush ruleset",
	} {
		h.sh(t, concern)
		await(t, told, concern)
		h.mustSync(t, rules(masq.NFTables)) // learns of chains
		drain(told)
	}
	h.sh(t, "iptables-nft -t nat -N KUBE-SVC-X; iptables-nft -N KUBE-FORWARD; nft add table inet other")
	h = newHost(h.Namespace, masq.AnyRenderer) // tables have come about, which may be told late
	h.mustSync(t, rules(masq.NFTables))
	told = h.watch(t)
	h.sh(t, "for i in 1 2 3; do iptables-nft -t nat -A KUBE-SVC-X -j RETURN; iptables-nft -A KUBE-FORWARD -j RETURN; nft add chain inet other c$i; done; nft add chain inet twill end")
	await(t, told, "the end")
	require.Empty(t, told)

	// Legacy tells nothing; its first table is noticed all the same, and from
	// then on it is looked at.
	h.sh(t, "iptables-legacy -P FORWARD DROP")
	await(t, told, "the first table of legacy")
	h.mustSync(t, rules(masq.NFTables))
	drain(told)
	for range 3 {
		await(t, told, "resync")
	}
}
