package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// damage is what others do to our part of a node's kernel. In the scripts $s4
// $g4 $m4 $n4 and $s6 $g6 $m6 $n6 are the way to a peer's pods of each family:
// its subnet, the gateway in it, the peer's MAC, and the route's metric.
type damage struct {
	name, script string
	harmless     bool // no packet may be lost
	local        bool // packets within the node may, too: what is bridged goes through rules (br_netfilter)
}

var damages = []damage{
	{name: "device deleted", script: "ip link del twill.1"},
	{name: "IPv6 device deleted", script: "ip link del twill-v6.1"},
	{name: "both devices deleted", script: "ip link del twill.1; ip link del twill-v6.1"},
	{name: "device down", script: "ip link set twill.1 down"},
	{name: "device down and up", script: "ip link set twill.1 down; ip link set twill.1 up"},
	{name: "IPv6 device down and up", script: "ip link set twill-v6.1 down; ip link set twill-v6.1 up"},
	{name: "device renamed and back", script: "ip link set twill.1 name chaos.1; ip link set chaos.1 name twill.1"},
	{name: "MAC changed", script: "ip link set twill.1 address 02:00:00:00:00:99; ip link set twill-v6.1 address 02:00:00:00:00:98"},
	{name: "MTU changed", script: "ip link set twill.1 mtu 1280; ip link set twill-v6.1 mtu 1280", harmless: true},
	{name: "MTU below what IPv6 needs", script: "ip link set twill-v6.1 mtu 1000"},
	{name: "local address changed", script: "ip link set twill.1 type vxlan local 192.168.77.199"},
	{name: "learning switched on", script: "ip link set twill.1 type vxlan learning", harmless: true},
	{name: "addresses deleted", script: "ip address flush dev twill.1; ip -6 address flush dev twill-v6.1"},
	{name: "addresses added", script: "ip address add 10.244.200.0/32 dev twill.1; ip address add fd00:244:0:c8::/128 dev twill-v6.1", harmless: true},
	{name: "routes deleted", script: "ip route del $s4; ip -6 route del $s6"},
	{name: "routes flushed", script: "ip route flush proto 116; ip -6 route flush proto 116"},
	{name: "routes altered", script: "ip route change $s4 via 192.168.77.1 metric $n4 proto 116; ip -6 route change $s6 via fd77::1 metric $n6 proto 116"},
	{name: "route taken over", script: "ip route change blackhole $s4 metric $n4 proto 116"},
	{name: "neighbours deleted", script: "ip neigh del $g4 dev twill.1; ip neigh del $g6 dev twill-v6.1"},
	{name: "neighbours altered", script: "ip neigh replace $g4 lladdr 02:00:00:00:00:99 dev twill.1 nud permanent; ip neigh replace $g6 lladdr 02:00:00:00:00:99 dev twill-v6.1 nud permanent"},
	{name: "neighbours flushed", script: "ip neigh flush dev twill.1 nud permanent; ip -6 neigh flush dev twill-v6.1 nud permanent"},
	{name: "FDB entries deleted", script: "bridge fdb del $m4 dev twill.1; bridge fdb del $m6 dev twill-v6.1"},
	{name: "FDB entries altered", script: "bridge fdb replace $m4 dev twill.1 dst 192.168.77.199; bridge fdb replace $m6 dev twill-v6.1 dst fd77::199"},
	{name: "a default FDB entry", script: "bridge fdb append 00:00:00:00:00:00 dev twill.1 dst 192.168.77.199", harmless: true},
	{name: "entries in our name", script: `
		ip neigh add 10.244.200.0 lladdr 02:00:00:00:00:97 dev twill.1 nud permanent
		bridge fdb add 02:00:00:00:00:97 dev twill.1 dst 192.168.77.199
		ip route add 10.244.200.0/24 via 192.168.77.1 proto 116
		ip -6 route add fd00:244:0:c8::/64 via fd77::1 proto 116
		ip route add blackhole 10.244.201.0/24 proto 116`, harmless: true},
	{name: "rules flushed", script: `
		marks=$(nft list table ip twill; nft list table inet marks)
		nft flush ruleset
		echo "$marks" | nft -f -`, harmless: true},
	{name: "table deleted", script: "nft delete table inet twill", harmless: true},
	{name: "a chain flushed", script: "nft flush chain inet twill postrouting", harmless: true},
	{name: "a chain added that drops", script: "nft add chain inet twill drops '{ type filter hook forward priority 0; policy drop; }'", local: true},
	{name: "a rule added", script: "nft add rule inet twill postrouting ip saddr 10.9.9.9 return", harmless: true},
	{name: "VTEP table deleted", script: "nft delete table inet twill-vtep", harmless: true},
	{name: "VTEP set flushed", script: "nft flush set inet twill-vtep peers-ipv4; nft flush set inet twill-vtep ipv6-64-in-ipv6"},
	{name: "a stranger let in", script: "nft add element inet twill-vtep peers-ipv4 '{ 192.168.77.199 }'; nft add element inet twill-vtep ipv4-24-in-ipv4 '{ 192.168.77.199 . 10.244.199.0 }'", harmless: true},
	{name: "pods' table deleted", script: "nft delete table bridge twill-pods", harmless: true},
	{name: "pods' set flushed", script: "nft flush set bridge twill-pods pods-ipv4", local: true},
	{name: "pods' chain flushed", script: "nft flush chain bridge twill-pods pod", harmless: true},
	{name: "forwarding switched off", script: "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0"},
	{name: "reverse path filter", script: "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1"},
}

func (d damage) touch(m *member) touch {
	switch {
	case d.harmless:
		return touch{}
	case d.local:
		return wholly(m)
	}
	return waysOf(m)
}

func kernelActions() []action {
	out := []action{
		{name: "foreign", weight: 4, plan: foreign},
		{name: "bridge down", weight: 1, plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			return script(m, "ip link set cni0 down; ip link set cni0 up", wholly(m))
		}},
		{name: "bridge deleted", weight: 1, plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			return fault{what: m.Name, uses: names(m), touches: wholly(m), do: func(ctx context.Context) error {
				if _, err := m.sh(ctx, "ip link del cni0"); err != nil {
					return err
				}
				return w.renewPods(ctx, m) // their veths hang on nothing
			}}
		}},
	}
	for _, d := range damages {
		out = append(out, action{name: "damage " + strings.ReplaceAll(d.name, "'", ""), weight: 1,
			when: func(w *world) bool { return len(w.in()) > 1 },
			plan: func(w *world, r *rand.Rand) fault {
				m, to := w.two(r)
				return w.damaged(d, m, to)
			}})
	}
	return out
}

// damaged is a damage to one node's way to another.
func (w *world) damaged(d damage, m, to *member) fault {
	return fault{what: m.Name + " towards " + to.Name, uses: names(m), touches: d.touch(m), do: func(ctx context.Context) error {
		_, err := m.Exec(ctx, "sh", "-c", way(to)+d.script)
		return ignoreExit(err) // what is gone already
	}}
}

// way sets the variables that the damages' scripts know.
func way(to *member) (vars string) {
	for f, p := range to.record.Subnets {
		vars += fmt.Sprintf("s%[1]s=%[2]s; g%[1]s=%[3]s; m%[1]s=%[4]s; n%[1]s=%[5]d\n",
			[]string{"4", "6"}[f], p, p.Addr(), to.record.MAC(subnet.Family(f)), backend.RouteMetric(p))
	}
	return vars
}

// ignoreExit lets a command fail, but not to be run.
func ignoreExit(err error) error {
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return nil
	}
	return err
}

// Foreign state of a node, none of it ours however like ours it looks. It hangs
// on a link of its own, so that it stands when others go.
const (
	marks = `
		ip link add mark0 type veth peer name mark1
		ip link set mark0 up; ip link set mark1 up
		ip address add 198.51.100.1/24 dev mark0
		ip address add 2001:db8:1::1/64 dev mark0 nodad
		ip link add markx type vxlan id 7 dstport 4789 dev mark0
		ip link set markx up
		ip link add twill.77 type bridge
		ip route add 10.9.0.0/24 via 198.51.100.9 dev mark0 proto static
		ip route add 10.9.1.0/24 via 198.51.100.9 dev mark0 proto 117
		ip -6 route add fd09::/64 via 2001:db8:1::9 dev mark0 proto bird
		ip route add blackhole 10.9.2.0/24
		ip route add 10.9.3.0/24 via 198.51.100.9 dev mark0 table 116 proto 116
		ip rule add from 10.9.0.0/24 lookup 116 priority 116
		ip neigh add 198.51.100.9 lladdr 02:07:00:00:00:02 dev mark0 nud permanent
		bridge fdb add 02:07:00:00:00:01 dev markx dst 198.51.100.9
		` + markRules
	markRules = `nft add table ip twill; nft add table inet marks '{ chain postrouting { type nat hook postrouting priority srcnat; ip saddr 10.9.0.0/24 masquerade; }; }'`
	seeMarks  = `
		for l in mark0 markx twill.77; do ip -o -d link show dev $l; ip -o address show dev $l; done
		ip route show table all dev mark0; ip -6 route show table all dev mark0
		ip route show type blackhole; ip rule; ip -6 rule
		ip neigh show dev mark0 nud permanent; bridge fdb show dev markx
		nft list table ip twill; nft list table inet marks`
)

// mark makes the foreign state, on a node that has just booted.
func (m *member) mark(ctx context.Context) error {
	if _, err := m.sh(ctx, "ip link show dev mark0 >/dev/null 2>&1 || {"+marks+"\n}"); err != nil {
		return err
	}
	return m.seeMarks(ctx)
}

// seeMarks notes the foreign state as it is to stay.
func (m *member) seeMarks(ctx context.Context) (err error) {
	m.foreign, err = m.marks(ctx)
	return err
}

func (m *member) marks(ctx context.Context) (string, error) {
	out, err := m.sh(ctx, seeMarks)
	if err != nil {
		return "", fmt.Errorf("foreign state is gone: %w", err)
	}
	return timers.ReplaceAllString(out, ""), nil
}

// foreign alters foreign state: ours does not notice, and it stays so.
func foreign(w *world, r *rand.Rand) fault {
	m, x := w.one(r), 10+r.IntN(200)
	f := script(m, fmt.Sprintf(`
		ip route replace 10.9.4.0/24 via 198.51.100.%[1]d dev mark0 proto static
		ip -6 route replace fd09:1::/64 via 2001:db8:1::%[1]x dev mark0 proto 117
		ip rule del priority 117 2>/dev/null || :
		ip rule add from 10.9.%[1]d.0/24 lookup 116 priority 117
		ip link set mark0 mtu %[2]d
		ip neigh replace 198.51.100.%[1]d lladdr 02:07:00:00:00:03 dev mark0 nud permanent
		nft flush chain inet marks postrouting
		nft add rule inet marks postrouting ip saddr 10.9.%[1]d.0/24 masquerade`, x, 1300+x), touch{})
	do := f.do
	f.what, f.do = fmt.Sprintf("%s (%d)", m.Name, x), func(ctx context.Context) error {
		if err := do(ctx); err != nil {
			return err
		}
		return m.seeMarks(ctx)
	}
	return f
}
