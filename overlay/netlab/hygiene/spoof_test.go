package hygiene

import (
	"net/netip"
	"testing"

	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// spoofs is what a pod on node one sends with addresses that are not its own.
func (c *cluster) spoofs(t *testing.T, from *netlab.Pod) (tries []try) {
	t.Helper()
	port := newTap(t, &from.Host, "eth0")
	bridge, neighbour := macOf(t, &c.one.Host, "cni0"), macOf(t, &c.neighbour.Host, "eth0")
	add := func(name string, to *netlab.Pod, make func(text string) []byte) {
		tries = append(tries, try{
			name, func(t *testing.T, text string) { port.send(t, make(text)) }, c.taps[to.Name], c.one, hygiene.ReasonSpoofedSource,
		})
	}
	for _, f := range subnet.Families {
		as := func(name string, source netip.Addr) {
			if source.IsValid() {
				add(name+" to a neighbour, "+versions[f], c.neighbour, func(text string) []byte {
					return carrying(neighbour, source, c.neighbour.Addrs[f], text)
				})
			}
		}
		as("as a pod of another node", c.remote.Addrs[f])
		as("as the gateway", c.gateway[f])
		as("as the node", c.one.Addrs[f])
		as("as another node", c.two.Addrs[f])
		for name, source := range map[string]netip.Addr{"as a neighbour": c.neighbour.Addrs[f], "as a client": client[f]} {
			add(name+" to another node, "+versions[f], c.remote, func(text string) []byte {
				return carrying(bridge, source, c.remote.Addrs[f], text)
			})
		}
	}
	four, six := c.neighbour.Addrs[subnet.IPv4], c.neighbour.Addrs[subnet.IPv6]
	for name, a := range map[string]subnet.PerFamily[netip.Addr]{"the gateway": c.gateway, "a pod of another node": c.remote.Addrs} {
		add("ARP as "+name, c.neighbour, func(text string) []byte { return arp(neighbour, a[subnet.IPv4], four, text) })
		add("ARP to all as "+name, c.neighbour, func(text string) []byte { return arp(broadcast, a[subnet.IPv4], a[subnet.IPv4], text) })
		add("an advertisement as "+name, c.neighbour, func(text string) []byte {
			return advertise(neighbour, from.Addrs[subnet.IPv6], six, a[subnet.IPv6], text)
		})
	}
	return tries
}

// owns is what it may send.
func (c *cluster) owns(t *testing.T, from *netlab.Pod) (tries []try) {
	t.Helper()
	port := newTap(t, &from.Host, "eth0")
	bridge, neighbour := macOf(t, &c.one.Host, "cni0"), macOf(t, &c.neighbour.Host, "eth0")
	add := func(name string, to *netlab.Pod, make func(text string) []byte) {
		tries = append(tries, try{name: name, to: c.taps[to.Name], send: func(t *testing.T, text string) { port.send(t, make(text)) }})
	}
	for f, own := range from.Addrs {
		add("as itself to a neighbour, "+versions[f], c.neighbour, func(text string) []byte {
			return carrying(neighbour, own, c.neighbour.Addrs[f], text)
		})
		add("as itself to another node, "+versions[f], c.remote, func(text string) []byte {
			return carrying(bridge, own, c.remote.Addrs[f], text)
		})
	}
	add("its own ARP", c.neighbour, func(text string) []byte {
		return arp(neighbour, from.Addrs[subnet.IPv4], c.neighbour.Addrs[subnet.IPv4], text)
	})
	add("its own advertisement", c.neighbour, func(text string) []byte {
		own := from.Addrs[subnet.IPv6]
		return advertise(neighbour, own, c.neighbour.Addrs[subnet.IPv6], own, text)
	})
	return tries
}

// forget has pods find out again who has which address, after lies. The one
// that told them has heard them, too: its port is a hairpin.
func (c *cluster) forget(t *testing.T) {
	t.Helper()
	for _, p := range []*netlab.Pod{c.pod, c.neighbour} {
		netlabtest.Run(t, &p.Host, "ip neigh flush dev eth0; ip -6 neigh flush dev eth0")
	}
	netlabtest.Run(t, &c.one.Host, "ip neigh flush dev cni0; ip -6 neigh flush dev cni0")
}

// unchecked adds a pod to node one whose network says that it routes for
// others.
func (c *cluster) unchecked(t *testing.T, name string) *netlab.Pod {
	t.Helper()
	const conf = "/etc/cni/net.d/10-twill.conflist"
	was := netlabtest.Run(t, &c.one.Host, "cat "+conf)
	netlabtest.Run(t, &c.one.Host, `sed -i 's/"type": "twill",/&\n"spoofCheck": false,/' `+conf)
	p := addPod(t, c.one, name)
	_, err := c.one.ExecInput(t.Context(), was, "tee", conf)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
