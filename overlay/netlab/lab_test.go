package netlab_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// Every node reaches every node, the lan and the outside host with full-size
// packets, and the next node not with a byte more.
func TestUnderlay(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts netlab.Options
	}{
		{"dual stack", netlab.Options{Nodes: 3}},
		{"IPv4", netlab.Options{Nodes: 2, Underlay: netlab.IPv4Only}},
		{"IPv6", netlab.Options{Nodes: 2, Underlay: netlab.IPv6Only, MTU: 1400}},
		{"two segments", netlab.Options{Nodes: 3, Segments: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lab := netlabtest.New(t, tt.opts)
			mtu := 1500
			if tt.opts.MTU != 0 {
				mtu = tt.opts.MTU
			}
			targets := []*netlab.Host{lab.Lan, lab.Outside}
			for _, n := range lab.Nodes {
				targets = append(targets, &n.Host)
			}
			for _, from := range lab.Nodes {
				for _, to := range targets {
					pingFull(t, &from.Host, to, mtu)
				}
			}
			f := tt.opts.Underlay.Families()[0]
			_, err := lab.Node(1).Ping(t.Context(), lab.Node(2).Addrs[f], mtu+1)
			require.ErrorContains(t, err, "too long")
		})
	}
}

func pingFull(t *testing.T, from, to *netlab.Host, mtu int) {
	t.Helper()
	pinged := 0
	for _, addr := range to.Addrs {
		if !addr.IsValid() {
			continue
		}
		pinged++
		// A node that was booted anew has another MAC, and others ask for it
		// only when the old one does not answer.
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			_, err := from.Ping(t.Context(), addr, mtu)
			assert.NoError(c, err)
		}, netlabtest.Patience, time.Millisecond, "%s to %s", from.Name, to.Name)
	}
	require.NotZero(t, pinged)
}

// The segments are subnets of their own: the way between them is the lan's.
func TestSegmentsAreRouted(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t, netlab.Options{Nodes: 3, Segments: 2})
	for _, f := range subnet.Families {
		route, err := lab.Node(1).Exec(t.Context(), "ip", "route", "get", lab.Node(2).Addrs[f].String())
		require.NoError(t, err)
		require.Contains(t, route, " via ")
		route, err = lab.Node(1).Exec(t.Context(), "ip", "route", "get", lab.Node(3).Addrs[f].String())
		require.NoError(t, err)
		require.NotContains(t, route, " via ")
	}
}

// A node has its own names, files and devices; the machine's stay as they are.
func TestNodesAreApart(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t, netlab.Options{Nodes: 2})
	one, two := lab.Node(1), lab.Node(2)
	run := func(n *netlab.Node, script string) string {
		t.Helper()
		out, err := n.Exec(t.Context(), "sh", "-c", script)
		require.NoError(t, err)
		return strings.TrimSpace(out)
	}
	require.Equal(t, "node1 node1", run(one, "echo $(hostname) $(cat /etc/hostname)"))
	id := run(one, "cat /etc/machine-id")
	require.Len(t, id, 32)
	require.NotEqual(t, id, run(two, "cat /etc/machine-id"))
	require.Equal(t, "eth0 lo", run(one, "echo $(ls /sys/class/net)"))
	require.Equal(t, "1", run(one, "cat /proc/sys/net/ipv4/conf/eth0/forwarding | grep -c 0"))
	require.Equal(t, lab.Node(2).Addrs[subnet.IPv4].String(), run(one, "getent ahostsv4 node2 | awk '{print $1; exit}'"))
	host, err := os.ReadDir("/sys/fs/cgroup")
	require.NoError(t, err)
	require.Equal(t, len(host) > 0, run(one, "ls /sys/fs/cgroup") != "")
	require.Contains(t, run(one, "ls -l /opt/cni/bin"), "twill -> ")

	written := "/run/lab-a /etc/lab-a /var/lib/lab-a /opt/lab-a /var/lib/twill/lab-a /var/lib/cni/lab-a /etc/cni/lab-a"
	run(one, "touch "+written)
	for _, f := range strings.Fields(written) {
		require.NoFileExists(t, f)
		require.FileExists(t, one.Path(f))
		require.NoFileExists(t, two.Path(f))
	}

	// A reboot keeps the disk, a new installation does not.
	require.NoError(t, one.Reboot(t.Context()))
	require.Equal(t, id, run(one, "cat /etc/machine-id"))
	require.Equal(t, "/var/lib/cni/lab-a /var/lib/twill/lab-a", run(one, "ls -d /run/lab-a /var/lib/cni/lab-a /var/lib/twill/lab-a 2>/dev/null | xargs"))
	pingFull(t, &two.Host, &one.Host, 1500)
	require.NoError(t, one.Reinstall(t.Context()))
	require.NotEqual(t, id, run(one, "cat /etc/machine-id"))
	require.NoFileExists(t, one.Path("/var/lib/twill/lab-a"))
	pingFull(t, &two.Host, &one.Host, 1500)
}

// Two labs with the same names and addresses do not meet.
func TestLabsSideBySide(t *testing.T) {
	t.Parallel()
	a := netlabtest.New(t, netlab.Options{Nodes: 2})
	b := netlabtest.New(t, netlab.Options{Nodes: 1})
	missing := a.Node(2).Addrs[subnet.IPv4]
	pingFull(t, &a.Node(1).Host, &a.Node(2).Host, 1500)
	_, err := b.Node(1).Exec(t.Context(), "ping", "-c1", "-W1", missing.String())
	require.Error(t, err)
}

// Etcd has the network config, serves clients in and out of the lab, and has
// its data after a kill.
func TestStore(t *testing.T) {
	t.Parallel()
	const conf = `{"Network": "10.1.0.0/16"}`
	lab := netlabtest.New(t, netlab.Options{Nodes: 1, NetConf: conf})
	get := func() string {
		t.Helper()
		client, err := clientv3.New(lab.EtcdConfig())
		require.NoError(t, err)
		defer client.Close()
		got, err := client.Get(t.Context(), netlab.ConfigKey)
		require.NoError(t, err)
		require.Len(t, got.Kvs, 1)
		return string(got.Kvs[0].Value)
	}
	require.Equal(t, conf, get())
	require.NoError(t, lab.Store.Kill(t.Context()))
	require.False(t, lab.Store.Running())
	require.NoError(t, lab.Store.Restart())
	require.Equal(t, conf, get())
	for _, f := range subnet.Families {
		conn, err := lab.Node(1).DialContext(t.Context(), "tcp", netip.AddrPortFrom(lab.Lan.Addrs[f], 2379).String())
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	stopping := time.Now()
	require.NoError(t, lab.Store.Stop(t.Context()), "a stop by SIGTERM is a success")
	t.Logf("stopped after %v", time.Since(stopping))
}
