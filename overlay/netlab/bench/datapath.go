package bench

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/twill-net/twill/subnet"
)

// Path is one test of one data path: pod to pod between two nodes, unless it is
// the host's. Ratios are to the host's own path, node to node without pods,
// which was measured immediately before.
type Path struct {
	Target, Test, Unit, Better string
	Value                      []float64
	Ratio                      []float64 // empty for the host
	Errors                     int
}

// slice is how long one measurement takes.
const slice = 200 * time.Millisecond

// target is a data path to measure.
type target struct {
	name string
	*pair
	wire wire
}

func (b *bench) datapath(ctx context.Context) error {
	targets, err := b.targets(ctx)
	if err != nil {
		return err
	}
	host := targets[0]
	results := map[string]*Path{}
	for _, t := range tests {
		for _, target := range targets {
			r := &Path{Target: target.name, Test: t.name, Unit: t.unit, Better: t.better}
			results[t.name+target.name] = r
			b.report.Paths = append(b.report.Paths, r)
		}
	}
	for _, target := range targets[1:] {
		if err := target.signal(ctx, syscall.SIGSTOP); err != nil {
			return err
		}
	}
	for rep := range b.opts.Reps {
		b.step("data path, %d of %d", rep+1, b.opts.Reps)
		for _, t := range tests {
			for _, target := range targets[1:] {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err := target.signal(ctx, syscall.SIGCONT); err != nil {
					return err
				}
				r := results[t.name+target.name]
				reference, err := onCPU0(func() (float64, error) { return t.run(host.wire, slice) })
				if err != nil {
					return fmt.Errorf("%s from host to host: %w", t.name, err)
				}
				value, err := onCPU0(func() (float64, error) { return t.run(target.wire, slice) })
				if err != nil {
					r.Errors++ // a datagram lost, say
					b.step("%s by %s: %v", t.name, target.name, err)
				} else {
					r.Value, r.Ratio = append(r.Value, value), append(r.Ratio, value/reference)
				}
				h := results[t.name+host.name]
				h.Value = append(h.Value, reference)
				if err := target.signal(ctx, syscall.SIGSTOP); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// targets sets up the data paths: the host's, that of each daemon, and one made
// by hand, of which only the daemon is missing.
func (b *bench) targets(ctx context.Context) ([]target, error) {
	var targets []target
	for _, c := range b.contenders {
		p, err := b.newPair(ctx, c)
		if err != nil {
			return nil, err
		}
		if p.pods[0] != nil {
			targets = append(targets, target{c.name, p, wire{p.netns(true), p.pods[1].Addrs[subnet.IPv4]}})
		}
	}
	ours := targets[0].pair
	host := target{"host", &pair{}, wire{ours.netns(false), ours.places[1].Addrs[subnet.IPv4]}}
	hand, err := b.byHand(ctx, ours)
	if err != nil {
		return nil, fmt.Errorf("making a VXLAN by hand: %w", err)
	}
	targets = append(targets, target{"hand-made", hand, wire{hand.netns(true), hand.pods[1].Addrs[subnet.IPv4]}})
	return append([]target{host}, targets...), nil
}

// byHand makes what the daemon makes, with ip, bridge and nft, on the last two
// nodes: the same bridge, the same rules for masquerading and forwarding, but
// no VTEP hygiene, whose cost is thus part of the comparison.
func (b *bench) byHand(ctx context.Context, ours *pair) (*pair, error) {
	p := &pair{name: "hand-made"}
	rules, err := ours.places[0].run(ctx, "nft list table inet twill; echo; . /run/twill/subnet.env; echo OWN=$FLANNEL_SUBNET MTU=$FLANNEL_MTU")
	if err != nil {
		return nil, err
	}
	rules, tail, _ := strings.Cut(rules, "OWN=")
	own, mtu, _ := strings.Cut(strings.TrimSpace(tail), " MTU=")
	own = strings.TrimSuffix(own, ".1/24") // 10.x.y
	var confs [2]string
	for i := range p.places {
		at, err := newPlace(ctx, b.lab.Node(5+i), b.opts.Program)
		if err != nil {
			return nil, err
		}
		p.places[i] = at
		net := func(i int) string { return fmt.Sprintf("10.20%d.0", 8+i) }
		script := fmt.Sprintf(`set -e
			ip link add hand.1 mtu %[1]s address 02:aa:00:00:00:0%[2]d type vxlan id 7 dstport 8477 local %[3]s dev eth0 nolearning
			ip link set hand.1 up; ip address add %[4]s.0/32 dev hand.1
			ip neigh add %[5]s.0 lladdr 02:aa:00:00:00:0%[6]d dev hand.1 nud permanent
			bridge fdb add 02:aa:00:00:00:0%[6]d dev hand.1 dst %[7]s self permanent
			ip route add %[5]s.0/24 via %[5]s.0 dev hand.1 onlink
			echo 1 >/proc/sys/net/ipv4/ip_forward
			nft -f - <<'END'
%[8]s
END`,
			mtu, i+1, at.Addrs[subnet.IPv4], net(i), net(1-i), 2-i, b.lab.Node(6 - i).Addrs[subnet.IPv4], strings.ReplaceAll(rules, own, net(i)))
		if _, err := at.run(ctx, script); err != nil {
			return nil, err
		}
		confs[i] = bridgeConf(net(i), mtu)
	}
	err = p.addPods(ctx, confs)
	return p, err
}

// bridgeConf is what our plugin hands to its delegate.
func bridgeConf(net, mtu string) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"cbr0","type":"bridge","bridge":"cni0","mtu":%s,"hairpinMode":true,"isGateway":true,"isDefaultGateway":true,
		"ipMasq":false,"ipam":{"type":"host-local","ranges":[[{"subnet":"%s.0/24"}]],"routes":[{"dst":"10.0.0.0/8"}]}}`, mtu, net)
}
