package guard_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/subnet"
)

// EtherTypes.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeIPv6 = 0x86dd
)

var (
	someMAC   = []byte{2, 0, 0, 0, 0, 0xaa}
	broadcast = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

func be16(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

// sum is the Internet checksum (RFC 1071).
func sum(b ...[]byte) []byte {
	total := 0
	for _, part := range b {
		for i, octet := range part {
			total += int(octet) << (8 * (1 - i%2))
		}
	}
	for total>>16 > 0 {
		total = total&0xffff + total>>16
	}
	return be16(^total)
}

// ipPacket is a packet with an upper layer in it. The length in its header is
// that of the payload given.
func ipPacket(from, to netip.Addr, protocol byte, payload ...[]byte) []byte {
	p := slices.Concat(payload...)
	if from.Is6() {
		return slices.Concat([]byte{0x60, 0, 0, 0}, be16(len(p)), []byte{protocol, 255}, from.AsSlice(), to.AsSlice(), p)
	}
	head := slices.Concat([]byte{0x45, 0}, be16(20+len(p)), []byte{0, 7, 0, 0, 64, protocol, 0, 0}, from.AsSlice(), to.AsSlice())
	copy(head[10:], sum(head))
	return append(head, p...)
}

// udp is a datagram without a checksum.
func udp(port int, payload []byte) []byte {
	return slices.Concat(be16(port), be16(port), be16(8+len(payload)), []byte{0, 0}, payload)
}

// icmp6 is an ICMPv6 message, with its checksum.
func icmp6(from, to netip.Addr, kind byte, body []byte) []byte {
	m := append([]byte{kind, 0, 0, 0}, body...)
	pseudo := slices.Concat(from.AsSlice(), to.AsSlice(), []byte{0, 0, 0, byte(len(m)), 0, 0, 0, unix.IPPROTO_ICMPV6})
	copy(m[2:], sum(pseudo, m))
	return m
}

func frame(to []byte, kind int, payload ...[]byte) []byte {
	return slices.Concat(to, someMAC, be16(kind), slices.Concat(payload...))
}

func etherType(a netip.Addr) int {
	if a.Is6() {
		return typeIPv6
	}
	return typeIPv4
}

// inner is a frame that carries a datagram with a text to find it by.
func inner(from, to netip.Addr, text string) []byte {
	return frame(broadcast, etherType(from), ipPacket(from, to, unix.IPPROTO_UDP, udp(9000, []byte(text))))
}

func arp(op int, sender, target netip.Addr) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4}, be16(op), someMAC, sender.AsSlice(), make([]byte, 6), target.AsSlice())
}

func vxlan(vni byte, frame []byte) []byte {
	return append([]byte{8, 0, 0, 0, 0, 0, vni, 0}, frame...)
}

// fragmented cuts an IPv6 packet with a fragment header (RFC 8200 section 4.5),
// the first part being of a length that is a multiple of 8 octets. The
// identification is new: what is left of a packet whose first part was dropped
// waits for another one.
func fragmented(from, to netip.Addr, protocol byte, payload []byte, first int) [][]byte {
	id := rand.Uint32()
	header := func(offset int, more byte) []byte {
		return binary.BigEndian.AppendUint32(slices.Concat([]byte{protocol, 0}, be16(offset|int(more))), id)
	}
	return [][]byte{
		ipPacket(from, to, unix.IPPROTO_FRAGMENT, header(0, 1), payload[:first]),
		ipPacket(from, to, unix.IPPROTO_FRAGMENT, header(first, 0), payload[first:]),
	}
}

// fragmented4 is the same for IPv4.
func fragmented4(from, to netip.Addr, payload []byte, first int) [][]byte {
	id := be16(rand.IntN(1 << 16))
	cut := func(offset int, part []byte) []byte {
		p := ipPacket(from, to, unix.IPPROTO_UDP, part)
		copy(p[4:], id)
		copy(p[6:], be16(offset))
		p[10], p[11] = 0, 0
		copy(p[10:], sum(p[:20]))
		return p
	}
	return [][]byte{cut(0x2000, payload[:first]), cut(first/8, payload[first:])}
}

// send sends a datagram from an address of the namespace.
func (ns namespace) send(t *testing.T, from, to netip.Addr, port uint16, payload []byte) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.Write(payload)
		return err
	}))
}

// sendRaw sends IP packets as they are.
func (ns namespace) sendRaw(t *testing.T, to netip.Addr, packets ...[]byte) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		domain := unix.AF_INET
		var sa unix.Sockaddr
		if to.Is6() {
			domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Addr: to.As16()}
		} else {
			sa = &unix.SockaddrInet4{Addr: to.As4()}
		}
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		for _, p := range packets {
			if err := unix.Sendto(fd, p, 0, sa); err != nil {
				return err
			}
		}
		return nil
	}))
}

// packetSocket opens a socket on the frames of a link.
func (ns namespace) packetSocket(t *testing.T, link string) int {
	t.Helper()
	var fd int
	require.NoError(t, ns.Do(func() (err error) {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		all := int(binary.NativeEndian.Uint16(be16(unix.ETH_P_ALL)))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: i.Index})
	}))
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// sendFrame sends a frame out of a link.
func (ns namespace) sendFrame(t *testing.T, link string, f []byte) {
	t.Helper()
	_, err := unix.Write(ns.packetSocket(t, link), f)
	require.NoError(t, err)
}

// patience is how long a test waits for what must come.
const patience = time.Minute

// tap sees what comes in on a link.
type tap struct{ fd int }

func (ns namespace) tap(t *testing.T, link string) tap {
	t.Helper()
	fd := ns.packetSocket(t, link)
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
	return tap{fd}
}

// awaits fails if nothing with that text comes.
func (p tap) awaits(t *testing.T, text string) {
	t.Helper()
	buffer := make([]byte, 1<<16)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		n, err := unix.Read(p.fd, buffer)
		if err == nil && bytes.Contains(buffer[:n], []byte(text)) {
			return
		}
	}
	require.Fail(t, "does not arrive: "+text)
}

var versions = subnet.PerFamily[string]{"IPv4", "IPv6"}
