package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

// Repair is how one daemon undid one kind of damage, with one number of peers.
type Repair struct {
	Daemon, Damage string
	Peers          int
	State          []float64 // ms from the damage until everything is as it was
	Gap            []float64 // ms between two answers of a ping every 2 ms between pods, over the damage
	Never          int       // how often it was not repaired in time
	Within         float64   // ms, that time
}

// damage is something that happens behind the daemon's back. Scripts see
// variables, see pair.variables.
type damage struct {
	name, do string
	undone   string // succeeds when it is undone; empty: not asked
	ways     bool   // the ways to all peers go with it
}

var damages = []damage{
	{"route deleted", `ip route del $PEER dev $DEV`, `ip route show $PEER | grep -q $DEV`, false},
	{"neighbour deleted", `ip neigh del $GW dev $DEV`, `ip neigh show $GW dev $DEV nud permanent | grep -q $MAC`, false},
	{"FDB entry deleted", `bridge fdb del $MAC dev $DEV self`, `bridge fdb get $MAC dev $DEV self >/dev/null 2>&1`, false},
	{"address deleted", `ip address del $OWN dev $DEV`, `ip -o -4 address show dev $DEV | grep -q "$OWN"`, true},
	{"MAC changed", `ip link set $DEV address 02:00:00:00:00:99`, `grep -q $OWNMAC /sys/class/net/$DEV/address`, true},
	{"MTU changed", `ip link set $DEV mtu 1300`, `grep -q $MTU /sys/class/net/$DEV/mtu`, false},
	{"forwarding off", `echo 0 >/proc/sys/net/ipv4/ip_forward`, `grep -q 1 /proc/sys/net/ipv4/ip_forward`, false},
	{"rp_filter strict", `echo 1 >/proc/sys/net/ipv4/conf/$DEV/rp_filter`, `grep -q $RPF /proc/sys/net/ipv4/conf/$DEV/rp_filter`, false},
	{"nft flush ruleset", `nft flush ruleset`, `[ $(` + ourRules + `) -ge $RULES ]`, false},
	{"link down", `ip link set $DEV down`, "", true},
	{linkDeleted, `ip link del $DEV`, "", true},
}

// linkDeleted has a bar of its own.
const linkDeleted = "link deleted"

// iptablesDamages happen to a daemon that was told to use iptables.
var iptablesDamages = []damage{
	{"iptables-nft flushed", `iptables-nft -t nat -F && iptables-nft -t nat -X`, `[ $(iptables-nft -t nat -S | wc -l) -ge $NAT ]`, false},
}

// ourRules counts what names a daemon, or masquerades: tables of iptables-nft
// that somebody listed once are nobody's.
const ourRules = `nft -t list ruleset | grep -ciE "twill|flannel|masquerade"`

// variables sets what damages refer to; it is run once, when all is well.
const variables = `OWNMAC=$(cat /sys/class/net/$DEV/address) MTU=$(cat /sys/class/net/$DEV/mtu)
	OWN=$(ip -o -4 address show dev $DEV | awk '{print $4}') RPF=$(cat /proc/sys/net/ipv4/conf/$DEV/rp_filter)
	RULES=$(` + ourRules + `) NAT=$(iptables-nft -t nat -S | wc -l)
	for v in OWNMAC MTU OWN RPF RULES NAT; do eval "echo $v=\"\$$v\""; done`

// repairTimes is how often each is tried, once in each life of the daemon: what
// is damaged more than five times within a minute, and the link is by four kinds
// of damage, is repaired slowly on purpose.
const repairTimes = 4

func (b *bench) repair(ctx context.Context) error {
	sizes := []int{10, 5000}
	if b.opts.Quick {
		sizes = sizes[1:]
	}
	for i, size := range sizes {
		b.step("repair, %d peers", size)
		if err := b.repairWith(ctx, size, i == 0); err != nil {
			return err
		}
	}
	return nil
}

// repairWith has the daemons repair, with so many peers; the peer daemon only
// if it is told to: what it does not repair takes a minute and a half, however
// many peers there are. Else it is stopped, since it would be learning of them
// for seconds while another one is measured.
func (b *bench) repairWith(ctx context.Context, size int, both bool) (err error) {
	if p := b.pairs[peerName]; p != nil && !both {
		if err := p.signal(ctx, syscall.SIGSTOP); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.signal(ctx, syscall.SIGCONT)) }()
	}
	if err := b.loadPeers(ctx, size); err != nil {
		return err
	}
	for _, c := range b.contenders {
		if c.name == peerName && !both {
			continue
		}
		if err := b.repairAll(ctx, c, size); err != nil {
			return fmt.Errorf("%s with %d peers: %w", c.name, size, err)
		}
	}
	return nil
}

func (b *bench) repairAll(ctx context.Context, c contender, size int) error {
	p, ok := b.pairs[c.name]
	if !ok {
		var err error
		if p, err = b.newPair(ctx, c); err != nil {
			return err
		}
		b.pairs[c.name] = p
	} else if err := p.restart(ctx); err != nil { // what was repaired often before is forgotten
		return err
	}
	times, within := repairTimes, 3*time.Second
	if b.opts.Quick {
		times = 2
	}
	if c.name == peerName {
		times, within = 1, 7*time.Second // it looks at iptables every 5 s
	}
	if err := b.damage(ctx, p, c, size, damages, times, within); err != nil {
		return err
	}
	if err := p.restart(ctx, c.iptables...); err != nil {
		return err
	}
	if err := b.damage(ctx, p, c, size, iptablesDamages, times, within, c.iptables...); err != nil {
		return err
	}
	return p.restart(ctx)
}

// damage does each kind of damage so many times, to daemons with these flags
// besides their own.
func (b *bench) damage(ctx context.Context, p *pair, c contender, size int, damages []damage, times int, within time.Duration, flags ...string) error {
	vars, err := p.variables(ctx, c, size)
	if err != nil {
		return err
	}
	results := make([]*Repair, len(damages))
	for i, d := range damages {
		results[i] = &Repair{Daemon: c.name, Damage: d.name, Peers: size, Within: float64(within.Milliseconds())}
		b.report.Repairs = append(b.report.Repairs, results[i])
	}
	for n := range times {
		if n > 0 {
			if err := p.restart(ctx, flags...); err != nil {
				return err
			}
		}
		for i, d := range damages {
			args := DamageArgs{Variables: vars, Do: d.do, Undone: d.undone, Within: within}
			if d.ways {
				args.Peers = size
			}
			repaired, err := p.damaged(ctx, args, results[i])
			if err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
			if !repaired { // a restart is what helps flannel
				if err := p.restart(ctx); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// restart starts the daemons again, with more flags if there are any.
func (p *pair) restart(ctx context.Context, flags ...string) (err error) {
	for i, at := range p.places {
		d := p.daemon
		d.args = slices.Concat(d.args, flags)
		if p.runs[i], err = p.runs[i].again(ctx, at, d); err != nil {
			return err
		}
	}
	return nil
}

// variables waits until the first node has the ways to all peers and returns
// what the scripts need, as assignments.
func (p *pair) variables(ctx context.Context, c contender, size int) (string, error) {
	env, err := envfile.Read(p.places[1].Path(c.env))
	if err != nil {
		return "", err
	}
	other := env.Subnets[subnet.IPv4].Masked()
	mac, err := p.places[1].run(ctx, "cat /sys/class/net/"+c.device+"/address")
	if err != nil {
		return "", err
	}
	if err := c.call(ctx, "Want", Expect{Peers: Peers{First: 1, Count: size}}, &Nothing{}); err != nil {
		return "", err
	}
	if _, err := c.await(ctx, 30*time.Second); err != nil {
		return "", err
	}
	vars := fmt.Sprintf("DEV=%s PEER=%s GW=%s MAC=%s\n", c.device, other, other.Addr(), strings.TrimSpace(mac))
	found, err := p.places[0].run(ctx, "export "+vars+variables)
	var quoted strings.Builder
	for line := range strings.Lines(found) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		fmt.Fprintf(&quoted, "%s='%s'\n", name, value)
	}
	return vars + quoted.String(), err
}

// damaged does the damage while pods talk.
func (p *pair) damaged(ctx context.Context, a DamageArgs, r *Repair) (repaired bool, err error) {
	var m Mended
	gap, err := p.talk(ctx, func() error { return p.places[0].call(ctx, "Damage", a, &m) })
	switch {
	case err != nil:
		return false, err
	case m.Never:
		r.Never++
		return false, nil
	}
	r.State = append(r.State, m.Milliseconds)
	if gap > 0 {
		r.Gap = append(r.Gap, gap)
	}
	return true, nil
}

// talk has the pods talk during f and returns the longest silence, ms.
func (p *pair) talk(ctx context.Context, f func() error) (gap float64, err error) {
	if p.pods[0] == nil {
		return 0, f()
	}
	flow, err := p.pods[0].PingContinuously(ctx, p.pods[1].Addrs[subnet.FamilyOf(netip.IPv4Unspecified())], 2*time.Millisecond)
	if err != nil {
		return 0, err
	}
	await := func() {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_ = flow.Await(ctx, 20) // else the gap is long
	}
	await()
	err = f()
	await()
	loss, stopErr := flow.Stop()
	if err == nil {
		err = stopErr
	}
	return float64(loss.LongestGap.Microseconds()) / 1000, err
}
