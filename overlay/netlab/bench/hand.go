package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/nftables/guard"
	"github.com/twill-net/twill/subnet"
)

// What is made by hand.
const (
	handVNI   = 7
	handPort  = 8477
	handFirst = 5 // node
)

// handNet returns the subnet of one of both nodes without its last octet.
func handNet(i int) string { return fmt.Sprintf("10.20%d.0", 8+i) }

// byHand makes what the daemon makes, with ip, bridge and nft, on two nodes: the
// same bridge, and the same rules for masquerading.
func (b *bench) byHand(ctx context.Context, ours *pair) (*pair, error) {
	p := &pair{name: handTarget}
	rules, err := ours.places[0].run(ctx, "nft list table inet twill; echo; . /run/twill/subnet.env; echo OWN=$FLANNEL_SUBNET MTU=$FLANNEL_MTU")
	if err != nil {
		return nil, err
	}
	rules, tail, _ := strings.Cut(rules, "OWN=")
	own, mtu, _ := strings.Cut(strings.TrimSpace(tail), " MTU=")
	own = strings.TrimSuffix(own, ".1/24") // 10.x.y
	var confs [2]string
	for i := range p.places {
		at, err := newPlace(ctx, b.lab.Node(handFirst+i), b.opts.Program)
		if err != nil {
			return nil, err
		}
		p.places[i] = at
		script := fmt.Sprintf(`set -e
			ip link add hand.1 mtu %[1]s address 02:aa:00:00:00:0%[2]d type vxlan id %[9]d dstport %[10]d local %[3]s dev eth0 nolearning
			ip link set hand.1 up; ip address add %[4]s.0/32 dev hand.1
			ip neigh add %[5]s.0 lladdr 02:aa:00:00:00:0%[6]d dev hand.1 nud permanent
			bridge fdb add 02:aa:00:00:00:0%[6]d dev hand.1 dst %[7]s self permanent
			ip route add %[5]s.0/24 via %[5]s.0 dev hand.1 onlink
			echo 1 >/proc/sys/net/ipv4/ip_forward
			nft -f - <<'END'
%[8]s
END`,
			mtu, i+1, at.Addrs[subnet.IPv4], handNet(i), handNet(1-i), 2-i, b.lab.Node(handFirst + 1 - i).Addrs[subnet.IPv4],
			strings.ReplaceAll(rules, own, handNet(i)), handVNI, handPort)
		if _, err := at.run(ctx, script); err != nil {
			return nil, err
		}
		confs[i] = bridgeConf(handNet(i), mtu)
	}
	err = p.addPods(ctx, confs)
	return p, err
}

// guard gives a pair that was made by hand the rules of hygiene which the daemon
// has. No text says them: nft 1.0.6 does not read what it lists.
func (p *pair) guard(ctx context.Context) error {
	for i, at := range p.places {
		port, err := at.run(ctx, "basename /sys/class/net/cni0/brif/*")
		if err != nil {
			return err
		}
		peer := p.places[1-i].Addrs[subnet.IPv4]
		a := GuardArgs{
			Permits: []hygiene.Permit{{Outer: peer}, {Outer: peer, Inner: netip.MustParsePrefix(handNet(1-i) + ".0/24")}},
			Pod:     hygiene.Pod{Link: strings.TrimSpace(port), Addresses: p.pods[i].Addrs},
		}
		if err := at.call(ctx, "Guard", a, &Nothing{}); err != nil {
			return err
		}
	}
	return nil
}

// GuardArgs says who may speak to what was made by hand, and who its pod is.
type GuardArgs struct {
	Permits []hygiene.Permit
	Pod     hygiene.Pod
}

// Guard writes the rules of hygiene.
func (p *probe) Guard(a GuardArgs, _ *Nothing) error {
	want := backend.NewState(a.Pod, hygiene.Guard{
		VNI: handVNI, Port: handPort, Networks: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.0.0.0/8")},
	})
	for _, permit := range a.Permits {
		want[permit.Key()] = permit
	}
	return errors.Join(guard.New(guard.Config{}).Apply(p.ctx, backend.Diff(want, nil))...)
}

// bridgeConf is what our plugin hands to its delegate.
func bridgeConf(net, mtu string) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"cbr0","type":"bridge","bridge":"cni0","mtu":%s,"hairpinMode":true,"isGateway":true,"isDefaultGateway":true,
		"ipMasq":false,"ipam":{"type":"host-local","ranges":[[{"subnet":"%s.0/24"}]],"routes":[{"dst":"10.0.0.0/8"}]}}`, mtu, net)
}
