package rulestest

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

// Path is a packet's way through the node and the source address that its
// receiver is to see.
type Path struct {
	What   string
	From   Namespace
	Source netip.Addr
	To     netip.Addr
	Port   uint16
	Want   netip.Addr
}

// Check sends a packet on each path, as a new connection.
func (n Topology) Check(t *testing.T, paths []Path) {
	t.Helper()
	for _, p := range paths {
		if p.Port == 0 {
			p.Port = EchoPort
		}
		_, seen := p.From.Seen(t, p.Source, netip.AddrPortFrom(p.To, p.Port))
		require.Equal(t, p.Want, seen.Addr(), "%s: %s -> %s", p.What, p.Source, p.To)
	}
}

// Sysctl sets a value under /proc/sys/net, which is that of the thread's namespace.
func (ns Namespace) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644)
	}))
}

// Listen opens a UDP socket in the namespace, until the test ends.
func (ns Namespace) Listen(t *testing.T, address netip.AddrPort) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	require.NoError(t, ns.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(address))
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Echo answers each datagram with the address and port it was seen to come from.
func (ns Namespace) Echo(t *testing.T, port uint16) {
	t.Helper()
	conn := ns.Listen(t, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
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

// firstPort is that of the first Seen of a namespace; none of the servers has it,
// nor one after it.
const firstPort = 10000

// Seen asks the echo server at to from a fresh socket with a port of its own, and
// so as a new connection: by a port that was used before, connection tracking
// might know an old one. It returns that port and the source that the server saw.
func (ns Namespace) Seen(t *testing.T, from netip.Addr, to netip.AddrPort) (own uint16, source netip.AddrPort) {
	t.Helper()
	conn := ns.Listen(t, netip.AddrPortFrom(from, uint16(firstPort+ns.port.Add(1))))
	defer func() { _ = conn.Close() }()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Port(), Ask(t, conn, to)
}

// Ask sends a datagram to the echo server at to and returns the source that
// the server saw.
func Ask(t *testing.T, conn *net.UDPConn, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	answer := make([]byte, 64)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
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

// Blocked checks that packets to EchoPort do not get through on a path, on which
// those to OpenPort do: what was sent before these would have come before them.
func (n Topology) Blocked(t *testing.T, p Path) {
	t.Helper()
	conn := p.From.Listen(t, netip.AddrPortFrom(p.Source, 0))
	defer func() { _ = conn.Close() }()
	for range 3 {
		_, err := conn.WriteToUDPAddrPort([]byte("?"), netip.AddrPortFrom(p.To, EchoPort))
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		_, err = conn.WriteToUDPAddrPort([]byte("?"), netip.AddrPortFrom(p.To, OpenPort))
		require.NoError(t, err)
		_, from, err := conn.ReadFromUDPAddrPort(make([]byte, 64))
		require.NoError(t, err)
		require.EqualValues(t, OpenPort, from.Port(), "%s: %s -> %s is not blocked", p.What, p.Source, p.To)
	}
}

const multicastPort = 9100

// patience is how long what must come is waited for, on a busy machine, too.
const patience = time.Minute

// Joined listens to a multicast group on a link of the namespace.
func (ns Namespace) Joined(t *testing.T, link string, group netip.Addr) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	require.NoError(t, ns.Do(func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		conn, err = net.ListenMulticastUDP("udp", i, &net.UDPAddr{IP: group.AsSlice(), Port: multicastPort})
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	return conn
}

// SendMulticast sends a datagram to the group through the link. It names the
// link, since IPv4 otherwise takes the one that holds the bound source
// (ip_route_output_key_hash_rcu).
func (ns Namespace) SendMulticast(t *testing.T, conn *net.UDPConn, link string, group netip.Addr) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
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
