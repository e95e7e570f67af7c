package hygiene

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// try is a packet that somebody sends, and where it arrives unless it is
// dropped.
type try struct {
	name   string
	send   func(t *testing.T, text string)
	to     *tap
	at     *netlab.Node   // who drops it
	reason hygiene.Reason // and why
}

var versions = subnet.PerFamily[string]{"IPv4", "IPv6"}

const vtepPort = 8472

// udpFrom sends a datagram to a VTEP's port.
func udpFrom(t *testing.T, h *netlab.Host, to netip.Addr, payload []byte) {
	t.Helper()
	conn, err := h.DialContext(t.Context(), "udp", netip.AddrPortFrom(to, vtepPort).String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write(payload)
	require.NoError(t, err)
}

// dropped fails unless each try is dropped, once, where and for what reason it
// says, and does not arrive.
func (c *cluster) dropped(t *testing.T, tries ...try) {
	t.Helper()
	for i, a := range tries {
		text := fmt.Sprintf("attack %d;", i)
		want := c.drops(t)
		want[a.at.Name+" "+string(a.reason)]++
		a.to.saw("")
		a.send(t, text)
		netlabtest.Eventually(t, a.name+" is dropped", func() error {
			if have := c.drops(t); !maps.Equal(want, have) {
				return fmt.Errorf("counted are\n%v\nand not\n%v", have, want)
			}
			return nil
		})
		require.False(t, a.to.saw(text), "%s arrives", a.name)
	}
}

// arrive fails unless each try arrives, and none is counted.
func (c *cluster) arrive(t *testing.T, tries ...try) {
	t.Helper()
	want := c.drops(t)
	for i, a := range tries {
		text := fmt.Sprintf("packet %d;", i)
		a.to.saw("")
		a.send(t, text)
		a.to.awaits(t, text, a.name)
	}
	require.Equal(t, want, c.drops(t))
}

// nobody has a source address in the network that no node leases: the first
// subnet is not given out.
var nobody = subnet.PerFamily[netip.Addr]{netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("fd00:244::5")}

// client is an address outside of the network.
var client = subnet.PerFamily[netip.Addr]{netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("2001:db8:ffff::77")}

// toPod is VXLAN from a host to node one, with a datagram to its pod.
func (c *cluster) toPod(outer, inner subnet.Family, h *netlab.Host, source netip.Addr) func(*testing.T, string) {
	return func(t *testing.T, text string) {
		t.Helper()
		udpFrom(t, h, c.one.Addrs[outer], vxlan(1, carrying(c.devices[0][outer].mac, source, c.pod.Addrs[inner], text)))
	}
}

// inPieces is toPod in two fragments, the inner header in the second.
func (c *cluster) inPieces(outer, inner subnet.Family, h *netlab.Host, source netip.Addr) func(*testing.T, string) {
	return func(t *testing.T, text string) {
		t.Helper()
		from, to := h.Addrs[outer], c.one.Addrs[outer]
		d := datagram(from, to, vtepPort, vxlan(1, carrying(c.devices[0][outer].mac, source, c.pod.Addrs[inner], text)))
		sendRaw(t, h, to, fragments(from, to, d, 24)...)
	}
}

func (c *cluster) combinations(each func(outer, inner subnet.Family, in string)) {
	for _, outer := range c.underlay {
		for _, inner := range subnet.Families {
			each(outer, inner, fmt.Sprintf(", %s in %s", versions[inner], versions[outer]))
		}
	}
}

// fromStrangers is what a stranger and a peer send to a VTEP and must not.
func (c *cluster) fromStrangers() (tries []try) {
	to := c.taps[c.pod.Name]
	c.combinations(func(outer, inner subnet.Family, in string) {
		add := func(name string, reason hygiene.Reason, send func(*testing.T, string)) {
			tries = append(tries, try{name + in, send, to, c.one, reason})
		}
		peer, remote := &c.two.Host, c.remote.Addrs[inner]
		add("a stranger on the link, as a peer's pod", hygiene.ReasonStranger, c.toPod(outer, inner, c.Lan, remote))
		add("a stranger elsewhere, as a client", hygiene.ReasonStranger, c.toPod(outer, inner, c.Outside, client[inner]))
		add("a stranger in pieces", hygiene.ReasonStranger, c.inPieces(outer, inner, c.Lan, remote))
		add("a peer, as a pod of nobody", hygiene.ReasonInnerSource, c.toPod(outer, inner, peer, nobody[inner]))
		add("a peer, as the receiver's pod", hygiene.ReasonInnerSource, c.toPod(outer, inner, peer, c.neighbour.Addrs[inner]))
		add("a peer, as the receiver's pod, in pieces", hygiene.ReasonInnerSource, c.inPieces(outer, inner, peer, c.neighbour.Addrs[inner]))
		add("a peer, with a priority tag", hygiene.ReasonInnerProtocol, func(t *testing.T, text string) {
			f := carrying(c.devices[0][outer].mac, c.neighbour.Addrs[inner], c.pod.Addrs[inner], text)
			udpFrom(t, peer, c.one.Addrs[outer], vxlan(1, tagged(f)))
		})
	})
	return tries
}

// fromPeers is what a peer may send.
func (c *cluster) fromPeers() (tries []try) {
	to := c.taps[c.pod.Name]
	c.combinations(func(outer, inner subnet.Family, in string) {
		peer := &c.two.Host
		for name, send := range map[string]func(*testing.T, string){
			"a peer's pod":            c.toPod(outer, inner, peer, c.remote.Addrs[inner]),
			"a peer's pod, in pieces": c.inPieces(outer, inner, peer, c.remote.Addrs[inner]),
			"a client behind a peer":  c.toPod(outer, inner, peer, client[inner]),
		} {
			tries = append(tries, try{name: name + in, send: send, to: to})
		}
		if node := c.two.Addrs[inner]; node.IsValid() {
			tries = append(tries, try{name: "a peer itself" + in, send: c.toPod(outer, inner, peer, node), to: to})
		}
	})
	return tries
}

// fromPods is what pods send to VTEPs.
func (c *cluster) fromPods() (tries []try) {
	c.combinations(func(outer, inner subnet.Family, in string) {
		send := func(to netip.Addr, node int, source, pod netip.Addr) func(*testing.T, string) {
			return func(t *testing.T, text string) {
				t.Helper()
				udpFrom(t, &c.pod.Host, to, vxlan(1, carrying(c.devices[node][outer].mac, source, pod, text)))
			}
		}
		neighbour, remote := c.taps[c.neighbour.Name], c.taps[c.remote.Name]
		add := func(name string, to *tap, at *netlab.Node, send func(*testing.T, string)) {
			tries = append(tries, try{name + in, send, to, at, hygiene.ReasonPodToVTEP})
		}
		add("a pod to its node", neighbour, c.one,
			send(c.one.Addrs[outer], 0, c.remote.Addrs[inner], c.neighbour.Addrs[inner]))
		add("a pod to its gateway", neighbour, c.one,
			send(c.gateway[outer], 0, c.remote.Addrs[inner], c.neighbour.Addrs[inner]))
		add("a pod to another node, masqueraded", remote, c.one,
			send(c.two.Addrs[outer], 1, c.neighbour.Addrs[inner], c.remote.Addrs[inner]))
		add("a pod to another node, through the tunnel", remote, c.two,
			send(c.overlays[1][outer], 1, c.neighbour.Addrs[inner], c.remote.Addrs[inner]))
		if outer == subnet.IPv6 {
			add("a pod to its gateway, link-local", neighbour, c.one, c.linkLocal(1, inner))
		}
		add("a pod in our name to where a peer may be", c.taps[c.Outside.Name], c.one,
			send(c.Outside.Addrs[outer], 0, c.neighbour.Addrs[inner], c.remote.Addrs[inner]))
	})
	return tries
}

// linkLocal is VXLAN from the pod to its gateway, with link-local addresses,
// which each pod may use.
func (c *cluster) linkLocal(vni byte, inner subnet.Family) func(*testing.T, string) {
	return func(t *testing.T, text string) {
		t.Helper()
		from, to := netip.MustParseAddr("fe80::bad"), netip.MustParseAddr(strings.TrimSpace(netlabtest.Run(t, &c.one.Host,
			"ip -6 -o addr show dev cni0 scope link | sed 's/.* inet6 //; s/[/].*//'")))
		f := carrying(c.devices[0][subnet.IPv6].mac, c.remote.Addrs[inner], c.neighbour.Addrs[inner], text)
		newTap(t, &c.pod.Host, "eth0").send(t, frame(macOf(t, &c.one.Host, "cni0"), someMAC, unix.ETH_P_IPV6,
			packet(from, to, unix.IPPROTO_UDP, datagram(from, to, vtepPort, vxlan(vni, f)))))
	}
}

// podsMay is what pods may send to this port.
func (c *cluster) podsMay() (tries []try) {
	for _, f := range c.underlay {
		tries = append(tries, try{
			name: "a pod to a host that is no node, " + versions[f], to: c.taps[c.Outside.Name],
			send: func(t *testing.T, text string) { udpFrom(t, &c.pod.Host, c.Outside.Addrs[f], []byte(text)) },
		})
	}
	return tries
}

// told checks that status and metrics say what was counted, for people and for
// programs.
func (c *cluster) told(t *testing.T) {
	t.Helper()
	want := c.counted(t, c.one)
	for _, r := range []hygiene.Reason{hygiene.ReasonStranger, hygiene.ReasonInnerSource, hygiene.ReasonInnerProtocol, hygiene.ReasonPodToVTEP, hygiene.ReasonSpoofedSource} {
		require.NotZero(t, want[string(r)], r)
	}
	netlabtest.Eventually(t, "status and metrics tell the same", func() error {
		var shown struct{ Dropped map[string]uint64 }
		require.NoError(t, json.Unmarshal([]byte(netlabtest.Run(t, &c.one.Host, "twill status -o json")), &shown))
		if !maps.Equal(want, shown.Dropped) {
			return fmt.Errorf("the status has %v and not %v", shown.Dropped, want)
		}
		people, metrics := netlabtest.Run(t, &c.one.Host, "twill status"), c.metrics(t, c.one)
		for reason, n := range want {
			if !strings.Contains(metrics, fmt.Sprintf("twill_dropped_packets_total{reason=%q} %d\n", reason, n)) {
				return fmt.Errorf("%s: not %d in\n%s", reason, n, metrics)
			}
			if n > 0 != strings.Contains(people, fmt.Sprintf("%d packets: %s\n", n, reason)) {
				return fmt.Errorf("%s: not %d in\n%s", reason, n, people)
			}
		}
		return nil
	})
}

// metrics returns what a node's daemon shows to Prometheus.
func (c *cluster) metrics(t *testing.T, n *netlab.Node) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return n.DialContext(ctx, network, address)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:8471/metrics", nil)
	require.NoError(t, err)
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(text)
}
