package nftables_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/subnet"
)

// topology is a node with our rules between the three kinds of peers:
//
//	pod (own subnet) ── node ── remote (a pod of another node)
//	                     │
//	                  outside
//
// The overlay is a plain link here: the rules see inner packets only.
type topology struct {
	node, pod, remote, outside namespace
}

// hosts are the addresses in a topology.
type hosts struct {
	gateway     netip.Addr // of node on the pod's link
	overlay     netip.Addr // of node on the link to remote: the own subnet's first, as on a VXLAN device
	uplink      netip.Addr // of node on the link to outside
	pod, remote netip.Addr
	outside     netip.Addr
	multicast   netip.Addr
}

var at = subnet.PerFamily[hosts]{
	subnet.IPv4: {
		gateway: netip.MustParseAddr("10.244.1.1"), pod: netip.MustParseAddr("10.244.1.10"),
		overlay: netip.MustParseAddr("10.244.1.0"), remote: netip.MustParseAddr("10.244.2.10"),
		uplink: netip.MustParseAddr("198.51.100.1"), outside: netip.MustParseAddr("198.51.100.10"),
		multicast: netip.MustParseAddr("239.1.2.3"),
	},
	subnet.IPv6: {
		gateway: netip.MustParseAddr("fd00:244:0:1::1"), pod: netip.MustParseAddr("fd00:244:0:1::10"),
		overlay: netip.MustParseAddr("fd00:244:0:1::"), remote: netip.MustParseAddr("fd00:244:0:2::10"),
		uplink: netip.MustParseAddr("2001:db8:100::1"), outside: netip.MustParseAddr("2001:db8:100::10"),
		multicast: netip.MustParseAddr("ff02::1234"),
	},
}

// Ports of the echo server that each namespace runs; what goes to the marked
// ones carries that mark on the node.
const (
	echoPort       = 9000
	mark4000Port   = 9001
	mark8000Port   = 9002
	markedForwards = `table inet marker {
	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		udp dport 9001 meta mark set 0x4001
		udp dport 9002 meta mark set 0x8000
	}
}
`
)

func newTopology(t *testing.T) topology {
	t.Helper()
	needNFT(t)
	n := topology{newNamespace(t), newNamespace(t), newNamespace(t), newNamespace(t)}
	for _, ns := range []namespace{n.node, n.pod, n.remote, n.outside} {
		ns.sysctl(t, "ipv6/conf/default/accept_dad", "0")
		ns.sysctl(t, "ipv6/conf/all/accept_dad", "0")
	}
	n.node.sysctl(t, "ipv4/ip_forward", "1")
	n.node.sysctl(t, "ipv6/conf/all/forwarding", "1")
	n.node.ip(t,
		"link add pod type veth peer name eth0 netns "+n.pod.path(),
		"link add overlay type veth peer name eth0 netns "+n.remote.path(),
		"link add uplink type veth peer name eth0 netns "+n.outside.path(),
		"addr add 10.244.1.1/24 dev pod", "addr add fd00:244:0:1::1/64 dev pod nodad",
		"addr add 10.244.1.0/32 dev overlay", "addr add fd00:244:0:1::/128 dev overlay nodad",
		"addr add 198.51.100.1/24 dev uplink", "addr add 2001:db8:100::1/64 dev uplink nodad",
		"link set pod up", "link set overlay up", "link set uplink up",
		"route add 10.244.2.0/24 dev overlay", "route add fd00:244:0:2::/64 dev overlay",
	)
	n.pod.ip(t, "link set eth0 up",
		"addr add 10.244.1.10/24 dev eth0", "route add default via 10.244.1.1",
		"addr add fd00:244:0:1::10/64 dev eth0 nodad", "route add default via fd00:244:0:1::1")
	n.remote.ip(t, "link set eth0 up",
		"addr add 10.244.2.10/32 dev eth0", "route add default via 10.244.1.0 dev eth0 onlink",
		"addr add fd00:244:0:2::10/128 dev eth0 nodad", "route add default via fd00:244:0:1:: dev eth0 onlink")
	n.outside.ip(t, "link set eth0 up",
		"addr add 198.51.100.10/24 dev eth0", "route add default via 198.51.100.1",
		"addr add 2001:db8:100::10/64 dev eth0 nodad", "route add default via 2001:db8:100::1")
	n.node.pipe(t, markedForwards, "nft", "-f", "-")
	for _, ns := range []namespace{n.pod, n.remote, n.outside} {
		for _, port := range []uint16{echoPort, mark4000Port, mark8000Port} {
			ns.echo(t, port)
		}
	}
	return n
}

// sysctl sets a value under /proc/sys/net, which is that of the thread's namespace.
func (ns namespace) sysctl(t *testing.T, name, value string) {
	t.Helper()
	require.NoError(t, ns.do(func() error {
		return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644)
	}))
}

// listen opens a UDP socket in the namespace, until the test ends.
func (ns namespace) listen(t *testing.T, address netip.AddrPort) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	require.NoError(t, ns.do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(address))
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// echo answers each datagram with the address and port it was seen to come from.
func (ns namespace) echo(t *testing.T, port uint16) {
	t.Helper()
	conn := ns.listen(t, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(make([]byte, 64))
			if err != nil {
				return
			}
			seen := netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			_, _ = conn.WriteToUDPAddrPort([]byte(seen.String()), from)
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
}

// seen asks the echo server at to from a fresh socket, and so as a new
// connection; it returns the socket's own port and the source that the server
// saw.
func (ns namespace) seen(t *testing.T, from netip.Addr, to netip.AddrPort) (own uint16, source netip.AddrPort) {
	t.Helper()
	conn := ns.listen(t, netip.AddrPortFrom(from, 0))
	defer func() { _ = conn.Close() }()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Port(), ask(t, conn, to)
}

// ask sends a datagram to the echo server at to and returns the source that
// the server saw.
func ask(t *testing.T, conn *net.UDPConn, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	answer := make([]byte, 64)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		_, err := conn.WriteToUDPAddrPort([]byte("?"), to)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Second)))
		n, err := conn.Read(answer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		require.NoError(t, err)
		source, err := netip.ParseAddrPort(string(answer[:n]))
		require.NoError(t, err)
		return source
	}
	require.Fail(t, "no answer", "to %s", to)
	return netip.AddrPort{}
}

const multicastPort = 9100

// joined listens to a multicast group on a link of the namespace.
func (ns namespace) joined(t *testing.T, link string, group netip.Addr) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	require.NoError(t, ns.do(func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		conn, err = net.ListenMulticastUDP("udp", i, &net.UDPAddr{IP: group.AsSlice(), Port: multicastPort})
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	return conn
}

// sendMulticast sends a datagram to the group through the link. It names the
// link, since IPv4 otherwise takes the one that holds the bound source
// (ip_route_output_key_hash_rcu).
func (ns namespace) sendMulticast(t *testing.T, conn *net.UDPConn, link string, group netip.Addr) {
	t.Helper()
	require.NoError(t, ns.do(func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		var set error
		if err := raw.Control(func(fd uintptr) {
			if subnet.FamilyOf(group) == subnet.IPv4 {
				set = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(i.Index)})
			} else {
				set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, i.Index)
			}
		}); err != nil {
			return err
		}
		if set != nil {
			return set
		}
		_, err = conn.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(group, multicastPort))
		return err
	}))
}
