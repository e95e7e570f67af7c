package bench

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
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
// variables, see drift.variables.
type damage struct{ name, do, undone string }

var damages = []damage{
	{"route deleted", `ip route del $PEER dev $DEV`, `ip route show $PEER | grep -q $DEV`},
	{"neighbour deleted", `ip neigh del $GW dev $DEV`, `ip neigh show $GW dev $DEV nud permanent | grep -q $MAC`},
	{"FDB entry deleted", `bridge fdb del $MAC dev $DEV self`, `bridge fdb get $MAC dev $DEV self >/dev/null 2>&1`},
	{"address deleted", `ip address del $OWN dev $DEV`, `ip -o -4 address show dev $DEV | grep -q "$OWN"`},
	{"MAC changed", `ip link set $DEV address 02:00:00:00:00:99`, `grep -q $OWNMAC /sys/class/net/$DEV/address`},
	{"MTU changed", `ip link set $DEV mtu 1300`, `grep -q $MTU /sys/class/net/$DEV/mtu`},
	{"forwarding off", `echo 0 >/proc/sys/net/ipv4/ip_forward`, `grep -q 1 /proc/sys/net/ipv4/ip_forward`},
	{"rp_filter strict", `echo 1 >/proc/sys/net/ipv4/conf/$DEV/rp_filter`, `grep -q $RPF /proc/sys/net/ipv4/conf/$DEV/rp_filter`},
	{"nft flush ruleset", `nft flush ruleset`, `[ $(nft list ruleset | wc -w) -ge $RULES ]`},
	{"link down", `ip link set $DEV down`, allBack},
	{"link deleted", `ip link del $DEV`, allBack},
}

const allBack = `[ $(ip -4 route show dev $DEV 2>/dev/null | wc -l) -ge $ROUTES ] &&
	[ $(ip -4 neigh show dev $DEV nud permanent | wc -l) -ge $NEIGHBOURS ] && [ $(bridge fdb show dev $DEV | grep -c dst) -ge $ENTRIES ]`

// variables sets what damages refer to; it is run once, when all is well.
const variables = `OWNMAC=$(cat /sys/class/net/$DEV/address) MTU=$(cat /sys/class/net/$DEV/mtu)
	OWN=$(ip -o -4 address show dev $DEV | awk '{print $4}') RPF=$(cat /proc/sys/net/ipv4/conf/$DEV/rp_filter)
	ROUTES=$(ip -4 route show dev $DEV | wc -l) NEIGHBOURS=$(ip -4 neigh show dev $DEV nud permanent | wc -l)
	ENTRIES=$(bridge fdb show dev $DEV | grep -c dst) RULES=$(nft list ruleset | wc -w)
	for v in OWNMAC MTU OWN RPF ROUTES NEIGHBOURS ENTRIES RULES; do eval "echo $v=\"\$$v\""; done`

// repairTimes is how often each is tried with one daemon's life: what is
// damaged more than five times within a minute is repaired slowly on purpose.
const repairTimes = 4

func (b *bench) repair(ctx context.Context) error {
	sizes := []int{10, 5000}
	for _, size := range sizes {
		b.step("repair, %d peers", size)
		if err := b.loadPeers(ctx, size); err != nil {
			return err
		}
		for _, c := range b.contenders {
			if err := b.repairAll(ctx, c, size); err != nil {
				return fmt.Errorf("%s with %d peers: %w", c.name, size, err)
			}
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
		times, within = 1, 10*time.Second
	}
	vars, err := p.variables(ctx, c, size)
	if err != nil {
		return err
	}
	results := make([]*Repair, len(damages))
	for i, d := range damages {
		results[i] = &Repair{Daemon: c.name, Damage: d.name, Peers: size, Within: float64(within.Milliseconds())}
		b.report.Repairs = append(b.report.Repairs, results[i])
	}
	for range times {
		for i, d := range damages {
			repaired, err := b.repairOnce(ctx, p, vars, d, results[i], within)
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

func (p *pair) restart(ctx context.Context) (err error) {
	p.stop(ctx)
	for i, at := range p.places {
		if p.runs[i], err = at.start(ctx, p.runs[i].daemon); err != nil {
			return err
		}
		if err := p.runs[i].awaitReady(ctx, 20*time.Second); err != nil {
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

// repairOnce does the damage while pods talk.
func (b *bench) repairOnce(ctx context.Context, p *pair, vars string, d damage, r *Repair, within time.Duration) (repaired bool, err error) {
	gap, err := p.talk(ctx, func() error {
		script := fmt.Sprintf("%s\n%s\ntimeout %d sh -c '%s\nuntil { %s; }; do sleep 0.002; done' || echo never",
			vars, d.do, int(within.Seconds()), quote(vars), quote(d.undone))
		from := now()
		out, err := p.places[0].run(ctx, script)
		if err != nil {
			return err
		}
		if repaired = !strings.Contains(out, "never"); !repaired {
			r.Never++
			return nil
		}
		r.State = append(r.State, since(from))
		return nil
	})
	if repaired && gap > 0 {
		r.Gap = append(r.Gap, gap)
	}
	return repaired, err
}

func quote(s string) string { return strings.ReplaceAll(s, "'", `'\''`) }

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
