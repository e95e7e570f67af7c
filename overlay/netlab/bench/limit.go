package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
)

// LimitArgs says what the limit is measured with.
type LimitArgs struct {
	Peers   int
	Batcher string // test binary of backend/kernel; empty: without
}

// Limit is what the machine needs to write the ways to so many peers into the
// kernel, with nothing else to do: milliseconds.
type Limit struct {
	Apply   float64 // backend/kernel's Apply, as the daemon calls it
	Batched float64 // one socket, many messages in each send
}

// limitNetns is where the limit is measured.
const limitNetns = "bench-limit"

// Limit writes the ways to a device in a namespace of its own.
func (p *probe) Limit(a LimitArgs, l *Limit) error {
	const script = `ip netns add %[1]s && ip -n %[1]s link set lo up &&
		ip -n %[1]s link add eth0 type veth peer name far && ip -n %[1]s link set far up && ip -n %[1]s link set eth0 up &&
		ip -n %[1]s address add 192.168.77.9/24 dev eth0`
	if err := p.Run(fmt.Sprintf(script, limitNetns), new(string)); err != nil {
		return err
	}
	apply, err := p.applyAll(a.Peers)
	l.Apply = apply
	if err := errors.Join(err, p.Run("ip netns del "+limitNetns, new(string))); err != nil || a.Batcher == "" {
		return err
	}
	l.Batched, err = p.batchAll(a)
	return err
}

func (p *probe) applyAll(count int) (ms float64, err error) {
	netns, err := os.Open("/run/netns/" + limitNetns)
	if err != nil {
		return 0, err
	}
	defer netns.Close()
	k, err := kernel.New(kernel.Config{NetNS: int(netns.Fd())})
	if err != nil {
		return 0, err
	}
	defer k.Close()
	const device = "twill.1"
	changes := []backend.Change{{Want: backend.Link{
		Name: device, MTU: 1450, MAC: [6]byte{2, 0, 0, 0, 0, 1}, Up: true, Parent: "eth0",
		Local: netip.MustParseAddr("192.168.77.9"), VXLAN: backend.VXLAN{VNI: 1, Port: 8472},
	}}}
	for _, peer := range peers(1, count, 0) {
		s := peer.subnet()
		for _, o := range []backend.Object{
			backend.Neighbor{Link: device, IP: s.Addr(), MAC: peer.mac()},
			backend.FDB{Link: device, MAC: peer.mac(), Dst: peer.publicIP()},
			backend.Route{Dst: s, Link: device, Via: s.Addr(), OnLink: true, Metric: backend.RouteMetric(s)},
		} {
			changes = append(changes, backend.Change{Want: o})
		}
	}
	if err := k.Apply(p.ctx, changes[:1])[0]; err != nil {
		return 0, err
	}
	from := now()
	errs := k.Apply(p.ctx, changes[1:])
	ms = since(from)
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return ms, nil
}

// batchAll runs the batching writer, which is in the tests of backend/kernel:
// the only importer of netlink.
func (p *probe) batchAll(a LimitArgs) (ms float64, err error) {
	var out string
	err = p.Run(fmt.Sprintf("%s -test.run '^$' -test.bench '^BenchmarkOneSocket$/^%d$' -test.benchtime 1x", a.Batcher, a.Peers), &out)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) == 4 && fields[3] == "ns/op" {
			_, err := fmt.Sscan(fields[2], &ms)
			return ms / 1e6, err
		}
	}
	return 0, fmt.Errorf("%s printed no result: %s", a.Batcher, out)
}
