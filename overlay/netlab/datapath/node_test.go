package datapath

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// Node and pod, pod and pod, on one node and across: everybody reaches
// everybody, and what meets whose address follows the matrix of
// masquerading (backend/masq).
func TestWhoIsSeen(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 2}).start()
	one, two := c.Node(1), c.Node(2)
	pods := c.addPods("a", one, two)
	pod, remote := pods[0], pods[1]
	neighbour := c.addPods("b", one)[0]

	t.Run("masquerading", func(t *testing.T) {
		c := c.sub(t)
		for _, f := range subnet.Families {
			for _, tt := range []struct {
				name     string
				from, to *netlab.Host
				seen     string
			}{
				{"pod to pod on its node", &pod.Host, &neighbour.Host, pod.Addrs[f].String()},
				{"pod to pod on another node", &pod.Host, &remote.Host, pod.Addrs[f].String()},
				{"pod to its node", &pod.Host, &one.Host, pod.Addrs[f].String()},
				{"pod to another node (rule 5)", &pod.Host, &two.Host, one.Addrs[f].String()},
				{"pod to the router (rule 5)", &pod.Host, c.Lan, one.Addrs[f].String()},
				{"pod to the outside (rule 5)", &pod.Host, c.Outside, one.Addrs[f].String()},
				{"node to its pod", &one.Host, &pod.Host, c.env(one).Subnets[f].Addr().String()},
				{"node to a pod of another node", &one.Host, &remote.Host, c.overlayAddr(one, f).String()},
			} {
				c.answers(tt.from, tt.to.Addrs[f])
				require.Equal(t, tt.seen, c.sourceSeen(tt.from, tt.to, tt.to.Addrs[f]).String(), "%s, %s", tt.name, f)
			}
		}
	})

	t.Run("clients from outside", func(t *testing.T) {
		c := c.sub(t)
		for _, f := range subnet.Families {
			for _, n := range c.Nodes {
				c.on(c.Lan, "ip", "route", "add", c.subnets(n)[f].String(), "via", one.Addrs[f].String())
			}
			c.answers(c.Outside, pod.Addrs[f])
			require.Equal(t, c.Outside.Addrs[f], c.sourceSeen(c.Outside, &pod.Host, pod.Addrs[f]), "rule 4: an own pod sees its client, %s", f)
			c.answers(c.Outside, remote.Addrs[f])
			require.Equal(t, c.overlayAddr(one, f), c.sourceSeen(c.Outside, &remote.Host, remote.Addrs[f]),
				"rule 6: a peer's pod sees the node by which it can answer, %s", f)
		}
	})

	t.Run("marked by kube-proxy", func(t *testing.T) {
		c := c.sub(t)
		_, err := one.ExecInput(t.Context(), `table inet marking { chain pre { type filter hook prerouting priority 0; udp dport >= 1024 meta mark set meta mark | 0x4000; }; }`, "nft", "-f", "-")
		require.NoError(t, err)
		for _, f := range subnet.Families {
			require.Equal(t, pod.Addrs[f], c.sourceSeen(&pod.Host, c.Lan, c.Lan.Addrs[f]), "rule 1: left to kube-proxy, %s", f)
		}
		c.on(&one.Host, "nft", "delete", "table", "inet", "marking")
		for _, f := range subnet.Families {
			require.Equal(t, one.Addrs[f], c.sourceSeen(&pod.Host, c.Lan, c.Lan.Addrs[f]))
		}
	})

	t.Run("switched off", func(t *testing.T) {
		c := c.sub(t)
		require.True(t, c.env(one).IPMasq)
		c.unharmed(netlabtest.Each(pod, remote), func(*netlabtest.Traffic) {
			c.run([]string{"--ip-masq=false"}, one)
			require.False(t, c.env(one).IPMasq)
			for _, f := range subnet.Families {
				require.Equal(t, pod.Addrs[f], c.sourceSeen(&pod.Host, c.Outside, c.Outside.Addrs[f]), f)
				require.Equal(t, pod.Addrs[f], c.sourceSeen(&pod.Host, &two.Host, two.Addrs[f]), f)
				require.Equal(t, pod.Addrs[f], c.sourceSeen(&pod.Host, &remote.Host, remote.Addrs[f]), f)
			}
			require.NotContains(t, c.on(&one.Host, "nft", "list", "ruleset"), "masquerade")
			require.Contains(t, c.on(&two.Host, "nft", "list", "ruleset"), "masquerade")
			c.run(nil, one)
			for _, f := range subnet.Families {
				require.Equal(t, one.Addrs[f], c.sourceSeen(&pod.Host, c.Outside, c.Outside.Addrs[f]), f)
			}
		})
	})
	c.nothingFragmented()
}
