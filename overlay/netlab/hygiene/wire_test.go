package hygiene

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/overlay/netlab"
)

func be16(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

// checksum is the Internet checksum (RFC 1071).
func checksum(parts ...[]byte) []byte {
	all := slices.Concat(parts...)
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	var total uint32
	for ; len(all) > 0; all = all[2:] {
		total += uint32(binary.BigEndian.Uint16(all))
	}
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	return be16(int(^uint16(total)))
}

func pseudoHeader(from, to netip.Addr, protocol byte, length int) []byte {
	return slices.Concat(from.AsSlice(), to.AsSlice(), []byte{0, protocol}, be16(length))
}

// discard is the port that inner datagrams go to (RFC 863): pods listen there,
// so that they do not answer.
const discard = 9

// datagram is a UDP datagram, which its addresses' checksum fits.
func datagram(from, to netip.Addr, port int, payload []byte) []byte {
	length := 8 + len(payload)
	d := slices.Concat(be16(40000), be16(port), be16(length), []byte{0, 0}, payload)
	copy(d[6:], checksum(pseudoHeader(from, to, unix.IPPROTO_UDP, length), d))
	return d
}

// packet is an IP packet; fragment is the field of that name of an IPv4 header.
func packet(from, to netip.Addr, protocol byte, payload []byte) []byte {
	if from.Is6() {
		head := slices.Concat([]byte{0x60, 0, 0, 0}, be16(len(payload)), []byte{protocol, 255}, from.AsSlice(), to.AsSlice())
		return append(head, payload...)
	}
	return packet4(from, to, protocol, 0, 0, payload)
}

func packet4(from, to netip.Addr, protocol byte, id, fragment int, payload []byte) []byte {
	head := slices.Concat([]byte{0x45, 0}, be16(20+len(payload)), be16(id), be16(fragment), []byte{64, protocol, 0, 0}, from.AsSlice(), to.AsSlice())
	copy(head[10:], checksum(head))
	return append(head, payload...)
}

// fragments are a datagram in two packets, cut at a multiple of 8 octets
// (RFC 791 section 3.2, RFC 8200 section 4.5).
func fragments(from, to netip.Addr, datagram []byte, cut int) [][]byte {
	id := rand.Uint32()
	if from.Is4() {
		const more = 0x2000
		return [][]byte{
			packet4(from, to, unix.IPPROTO_UDP, int(id&0xffff), more, datagram[:cut]),
			packet4(from, to, unix.IPPROTO_UDP, int(id&0xffff), cut/8, datagram[cut:]),
		}
	}
	part := func(offsetAndMore int, p []byte) []byte {
		header := binary.BigEndian.AppendUint32(slices.Concat([]byte{unix.IPPROTO_UDP, 0}, be16(offsetAndMore)), id)
		return packet(from, to, unix.IPPROTO_FRAGMENT, append(header, p...))
	}
	return [][]byte{part(1, datagram[:cut]), part(cut, datagram[cut:])}
}

// frame is an Ethernet frame.
func frame(to, from net.HardwareAddr, kind int, payload []byte) []byte {
	return slices.Concat(to, from, be16(kind), payload)
}

var (
	someMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 0xaa}
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

func etherType(a netip.Addr) int {
	if a.Is4() {
		return unix.ETH_P_IP
	}
	return unix.ETH_P_IPV6
}

// carrying is a frame with a datagram that carries a text.
func carrying(mac net.HardwareAddr, from, to netip.Addr, text string) []byte {
	return frame(mac, someMAC, etherType(from), packet(from, to, unix.IPPROTO_UDP, datagram(from, to, discard, []byte(text))))
}

// tagged puts an 802.1Q header of VLAN 0 into a frame.
func tagged(f []byte) []byte {
	return slices.Concat(f[:12], be16(unix.ETH_P_8021Q), []byte{0, 0}, f[12:])
}

// arp is an announcement of somebody's address (RFC 826), with a text behind.
func arp(mac net.HardwareAddr, sender, target netip.Addr, text string) []byte {
	const reply = 2
	return frame(mac, someMAC, unix.ETH_P_ARP, slices.Concat(
		[]byte{0, 1, 8, 0, 6, 4}, be16(reply), someMAC, sender.AsSlice(), mac, target.AsSlice(), []byte(text)))
}

// advertise is a neighbour advertisement (RFC 4861 section 4.4) for an address,
// with a text in an option that nobody knows (section 4.6).
func advertise(mac net.HardwareAddr, from, to, target netip.Addr, text string) []byte {
	const advertisement, override, unknown = 136, 0x20, 253
	text += strings.Repeat(" ", 7-(len(text)+1)%8)
	option := append([]byte{unknown, byte((2 + len(text)) / 8)}, text...)
	link := append([]byte{2, 1}, someMAC...) // target link-layer address
	m := slices.Concat([]byte{advertisement, 0, 0, 0, override, 0, 0, 0}, target.AsSlice(), link, option)
	copy(m[2:], checksum(pseudoHeader(from, to, unix.IPPROTO_ICMPV6, len(m)), m))
	return frame(mac, someMAC, unix.ETH_P_IPV6, packet(from, to, unix.IPPROTO_ICMPV6, m))
}

// vxlan is what a datagram to a VTEP carries (RFC 7348 section 5).
func vxlan(vni byte, inner []byte) []byte {
	return append([]byte{8, 0, 0, 0, 0, 0, vni, 0}, inner...)
}

// inside calls f in a host's network namespace, on a thread that ends with it.
func inside(t *testing.T, h *netlab.Host, f func() error) {
	t.Helper()
	path := h.Path("/proc/1/ns/net")
	if _, pod, is := strings.Cut(h.Name, "/"); is {
		path = h.Path("/run/netns/" + pod)
	}
	ns, err := os.Open(path)
	require.NoError(t, err)
	defer ns.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	require.NoError(t, <-done)
}

// sendRaw sends IP packets as they are.
func sendRaw(t *testing.T, h *netlab.Host, to netip.Addr, packets ...[]byte) {
	t.Helper()
	domain, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.As16()})
	if to.Is4() {
		domain, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: to.As4()}
	}
	inside(t, h, func() error {
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, p := range packets {
			if err := unix.Sendto(fd, p, 0, sa); err != nil {
				return err
			}
		}
		return nil
	})
}

// macOf returns the MAC address of a link.
func macOf(t *testing.T, h *netlab.Host, link string) (mac net.HardwareAddr) {
	t.Helper()
	inside(t, h, func() error {
		i, err := net.InterfaceByName(link)
		if err == nil {
			mac = i.HardwareAddr
		}
		return err
	})
	return mac
}

// tap is a socket on the frames of a link (packet(7)).
type tap struct {
	fd   int
	name string
}

func newTap(t *testing.T, h *netlab.Host, link string) *tap {
	t.Helper()
	p := &tap{name: h.Name + " " + link}
	inside(t, h, func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(be16(unix.ETH_P_ALL))
		if p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	})
	t.Cleanup(func() { _ = unix.Close(p.fd) })
	require.NoError(t, unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
	return p
}

func (p *tap) send(t *testing.T, f []byte) {
	t.Helper()
	_, err := unix.Write(p.fd, f)
	require.NoError(t, err)
}

// saw reports whether a text is in what is waiting to be read.
func (p *tap) saw(text string) (yes bool) {
	buffer := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(p.fd, buffer, unix.MSG_DONTWAIT)
		if err != nil {
			return yes
		}
		yes = yes || bytes.Contains(buffer[:n], []byte(text))
	}
}

// awaits fails if nothing with that text comes.
func (p *tap) awaits(t *testing.T, text, what string) {
	t.Helper()
	_, came := p.sawBefore(text, text)
	require.True(t, came, "%s does not arrive at %s", what, p.name)
}

// sawBefore waits for one text and reports whether another came before it, or
// with it.
func (p *tap) sawBefore(last, other string) (yes, came bool) {
	buffer := make([]byte, 1<<16)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		n, _, err := unix.Recvfrom(p.fd, buffer, 0)
		if err != nil {
			continue
		}
		yes = yes || bytes.Contains(buffer[:n], []byte(other))
		if bytes.Contains(buffer[:n], []byte(last)) {
			return yes, true
		}
	}
	return yes, false
}
