package hygiene

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// A peer is let in before anyone can answer it, wherever it moves to, and for
// as long as it is one.
func (c *cluster) peersComeAndGo(t *testing.T) {
	three, to := c.Node(3), c.taps[c.pod.Name]
	want := c.drops(t)
	c.start(t, three, "--release-on-exit")
	newcomer := addPod(t, three, "a")
	c.meshed(t, c.Nodes...)
	c.pings(t, newcomer, c.pod)
	c.pings(t, newcomer, c.remote)
	have := c.drops(t)
	for k, n := range want {
		require.Equal(t, n, have[k], k)
	}

	packets := func(name string, send func(f subnet.Family) func(*testing.T, string)) (tries []try) {
		for _, f := range c.underlay {
			tries = append(tries, try{name + ", " + versions[f], send(f), to, c.one, hygiene.ReasonStranger})
		}
		return tries
	}
	asPeer := packets("from its address", func(f subnet.Family) func(*testing.T, string) {
		return c.toPod(f, f, &three.Host, newcomer.Addrs[f])
	})
	// The lan sends in the name of an address that nobody has.
	was := three.Addrs
	asBefore := packets("from its old address", func(f subnet.Family) func(*testing.T, string) {
		return func(t *testing.T, text string) {
			d := datagram(was[f], c.one.Addrs[f], vtepPort, vxlan(1, carrying(c.devices[0][f].mac, newcomer.Addrs[f], c.pod.Addrs[f], text)))
			sendRaw(t, c.Lan, c.one.Addrs[f], packet(was[f], c.one.Addrs[f], unix.IPPROTO_UDP, d))
		}
	})
	c.arrive(t, append(asPeer, asBefore...)...)

	netlabtest.Run(t, &three.Host, `sysctl -qw net.ipv4.conf.all.promote_secondaries=1
		ip address add 192.168.77.113/24 dev eth0; ip address add fd77::113/64 dev eth0 nodad
		ip address del 192.168.77.13/24 dev eth0; ip address del fd77::13/64 dev eth0
		ip route replace default via 192.168.77.1`)
	now := []string{"192.168.77.113", "fd77::113"}
	movedHere(t, three, now)
	for _, n := range []*netlab.Node{c.one, c.two} {
		netlabtest.Eventually(t, n.Name+" knows the new addresses", func() error {
			for _, p := range status(t, n).Peers {
				if p.Node == three.Name && slices.Equal(p.PublicIPs, now) {
					return nil
				}
			}
			return fmt.Errorf("its peers are %+v", status(t, n).Peers)
		})
		netlabtest.Eventually(t, n.Name+" has taken them over", func() error {
			g := guard(t, n)
			for f, old := range was {
				if strings.Contains(g, old.String()+" ") || strings.Contains(g, old.String()+"\n") || !strings.Contains(g, now[f]) {
					return fmt.Errorf("it has %s", g)
				}
			}
			return nil
		})
		movedThere(t, n, was, now)
	}
	c.pings(t, newcomer, c.pod)
	c.arrive(t, asPeer...)
	c.dropped(t, asBefore...)

	gone := subnets(t, three)
	require.NoError(t, c.daemons[three].Stop(t.Context()))
	delete(c.daemons, three)
	for _, n := range []*netlab.Node{c.one, c.two} {
		for _, p := range gone {
			netlabtest.Eventually(t, n.Name+" has no way to it any more", func() error {
				if routed(t, n, p) == nil {
					return fmt.Errorf("it has one to %s", p)
				}
				return nil
			})
		}
		netlabtest.Eventually(t, n.Name+" does not let it in any more", func() error {
			if g := guard(t, n); strings.Contains(g, now[0]) || strings.Contains(g, now[1]) {
				return fmt.Errorf("it has %s", g)
			}
			return nil
		})
	}
	c.dropped(t, asPeer...)
	c.start(t, three)
	c.meshed(t, c.Nodes...)
	c.arrive(t, asPeer...)
	c.pings(t, newcomer, c.remote)
}

// movedHere waits until a node's own tunnels start at its new addresses: what
// they send before has the old ones.
func movedHere(t *testing.T, n *netlab.Node, now []string) {
	t.Helper()
	netlabtest.Eventually(t, n.Name+" sends from its new addresses", func() error {
		for f, address := range now {
			if out := netlabtest.Run(t, &n.Host, "ip -d -o link show dev "+tunnels[f]); !strings.Contains(out, " local "+address+" ") {
				return errors.New(out)
			}
		}
		return nil
	})
}

// movedThere waits until a node sends to a peer's new addresses. Who may speak
// to it comes before that.
func movedThere(t *testing.T, n *netlab.Node, was subnet.PerFamily[netip.Addr], now []string) {
	t.Helper()
	netlabtest.Eventually(t, n.Name+" sends to the new addresses", func() error {
		ways, err := netlabtest.Ways(t.Context(), n)
		if err != nil {
			return err
		}
		all := strings.Join(ways, "\n")
		for f, address := range now {
			if strings.Contains(all, " dst "+was[f].String()+" ") || !strings.Contains(all, " dst "+address+" ") {
				return errors.New(all)
			}
		}
		return nil
	})
}

// A peer that announces an address which its packets may or may not come from
// is known by both.
func (c *cluster) behindNAT(t *testing.T) {
	public := netip.MustParseAddr("192.168.77.112")
	inName := try{name: "from the public address", to: c.taps[c.pod.Name], at: c.one, reason: hygiene.ReasonStranger}
	inName.send = func(t *testing.T, text string) {
		to, inner := c.one.Addrs[subnet.IPv4], carrying(c.devices[0][subnet.IPv4].mac, c.remote.Addrs[subnet.IPv4], c.pod.Addrs[subnet.IPv4], text)
		sendRaw(t, c.Lan, to, packet(public, to, unix.IPPROTO_UDP, datagram(public, to, vtepPort, vxlan(1, inner))))
	}
	inside := try{name: "from the address behind NAT", send: c.toPod(subnet.IPv4, subnet.IPv4, &c.two.Host, c.remote.Addrs[subnet.IPv4]), to: inName.to}
	c.dropped(t, inName)
	c.start(t, c.two, "--public-ip="+public.String())
	knows := func(is bool) {
		netlabtest.Eventually(t, "the public address is let in or not", func() error {
			if g := guard(t, c.one); strings.Contains(g, public.String()) != is {
				return fmt.Errorf("it has %s", g)
			}
			return nil
		})
	}
	knows(true)
	c.arrive(t, inName, inside)
	c.start(t, c.two)
	knows(false)
	c.dropped(t, inName)
	c.arrive(t, inside)
}

// Hygiene goes on while the daemon does not run; and pods that are made
// meanwhile are held to their addresses when it is back.
func (c *cluster) daemonAway(t *testing.T) {
	require.NoError(t, c.daemons[c.one].Stop(t.Context()))
	count := func() string {
		return netlabtest.Run(t, &c.one.Host, "nft list counters table inet twill-vtep; nft list counters table bridge twill-pods")
	}
	for _, a := range []try{c.fromStrangers()[0], c.fromPods()[0], c.spoofs(t, c.pod)[0]} {
		before := count()
		a.to.saw("")
		a.send(t, "while it is away")
		netlabtest.Eventually(t, a.name+" is dropped", func() error {
			if count() == before {
				return errors.New("nothing is counted")
			}
			return nil
		})
		require.False(t, a.to.saw("while it is away"), a.name)
	}
	late := addPod(t, c.one, "late")
	c.pings(t, late, c.remote)
	c.start(t, c.one)
	c.dropped(t, c.spoofs(t, late)...)
	c.arrive(t, c.owns(t, late)...)
	c.forget(t)
	require.NoError(t, c.one.DelPod(t.Context(), late))
	awaitHeld(t, late, false)
}
