package firewall

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// programs are what may start on a host while twilld runs, as far as their
// firewalls go.
var programs = []struct {
	name, start, stop string
	places            []string // that get our accepts
}{{
	name: "Docker",
	start: `for p in ip ip6; do i="${p}tables-nft"
		$i -N DOCKER; $i -N DOCKER-USER; $i -N DOCKER-FORWARD; $i -N DOCKER-BRIDGE; $i -N DOCKER-CT
		$i -P FORWARD DROP
		$i -A DOCKER-USER -j RETURN
		$i -A DOCKER-FORWARD -j DOCKER-CT; $i -A DOCKER-FORWARD -j DOCKER-BRIDGE
		$i -A DOCKER-FORWARD -i docker0 -j ACCEPT
		$i -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		$i -A DOCKER-BRIDGE -o docker0 -j DOCKER
		$i -A DOCKER ! -i docker0 -o docker0 -j DROP
		$i -I FORWARD -j DOCKER-FORWARD; $i -I FORWARD -j DOCKER-USER
		$i -A FORWARD -j DROP
		done
		iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE`,
	stop:   stop("nft", "DOCKER") + "iptables-nft -t nat -D POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
	places: []string{"ip filter FORWARD (iptables-nft)", "ip6 filter FORWARD (iptables-nft)"},
}, {
	name: "Docker with iptables-legacy",
	start: `for p in ip ip6; do i="${p}tables-legacy"
		$i -N DOCKER-USER; $i -N DOCKER-FORWARD; $i -P FORWARD DROP
		$i -A DOCKER-USER -j RETURN; $i -A DOCKER-FORWARD -i docker0 -j ACCEPT
		$i -I FORWARD -j DOCKER-FORWARD; $i -I FORWARD -j DOCKER-USER
		done`,
	stop:   stop("legacy", "DOCKER"),
	places: []string{"ip filter FORWARD (iptables-legacy)", "ip6 filter FORWARD (iptables-legacy)"},
}, {
	name: "ufw",
	start: `for p in ip ip6; do cat <<-end | ${p}tables-nft-restore --noflush
		*filter
		:FORWARD DROP [0:0]
		:ufw-before-logging-forward - [0:0]
		:ufw-before-forward - [0:0]
		:ufw-after-forward - [0:0]
		:ufw-reject-forward - [0:0]
		:ufw-track-forward - [0:0]
		-A FORWARD -j ufw-before-logging-forward
		-A FORWARD -j ufw-before-forward
		-A FORWARD -j ufw-after-forward
		-A FORWARD -j ufw-reject-forward
		-A FORWARD -j ufw-track-forward
		-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		-A ufw-reject-forward -j REJECT
		COMMIT
		end
		done`,
	stop:   stop("nft", "ufw"),
	places: []string{"ip filter FORWARD (iptables-nft)", "ip6 filter FORWARD (iptables-nft)"},
}, {
	name:   "firewalld",
	start:  "nft -f - <<end\nadd table inet firewalld\ndelete table inet firewalld\n" + firewalld("") + "end",
	stop:   "nft delete table inet firewalld",
	places: []string{"inet firewalld filter_FORWARD"},
}, {
	name: "nftables.conf by hand",
	start: `nft -f - <<-end
		table ip mine {
			chain forward {
				type filter hook forward priority -10; policy drop;
				ct state established,related accept
			}
		}
		table ip6 mine {
			chain forward {
				type filter hook forward priority -10; policy drop;
				ct state established,related accept
			}
		}
		end`,
	stop:   "nft delete table ip mine; nft delete table ip6 mine",
	places: []string{"ip mine forward", "ip6 mine forward"},
}}

// stop deletes a program's chains, by the beginning of their names, and all of
// its rules in FORWARD.
func stop(variant, chains string) string {
	return fmt.Sprintf(`for p in ip ip6; do i="${p}tables-%s"
		$i -P FORWARD ACCEPT
		$i -S FORWARD | sed -n '/TWILL/d; s/^-A/-D/p' | while read rule; do $i $rule; done
		for c in $($i -S | sed -n 's/^-N \(%s.*\)/\1/p'); do $i -F $c; done
		for c in $($i -S | sed -n 's/^-N \(%s.*\)/\1/p'); do $i -X $c; done
		done
		`, variant, chains, chains)
}

// firewalld returns commands of nft that make firewalld's table as far as it
// matters, with flags perhaps.
func firewalld(flags string) string {
	return `add table inet firewalld ` + flags + `
add chain inet firewalld filter_FWD_trusted
add rule inet firewalld filter_FWD_trusted accept
add chain inet firewalld filter_FORWARD_ZONES
add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; policy accept; }
add rule inet firewalld filter_FORWARD ct state { established, related } accept
add rule inet firewalld filter_FORWARD ct status dnat accept
add rule inet firewalld filter_FORWARD iifname "lo" accept
add rule inet firewalld filter_FORWARD ct state invalid drop
add rule inet firewalld filter_FORWARD jump filter_FORWARD_ZONES
add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited
`
}

// What other programs do to the host's firewalls while we run is noticed, and
// what they drop is accepted there, with nothing of theirs touched.
func TestOtherPrograms(t *testing.T) {
	t.Parallel()
	l := newLab(t, "iptables-legacy -S >/dev/null")
	for _, m := range modes[:2] {
		l.configure(t, m.config)
		l.awaitMode(t, m.name)
		before := others(t, &l.one.Host)
		held := func() string { return withoutLingering(ours(t, &l.one.Host), m.name) }
		for _, p := range programs {
			t.Run(m.name+"/"+p.name, func(t *testing.T) {
				was := held()
				// What it writes, by itself.
				netlabtest.Run(t, l.Lan, "unshare -n sh -ec '"+strings.ReplaceAll(p.start, "'", `'\''`)+"'")
				flow, err := l.pod.PingContinuously(t.Context(), l.remote.Addrs[subnet.IPv6], 10*time.Millisecond)
				require.NoError(t, err)
				netlabtest.Run(t, &l.one.Host, p.start)
				l.await(t, "accepted in "+fmt.Sprint(p.places), func(s overlay.Status) bool {
					return s.Ready && s.Firewall != nil && contains(s.Firewall.Forward, p.places) && len(s.Firewall.Blocked)+len(s.Problems) == 0
				})
				l.eventuallyPings(t)
				loss, err := flow.Stop()
				require.NoError(t, err)
				t.Logf("%s: %+v", p.name, loss)

				// It starts again, and shows its rules as it wrote them.
				theirs := others(t, &l.one.Host)
				netlabtest.Run(t, &l.one.Host, p.stop)
				netlabtest.Run(t, &l.one.Host, p.start)
				l.eventuallyPings(t)
				require.Equal(t, theirs, others(t, &l.one.Host))

				netlabtest.Run(t, &l.one.Host, p.stop)
				netlabtest.Eventually(t, "the accepts go with the drop", func() error {
					if got := held(); got != was {
						return fmt.Errorf("it has\n%s\nand not\n%s", got, was)
					}
					return nil
				})
				require.Equal(t, before, others(t, &l.one.Host))
			})
		}
	}
}

// withoutLingering leaves out the accepts that stay in FORWARD of iptables-nft
// for longer than a test should wait, where the rules proper are not there too.
func withoutLingering(ours, mode string) string {
	if mode == "iptables-nft" {
		return ours
	}
	return regexp.MustCompile(`(?m)^ip6? nft filter .*\n`).ReplaceAllString(ours, "")
}

func contains(have, want []string) bool {
	all := strings.Join(have, "\n") + "\n"
	for _, w := range want {
		if !strings.Contains(all, w+"\n") {
			return false
		}
	}
	return true
}

// Nobody but firewalld can write into its table when that has an owner: this is
// told with what to do, the node stays ready, all else is in, and it ends when
// firewalld lets the network through.
func TestOwnedTable(t *testing.T) {
	t.Parallel()
	l := newLab(t, "nft 'add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }'")
	owner := func(n *netlab.Node, commands string) {
		_, err := n.ExecInput(t.Context(), commands, "sh", "-c", "cat >/run/owner")
		require.NoError(t, err)
	}
	// The process keeps both ends of the pipe, so that it does not end.
	netlabtest.Run(t, &l.one.Host, "mkfifo /run/owner")
	nft, err := l.one.Start("firewalld", "sh", "-c", "exec nft -i <>/run/owner")
	require.NoError(t, err)
	owner(l.one, firewalld("{ flags owner; }"))
	s := l.await(t, "told", func(s overlay.Status) bool {
		return s.Firewall != nil && len(s.Firewall.Blocked) == 1 && len(s.Problems) == 1
	})
	require.True(t, s.Ready)
	require.Equal(t, "inet firewalld filter_FORWARD", s.Firewall.Blocked[0].Chain)
	require.Contains(t, s.Firewall.Blocked[0].Reason, "firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16 --add-source=fd00:244::/48")
	require.Equal(t, []string{"inet filter forward"}, s.Firewall.Forward)
	require.Equal(t, "forwarding", s.Problems[0].What)
	netlabtest.Run(t, &l.one.Host, "twill status | grep -q 'problem.*firewall-cmd --permanent'")
	_, err = l.pod.Exec(t.Context(), "ping", "-n", "-c", "1", "-W", "0.2", l.Outside.Addrs[subnet.IPv4].String())
	require.Error(t, err, "it is rejected")

	// The rest is repaired all the same.
	netlabtest.Run(t, &l.one.Host, "nft delete table inet twill")
	netlabtest.Eventually(t, "repaired", func() error {
		_, err := l.one.Exec(t.Context(), "nft", "list", "table", "inet", "twill")
		return err
	})

	// What firewall-cmd does.
	owner(l.one, `insert rule inet firewalld filter_FORWARD ip saddr 10.244.0.0/16 goto filter_FWD_trusted
insert rule inet firewalld filter_FORWARD ip6 saddr fd00:244::/48 goto filter_FWD_trusted
`)
	l.await(t, "let through", func(s overlay.Status) bool {
		return s.Firewall != nil && len(s.Firewall.Blocked)+len(s.Problems) == 0
	})
	netlabtest.Eventually(t, "the outside host answers", func() error {
		_, err := l.pod.Ping(t.Context(), l.Outside.Addrs[subnet.IPv4], 0)
		return err
	})
	require.NoError(t, nft.Kill(t.Context()))
	l.eventuallyPings(t)
}
