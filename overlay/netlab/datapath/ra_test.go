package datapath

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/overlay/netlab"
)

// advertise has the lan tell all nodes that it is a router (RFC 4861, 4.2).
func (c *cluster) advertise() error {
	c.t.Helper()
	index := c.on(c.Lan, "cat", "/sys/class/net/br0/ifindex")
	conn, err := c.Lan.DialContext(c.t.Context(), "ip6:58", "ff02::1%"+index)
	require.NoError(c.t, err)
	defer conn.Close()
	raw, err := conn.(*net.IPConn).SyscallConn()
	require.NoError(c.t, err)
	var failed error
	require.NoError(c.t, raw.Control(func(fd uintptr) {
		// Who is farther away than the link is no router of it.
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
	}))
	require.NoError(c.t, failed)
	const lifetime = 1800 // seconds
	_, err = conn.Write([]byte{
		134, 0, 0, 0, // router advertisement; the kernel fills in the checksum
		64, 0, lifetime >> 8, lifetime & 255,
		0, 0, 0, 0, 0, 0, 0, 0,
	})
	return err
}

// A node that forwards IPv6 for its pods does not lose the router that it
// learned, and goes on learning, where it did before (ip-sysctl, accept_ra).
func TestUplinkGoesOnTakingRouterAdvertisements(t *testing.T) {
	t.Parallel()
	c := newCluster(t, netlab.Options{Nodes: 2})
	takes, refuses := c.Node(1), c.Node(2)
	learned := func(n *netlab.Node) string {
		return c.on(&n.Host, "ip", "-6", "route", "show", "default", "proto", "ra")
	}
	acceptRA := func(n *netlab.Node) string {
		return c.on(&n.Host, "cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra")
	}
	c.on(&refuses.Host, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=0")
	learns := func() {
		t.Helper()
		c.eventually(func() error {
			if err := c.advertise(); err != nil {
				return err
			}
			if learned(takes) == "" {
				return errors.New("no default route was learned")
			}
			return nil
		})
	}
	learns()

	c.start()
	require.Equal(t, "1", c.on(&takes.Host, "cat", "/proc/sys/net/ipv6/conf/eth0/forwarding"))
	require.Equal(t, "2", acceptRA(takes))
	require.Contains(t, learned(takes), " dev eth0 ", "it is still there")
	c.on(&takes.Host, "sh", "-c", "ip -6 route del default proto ra")
	learns()
	require.Equal(t, "0", acceptRA(refuses))
	require.Empty(t, learned(refuses))

	// The next daemon finds it as it was left.
	c.run(nil, takes)
	require.Equal(t, "2", acceptRA(takes))
	require.Equal(t, 1, strings.Count(learned(takes), "default"))
}
