package hygiene

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// An overlay of the admin's own, with the same port, between nodes and one that
// is no node, goes its way; and so does nothing of ours in it.
func (c *cluster) otherVNIs(t *testing.T) {
	const vni = 7
	hosts := []*netlab.Host{&c.one.Host, &c.two.Host, c.Lan}
	own := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{172, 20, 0, byte(i + 1)}) }
	want := c.drops(t)
	for _, f := range c.underlay {
		for i, h := range hosts {
			script := fmt.Sprintf("ip link add admin type vxlan id %d dstport %d dev %s local %s\n", vni, vtepPort, map[bool]string{true: "br0", false: "eth0"}[h == c.Lan], h.Addrs[f])
			for _, peer := range hosts {
				if peer != h {
					script += fmt.Sprintf("bridge fdb append 00:00:00:00:00:00 dev admin dst %s\n", peer.Addrs[f])
				}
			}
			netlabtest.Run(t, h, script+fmt.Sprintf("ip addr add %s/24 dev admin; ip link set admin up", own(i)))
		}
		for _, from := range hosts {
			for i, to := range hosts {
				if from != to {
					pinged(t, from, to, own(i))
				}
			}
		}
		require.Equal(t, want, c.drops(t))

		// A pod may not even get there.
		admin := newTap(t, &c.one.Host, "admin")
		to := func(h *netlab.Host, vni byte) func(*testing.T, string) {
			return func(t *testing.T, text string) {
				udpFrom(t, h, c.one.Addrs[f], vxlan(vni, carrying(broadcast, own(1), own(0), text)))
			}
		}
		c.arrive(t, try{name: "a stranger, VNI 7", send: to(c.Lan, vni), to: admin})
		c.dropped(t, try{"a pod, VNI 7", to(&c.pod.Host, vni), admin, c.one, hygiene.ReasonPodToVTEP})
		if f == subnet.IPv6 {
			c.dropped(t, try{"a pod, VNI 7, link-local", c.linkLocal(vni, f), admin, c.one, hygiene.ReasonPodToVTEP})
		}
		want = c.drops(t)

		// A VNI that nobody has is not ours to drop; the kernel does.
		for _, h := range []*netlab.Host{c.Lan, &c.two.Host} {
			udpFrom(t, h, c.one.Addrs[f], vxlan(9, carrying(c.devices[0][f].mac, c.remote.Addrs[f], c.pod.Addrs[f], "wrong VNI")))
		}
		c.toPod(f, f, &c.two.Host, c.remote.Addrs[f])(t, "right VNI")
		wrong, right := c.taps[c.pod.Name].sawBefore("right VNI", "wrong VNI")
		require.True(t, right)
		require.False(t, wrong)
		require.Equal(t, want, c.drops(t))
		for _, h := range hosts {
			netlabtest.Run(t, h, "ip link del admin")
		}
	}
}
