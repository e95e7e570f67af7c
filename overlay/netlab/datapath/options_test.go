package datapath

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// options are those of the vxlan backend, as the network config has them.
type options struct {
	Type                         string
	VNI, Port, MTU               int
	GBP, Learning, DirectRouting bool
}

func conf(o options) string {
	o.Type = "vxlan"
	text, err := json.Marshal(map[string]any{
		"Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48", "EnableIPv6": true, "Backend": o,
	})
	if err != nil {
		panic(err) // numbers and booleans
	}
	return string(text)
}

// device is what `ip -d link` says of a VXLAN device.
type device struct {
	IfName   string `json:"ifname"`
	MTU      int    `json:"mtu"`
	LinkInfo struct {
		Data struct {
			ID       int    `json:"id"`
			Port     int    `json:"port"`
			Link     string `json:"link"`
			Local    string `json:"local"`
			Local6   string `json:"local6"`
			Learning bool   `json:"learning"`
			GBP      bool   `json:"gbp"`
		} `json:"info_data"`
	} `json:"linkinfo"`
}

// vxlans returns the VXLAN devices of a node, by name.
func (c *cluster) vxlans(n *netlab.Node) map[string]device {
	c.t.Helper()
	var list []device
	if text := c.on(&n.Host, "ip", "-j", "-d", "link", "show", "type", "vxlan"); text != "" {
		require.NoError(c.t, json.Unmarshal([]byte(text), &list))
	}
	all := map[string]device{}
	for _, d := range list {
		all[d.IfName] = d
	}
	return all
}

// have says what of the options is not on a node's devices.
func (c *cluster) have(n *netlab.Node, o options) error {
	c.t.Helper()
	all := c.vxlans(n)
	if len(all) != 2 {
		return fmt.Errorf("%s has %d VXLAN devices: %+v", n.Name, len(all), all)
	}
	for f, prefix := range []string{"twill", "twill-v6"} {
		name := fmt.Sprintf("%s.%d", prefix, o.VNI)
		d, v := all[name], all[name].LinkInfo.Data
		if d.MTU != o.MTU-overhead[f] || v.ID != o.VNI || v.Port != o.Port || v.Learning != o.Learning || v.GBP != o.GBP {
			return fmt.Errorf("%s has %s as %+v, and not as %+v", n.Name, name, d, o)
		}
	}
	if mtu := c.env(n).MTU; mtu != o.MTU-overhead[subnet.IPv6] {
		return fmt.Errorf("subnet.env of %s has MTU %d", n.Name, mtu)
	}
	return nil
}

// The options of the network config are on the devices, and a change of them
// is taken over by running daemons.
func TestVXLANOptions(t *testing.T) {
	t.Parallel()
	first := options{VNI: 42, Port: 4789, MTU: 1450, Learning: true, GBP: true}
	c := newCluster(t, netlab.Options{Nodes: 2, NetConf: conf(first)}).start()
	for _, n := range c.Nodes {
		require.NoError(t, c.have(n, first))
		c.probe(n, "eth0", first.MTU, first.Port)
	}
	pods := c.addPods("pod", c.Nodes...)
	for _, f := range subnet.Families {
		c.largest(&pods[0].Host, &pods[1].Host, f, 1380)
	}
	for _, n := range c.Nodes {
		sent := c.count(n)
		require.NotZero(t, sent.tunnel[subnet.IPv4])
		require.NotZero(t, sent.tunnel[subnet.IPv6])
		require.Zero(t, sent.oversized)
	}

	now := first
	for i, step := range []struct {
		name    string
		inPlace bool // the device stays, and so does each packet
		change  func(*options)
	}{
		{"MTU", true, func(o *options) { o.MTU = 1400 }},
		{"Learning", true, func(o *options) { o.Learning = false }},
		{"Port", false, func(o *options) { o.Port = 8472 }},
		{"VNI", false, func(o *options) { o.VNI = 7 }},
		{"GBP", false, func(o *options) { o.GBP = false }},
		{"all at once", false, func(o *options) { *o = options{VNI: 1, Port: 4789, MTU: 1390, Learning: true, GBP: true} }},
	} {
		t.Run(step.name, func(t *testing.T) {
			c := c.sub(t)
			before, traffic := netlabtest.Count(t.Context(), c.Lan), c.traffic(netlabtest.Each(pods[0], pods[1])...)
			step.change(&now)
			c.configure(conf(now))
			for _, n := range c.Nodes {
				c.eventually(func() error { return c.have(n, now) })
			}
			c.meshed(c.Nodes...)
			for _, n := range c.Nodes {
				c.probe(n, "eth0", now.MTU, now.Port)
			}
			// New pods have the new MTU, old ones are reached as before.
			more := c.addPods(fmt.Sprintf("more%d", i), c.Nodes...)
			for n, p := range more {
				require.Equal(t, now.MTU-70, c.mtu(&p.Host, "eth0"))
				require.Equal(t, now.MTU-70, c.env(c.Nodes[n]).MTU)
			}
			for _, f := range subnet.Families {
				c.answers(&pods[0].Host, pods[1].Addrs[f])
				c.largest(&more[0].Host, &more[1].Host, f, now.MTU-70)
			}
			if lost := traffic.Lost(c.t); step.inPlace && lost > 0 {
				c.excused(before, 1)
			}
			for _, n := range c.Nodes {
				sent := c.count(n)
				require.NotZero(t, sent.tunnel[subnet.IPv4])
				require.NotZero(t, sent.tunnel[subnet.IPv6])
				require.Zero(t, sent.oversized)
				require.Zero(t, sent.plain)
			}
		})
	}
	for _, n := range c.Nodes {
		require.Empty(t, c.status(n).Repairs, "what we change ourselves is no repair")
	}

	t.Run("the underlay's MTU", func(t *testing.T) {
		c := c.sub(t)
		now.MTU = 1370
		for _, n := range c.Nodes {
			c.on(&n.Host, "ip", "link", "set", "eth0", "mtu", "1370")
		}
		for _, n := range c.Nodes {
			c.eventually(func() error { return c.have(n, now) })
		}
		more := c.addPods("narrow", c.Nodes...)
		for _, f := range subnet.Families {
			c.largest(&more[0].Host, &more[1].Host, f, 1300)
		}
		for _, n := range c.Nodes {
			c.on(&n.Host, "ip", "link", "set", "eth0", "mtu", "1500")
		}
		now.MTU = 1390
		for _, n := range c.Nodes {
			c.eventually(func() error { return c.have(n, now) })
		}
		for _, f := range subnet.Families {
			c.fits(&c.Node(1).Host, c.overlayAddr(c.Node(2), f), now.MTU-overhead[f])
		}
	})
	c.nothingFragmented()
}

// Alloc holds the lease, and leaves the kernel to somebody else.
func TestAllocOnlyLeases(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 2, NetConf: `{"Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48", "EnableIPv6": true, "Backend": {"Type": "alloc"}}`})
	c.run(nil, c.Nodes...)
	client, err := clientv3.New(c.EtcdConfig())
	require.NoError(t, err)
	defer client.Close()
	leases, err := client.Get(t.Context(), "/coreos.com/network/subnets/", clientv3.WithPrefix())
	require.NoError(t, err)
	require.Len(t, leases.Kvs, 2)
	keys := string(leases.Kvs[0].Key) + " " + string(leases.Kvs[1].Key)
	for i, n := range c.Nodes {
		require.Equal(t, 1500, c.env(n).MTU)
		for f, s := range c.subnets(n) {
			require.True(t, s.IsValid())
			require.Contains(t, keys, strings.ReplaceAll(s.String(), "/", "-"), subnet.Family(f))
		}
		require.Contains(t, string(leases.Kvs[i].Value), `"BackendType":"alloc"`)
		require.NotZero(t, leases.Kvs[i].Lease, "on an etcd lease")
		require.Empty(t, c.vxlans(n))
		require.Equal(t, "eth0\nlo", c.on(&n.Host, "ls", "/sys/class/net"))
		require.Empty(t, c.on(&n.Host, "sh", "-c", "ip route show proto 116; ip -6 route show proto 116"))
	}
	pods := c.addPods("pod", c.Nodes...)
	require.Equal(t, 1500, c.mtu(&pods[0].Host, "eth0"))
	neighbour := c.addPods("b", c.Node(1))[0]
	for _, f := range subnet.Families {
		c.largest(&pods[0].Host, &neighbour.Host, f, 1500)
		// What carries the packets between nodes: here a person.
		for i, n := range c.Nodes {
			peer := c.Nodes[1-i]
			c.on(&n.Host, "ip", "route", "add", c.subnets(peer)[f].String(), "via", peer.Addrs[f].String())
		}
		c.largest(&pods[0].Host, &pods[1].Host, f, 1500)
		require.Equal(t, c.Node(1).Addrs[f], c.sourceSeen(&pods[0].Host, c.Outside, c.Outside.Addrs[f]))
	}
}

// With --ip-blackhole-route a packet to a pod that does not exist ends here,
// and does not go back to where it came from.
func TestBlackholeRoute(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 3})
	with, without, sender := c.Node(1), c.Node(2), c.Node(3)
	c.run([]string{"--ip-blackhole-route"}, with)
	c.run(nil, without, sender)
	c.meshed(c.Nodes...)
	pod := c.addPods("pod", sender)[0]
	for _, n := range c.Nodes {
		c.probe(n, "eth0", 1500, 8472)
	}
	nobody := func(n *netlab.Node, f subnet.Family) string {
		s := c.subnets(n)[f].Addr()
		for range 77 {
			s = s.Next()
		}
		return s.String()
	}
	send := func(to string) {
		_, err := pod.Exec(t.Context(), "ping", "-n", "-c", "3", "-i", "0.01", "-W", "0.1", to)
		require.Error(t, err)
	}
	for _, f := range subnet.Families {
		before := c.count(with)
		send(nobody(with, f))
		require.Zero(t, c.count(with).plain, "%s", f)
		require.LessOrEqual(t, c.count(with).tunnel[f], before.tunnel[f]+3, "nothing but errors goes back")

		send(nobody(without, f))
		_, err := with.Exec(t.Context(), "ping", "-n", "-c", "1", "-W", "0.1", nobody(with, f))
		require.Error(t, err)
	}
	require.Zero(t, c.count(with).plain)
	require.NotZero(t, c.count(without).plain, "without it they leave by the default route")

	// Real pods are reached as ever, and of the others nothing leaves.
	own := c.addPods("pod", with)[0]
	for _, f := range subnet.Families {
		c.largest(&pod.Host, &own.Host, f, 1430)
		send(nobody(with, f))
		require.Equal(t, with.Addrs[f], c.sourceSeen(&own.Host, c.Outside, c.Outside.Addrs[f]))
	}
	require.Zero(t, c.count(with).plain)
}
