package firewall

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// dropAll makes both variants of iptables drop what is forwarded, as Docker
// does, and a table of nftables besides, as by hand.
const dropAll = `
	for v in nft legacy; do for p in ip ip6; do ${p}tables-$v -P FORWARD DROP; done; done
	nft 'add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }
		add rule inet filter forward ct state invalid drop'`

// iptablesIs makes one variant a node's own.
func iptablesIs(variant string) string {
	return fmt.Sprintf(`for p in iptables ip6tables; do for s in "" -restore -save; do
		ln -sf /usr/sbin/$p-%s$s /etc/alternatives/$p$s; done; done`, variant)
}

// modes are where the rules can be.
var modes = []struct {
	name    string
	prepare string         // of node one, before its daemon starts
	config  map[string]any // EnableNFTables
}{
	{"nftables", "", map[string]any{}},
	{"iptables-nft", iptablesIs("nft"), map[string]any{"EnableNFTables": false}},
	{"iptables-legacy", iptablesIs("legacy"), map[string]any{"EnableNFTables": false}},
}

// excluded is the address of the outside host, as NonMasqueradeCIDRs.
var excluded = []string{"203.0.113.1/32", "2001:db8:ffff::1/128"}

func seen(t *testing.T, from, to *netlab.Host, f subnet.Family) netip.Addr {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	source, err := netlab.SourceSeen(ctx, from, to, to.Addrs[f])
	require.NoError(t, err)
	return source
}

// matrix proves the rows of package masq by packets, whatever holds the rules.
// The pods' own addresses are seen by excluded.
func (l *lab) matrix(t *testing.T) {
	t.Helper()
	pod, one, two := &l.pod.Host, &l.one.Host, &l.two.Host
	for _, f := range subnet.Families {
		for _, row := range []struct {
			name     string
			from, to *netlab.Host
			want     netip.Addr
		}{
			{"2: pod to its neighbour", pod, &l.neighbour.Host, pod.Addrs[f]},
			{"2: pod to a peer's pod", pod, &l.remote.Host, pod.Addrs[f]},
			{"3: a peer's pod to pod", &l.remote.Host, pod, l.remote.Addrs[f]},
			{"4: outside to own pod", l.Outside, pod, l.Outside.Addrs[f]},
			{"4: host to its pod", one, pod, l.gateway[f]},
			{"5: pod to the lan", pod, l.Lan, one.Addrs[f]},
			{"5: pod to another node", pod, two, one.Addrs[f]},
			{"5: pod to what is excluded", pod, l.Outside, pod.Addrs[f]},
			{"6: outside to a peer's pod", l.Outside, &l.remote.Host, l.overlay[f]},
			{"6: host to a peer's pod", one, &l.remote.Host, l.overlay[f]},
			{"host to outside", one, l.Outside, one.Addrs[f]},
		} {
			require.Equal(t, row.want, seen(t, row.from, row.to, f), "%s, %s", row.name, f)
		}
	}
	l.marked(t)
	l.multicast(t)
}

// marked proves row 1.
func (l *lab) marked(t *testing.T) {
	t.Helper()
	const table = `add table inet marking
		add chain inet marking pre { type filter hook prerouting priority 0; }
		add rule inet marking pre udp dport >= 1024 meta mark set meta mark | `
	for mark, want := range map[string]func(subnet.Family) netip.Addr{
		"0x4000": func(f subnet.Family) netip.Addr { return l.pod.Addrs[f] }, // kube-proxy's to masquerade
		"0x8000": func(f subnet.Family) netip.Addr { return l.one.Addrs[f] },
	} {
		netlabtest.Run(t, &l.one.Host, "nft '"+table+mark+"'")
		for _, f := range subnet.Families {
			require.Equal(t, want(f), seen(t, &l.pod.Host, l.Lan, f), "1: mark %s, %s", mark, f)
		}
		netlabtest.Run(t, &l.one.Host, "nft delete table inet marking")
	}
}

// multicast proves that row 5 leaves groups alone: of what node one sends from
// its address in the overlay, all has that address when it leaves.
func (l *lab) multicast(t *testing.T) {
	t.Helper()
	groups := subnet.PerFamily[string]{"239.1.2.3", "ff02::1234"}
	var rules, pings strings.Builder
	for _, f := range subnet.Families {
		family := []string{"ip", "ip6"}[f]
		fmt.Fprintf(&rules, "add rule inet groups out %s daddr %s %s saddr %s counter name kept\n", family, groups[f], family, l.overlay[f])
		fmt.Fprintf(&rules, "add rule inet groups out %s daddr %s %s saddr != %s counter name changed\n", family, groups[f], family, l.overlay[f])
	}
	pings.WriteString(fmt.Sprintf("ip route replace 239.1.2.3/32 dev eth0; ping -n -c 1 -W 0.01 -I %s 239.1.2.3 || :\n", l.overlay[subnet.IPv4]))
	pings.WriteString(fmt.Sprintf("ping -n -c 1 -W 0.01 -I %s ff02::1234%%eth0 || :\n", l.overlay[subnet.IPv6]))
	netlabtest.Run(t, &l.one.Host, `nft 'add table inet groups
		add counter inet groups kept
		add counter inet groups changed
		add chain inet groups out { type filter hook postrouting priority 300; }
		`+rules.String()+`'
		`+pings.String())
	out := netlabtest.Run(t, &l.one.Host, "nft list counters table inet groups; nft delete table inet groups; ip route del 239.1.2.3/32")
	require.Regexp(t, `counter kept \{\s*packets 2 `, out)
	require.Regexp(t, `counter changed \{\s*packets 0 `, out)
}

// damages are what others do to all firewalls of a host at once. What dropped
// before drops afterwards.
var damages = []struct{ name, script string }{
	{"nft flush ruleset", "nft flush ruleset\n" + dropAll},
	{"iptables -F, -X", `for v in nft legacy; do for p in ip ip6; do for table in nat filter; do
		${p}tables-$v -t $table -F; ${p}tables-$v -t $table -X; done; done; done`},
	{"our rules deleted", `nft delete table inet twill || :
		for p in ip ip6; do for v in nft legacy; do ${p}tables-$v -F TWILL-FORWARD; done; done
		nft flush chain inet filter forward; nft add rule inet filter forward ct state invalid drop`},
}

// Every row, in each mode and both families, while all firewalls drop; again
// after others have flushed them; and nothing of others is touched.
func TestMatrix(t *testing.T) {
	t.Parallel()
	l := newLab(t, dropAll)
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			config := maps.Clone(m.config) // modes are other tests', too
			config["NonMasqueradeCIDRs"] = excluded
			l.configure(t, config)
			if m.prepare != "" {
				netlabtest.Run(t, &l.one.Host, m.prepare)
				l.start(t, l.one)
			}
			l.awaitMode(t, m.name)
			l.eventuallyExcluded(t, true)
			l.matrix(t)
			want, foreign := ours(t, &l.one.Host), others(t, &l.one.Host)
			require.Equal(t, m.name != "nftables", !strings.Contains(want, "table inet twill"), want)
			for _, d := range damages {
				netlabtest.Run(t, &l.one.Host, d.script)
				netlabtest.Eventually(t, "repaired after "+d.name, func() error {
					if got := ours(t, &l.one.Host); got != want {
						return fmt.Errorf("it has\n%s\nand not\n%s", got, want)
					}
					return nil
				})
				require.Equal(t, foreign, others(t, &l.one.Host))
				l.eventuallyPings(t)
			}
			l.matrix(t)
		})
	}
	t.Run("without forward rules", func(t *testing.T) {
		l.start(t, l.one, "--iptables-forward-rules=false", "--firewall=nftables")
		got := ours(t, &l.one.Host)
		require.NotContains(t, got, "accept comment")
		require.NotContains(t, got, "TWILL-")
		require.Contains(t, got, "masquerade")
		out, err := l.pod.Exec(t.Context(), "ping", "-n", "-c", "1", "-W", "0.2", l.remote.Addrs[subnet.IPv4].String())
		require.Error(t, err, "the drop is met: %s", out)
	})
	t.Run("cleanup", func(t *testing.T) {
		l.start(t, l.one)
		l.awaitMode(t, "iptables-legacy")
		foreign := others(t, &l.one.Host)
		require.NoError(t, l.daemons[l.one].Stop(t.Context()))
		_, err := l.one.Exec(t.Context(), "twilld", "--cleanup")
		require.NoError(t, err)
		require.Empty(t, ours(t, &l.one.Host))
		require.Equal(t, foreign, others(t, &l.one.Host))
	})
}

// eventuallyExcluded waits until the outside host sees pods' own addresses, or
// the node's.
func (l *lab) eventuallyExcluded(t *testing.T, is bool) {
	t.Helper()
	for _, f := range subnet.Families {
		want := l.one.Addrs[f]
		if is {
			want = l.pod.Addrs[f]
		}
		netlabtest.Eventually(t, "the config is taken over", func() error {
			if got := seen(t, &l.pod.Host, l.Outside, f); got != want {
				return fmt.Errorf("%s is seen", got)
			}
			return nil
		})
	}
}
