package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/twill-net/twill/subnet"
)

// uplink gives a link ($1) the node's addresses and default routes.
const uplink = `
	address() {
		ip address replace $v4/24 dev $1; ip address replace $v6/64 dev $1 nodad
		ip route replace default via 192.168.77.1; ip -6 route replace default via fd77::1
	}
	`

// host sets the variables v4 and v6, the node's own addresses.
func host(m *member) string {
	return fmt.Sprintf("v4=%s; v6=%s\n", m.Addrs[subnet.IPv4], m.Addrs[subnet.IPv6])
}

// changed is a change of a node's underlay, and back.
func changed(m *member, hold time.Duration, touches touch, there, back string) fault {
	f := script(m, host(m)+uplink+there, touches)
	f.what, f.hold = m.Name, hold
	f.undo = script(m, host(m)+uplink+back, touches).do
	return f
}

func underlayActions() []action {
	return []action{
		{name: "node cut off", weight: 4, when: atLeast(2), plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			port := func(state string) func(context.Context) error {
				return func(ctx context.Context) error {
					_, err := w.Lan.Exec(ctx, "ip", "link", "set", m.Name, state)
					return err
				}
			}
			return fault{what: m.Name, uses: names(m), touches: waysOf(m), hold: between(r, 0, 8*time.Second), do: port("down"), undo: port("up")}
		}},
		{name: "two nodes apart", weight: 4, when: atLeast(2), plan: func(w *world, r *rand.Rand) fault {
			a, b := w.two(r)
			drop := fmt.Sprintf("ether saddr %[1]s ether daddr %[2]s drop; ether saddr %[2]s ether daddr %[1]s drop;", mac(a), mac(b))
			return w.dropping(fault{what: a.Name + " and " + b.Name, touches: touch{pairs: [][2]*member{{a, b}}}, hold: between(r, 0, 5*time.Second)}, drop)
		}},
		{name: "node cut off from the store", weight: 5, plan: func(w *world, r *rand.Rand) fault {
			ms, drop := w.some(r), ""
			for _, m := range ms {
				drop += fmt.Sprintf("ether saddr %s tcp dport 2379 drop;", mac(m))
			}
			return w.dropping(fault{what: fmt.Sprint(names(ms...)), uses: append(names(ms...), store), hold: between(r, 0, 8*time.Second)}, drop)
		}},
		{name: "uplink down and up", weight: 3, plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			return changed(m, between(r, 0, 3*time.Second), waysOf(m), "ip link set eth0 down", "ip link set eth0 up; address eth0")
		}},
		{name: "uplink renamed", weight: 2, plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			return changed(m, between(r, 0, 3*time.Second), waysOf(m), "ip link set eth0 down; ip link set eth0 name uplink0; ip link set uplink0 up; address uplink0",
				"ip link set uplink0 down; ip link set uplink0 name eth0; ip link set eth0 up; address eth0")
		}},
		{name: "uplink under a bridge", weight: 2, plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			return changed(m, between(r, 0, 3*time.Second), waysOf(m), `
				ip link add br-up address `+mac(m)+` type bridge; ip link set br-up up; ip link set eth0 master br-up
				ip address flush dev eth0; ip -6 address flush dev eth0; address br-up`,
				"ip link del br-up; address eth0")
		}},
		{name: "uplink replaced", weight: 2, plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			return changed(m, between(r, 0, 3*time.Second), waysOf(m), `
				ip link set eth0 down; ip address flush dev eth0; ip link set eth0 name port0
				ip link add eth0 address `+mac(m)+` type bridge; ip link set port0 master eth0 up; ip link set eth0 up; address eth0`,
				"ip link del eth0; ip link set port0 down; ip link set port0 name eth0; ip link set eth0 up; address eth0")
		}},
		{name: "default route gone", weight: 2, plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			// The store, the only one beyond, is on link.
			return changed(m, between(r, 0, 2*time.Second), touch{}, "ip route del default; ip -6 route del default", "address eth0")
		}},
		{name: "another address beside", weight: 2, plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			return changed(m, between(r, 0, 2*time.Second), touch{},
				fmt.Sprintf("ip address add 192.168.77.%d/24 dev eth0; ip address add fd77::%d/64 dev eth0 nodad", 50+m.index, 50+m.index),
				fmt.Sprintf("ip address del 192.168.77.%d/24 dev eth0; ip address del fd77::%d/64 dev eth0", 50+m.index, 50+m.index))
		}},
		{name: "address changed", weight: 4, plan: renumbered},
		{name: "MTU changed", weight: 4, plan: resized},
	}
}

// mac is the MAC of a node's eth0.
func mac(m *member) string { return fmt.Sprintf("02:77:00:00:01:%02x", m.index+1) }

// dropping has the lan, which is a bridge, drop frames for a while.
func (w *world) dropping(f fault, rules string) fault {
	const filters = "chain pass { type filter hook forward priority 0; %[1]s }; chain in { type filter hook input priority 0; %[1]s };"
	f.uses = append(f.uses, "lan")
	f.do = func(ctx context.Context) error {
		_, err := w.Lan.Exec(ctx, "nft", "add table bridge chaos { "+fmt.Sprintf(filters, rules)+" }")
		return err
	}
	f.undo = func(ctx context.Context) error {
		_, err := w.Lan.Exec(ctx, "nft", "delete", "table", "bridge", "chaos")
		return err
	}
	return f
}

// renumbered gives a node other addresses for a while, of one family or both,
// as make before break or the other way round.
func renumbered(w *world, r *rand.Rand) fault {
	m := w.one(r)
	families := []string{"4", "6", "46"}[r.IntN(3)]
	move := "families=" + families + `
		has() { case $families in *$1*) ;; *) return 1;; esac; }
		add() { ! has 4 || ip address add 192.168.77.$1/24 dev eth0; ! has 6 || ip address add fd77::$1/64 dev eth0 nodad; }
		del() { ! has 4 || ip address del 192.168.77.$1/24 dev eth0; ! has 6 || ip address del fd77::$1/64 dev eth0; }
		sysctl -qw net.ipv4.conf.all.promote_secondaries=1
		%s
		ip route replace default via 192.168.77.1; ip -6 route replace default via fd77::1`
	old, other := 11+m.index, 91+m.index
	steps := func(from, to int) string { return fmt.Sprintf("add %d; del %d", to, from) }
	if r.IntN(2) == 0 {
		steps = func(from, to int) string { return fmt.Sprintf("del %d; add %d", from, to) }
	}
	f := changed(m, between(r, 0, 4*time.Second), waysOf(m), fmt.Sprintf(move, steps(old, other)), fmt.Sprintf(move, steps(other, old)))
	f.what = fmt.Sprintf("%s: IPv%s, %s", m.Name, families, steps(old, other))
	return f
}

// resized changes the MTU of a node's uplink for a while: device, subnet.env
// and new pods follow, and small packets flow on.
func resized(w *world, r *rand.Rand) fault {
	m, mtu := w.one(r), 1350+10*r.IntN(14)
	f := changed(m, 0, touch{}, fmt.Sprintf("ip link set eth0 mtu %d", mtu), "ip link set eth0 mtu 1500")
	f.what = fmt.Sprintf("%s: %d", m.Name, mtu)
	await := func(ctx context.Context, mtu int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		want := fmt.Sprintf("FLANNEL_MTU=%d", mtu-70)
		return poll(ctx, 20*time.Millisecond, func() error {
			env, err := m.Exec(ctx, "cat", "/run/twill/subnet.env")
			if err == nil && !slices.Contains(strings.Split(env, "\n"), want) {
				return fmt.Errorf("subnet.env is not of %s:\n%s", want, env)
			}
			return err
		})
	}
	do, undo := f.do, f.undo
	f.do = func(ctx context.Context) error {
		if err := do(ctx); err != nil {
			return err
		}
		return await(ctx, mtu)
	}
	f.undo = func(ctx context.Context) error {
		if err := undo(ctx); err != nil {
			return err
		}
		return await(ctx, 1500)
	}
	return f
}
