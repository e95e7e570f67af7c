package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// native is the byte order of netlink headers and integers.
var native = binary.NativeEndian

// align rounds up to NLMSG_ALIGNTO and RTA_ALIGNTO, which are the same.
func align(n int) int { return (n + 3) &^ 3 }

// messages are requests as they are sent, one after the other. What there are
// many of (addresses, neighbours, FDB entries, routes) is written straight into
// the buffer; package nl's types, with a dozen allocations a message, do for
// the rest.
type messages struct {
	buf   []byte
	count int
	last  int // where the last one begins
}

// request returns one message to the kernel.
func request(typ, flags int, data ...nl.NetlinkRequestData) *messages {
	req := nl.NewNetlinkRequest(typ, flags)
	for _, d := range data {
		req.AddData(d)
	}
	return &messages{buf: req.Serialize(), count: 1}
}

// begin begins another message: struct nlmsghdr, and the fixed part of its
// type.
func (m *messages) begin(typ, flags int, fixed []byte) {
	m.last = len(m.buf)
	m.count++
	m.buf = native.AppendUint32(m.buf, 0)
	m.buf = native.AppendUint16(m.buf, uint16(typ))
	m.buf = native.AppendUint16(m.buf, uint16(flags|unix.NLM_F_REQUEST))
	m.buf = append(m.buf, 0, 0, 0, 0, 0, 0, 0, 0) // nlmsg_seq, nlmsg_pid
	m.buf = append(m.buf, fixed...)
	m.end()
}

// end notes the length of the last message.
func (m *messages) end() {
	for len(m.buf)%4 != 0 {
		m.buf = append(m.buf, 0)
	}
	native.PutUint32(m.buf[m.last:], uint32(len(m.buf)-m.last))
}

// attr begins an attribute (struct rtattr) of so many bytes.
func (m *messages) attr(typ uint16, size int) {
	m.buf = native.AppendUint16(m.buf, uint16(unix.SizeofRtAttr+size))
	m.buf = native.AppendUint16(m.buf, typ)
}

// bytes, uint32 and addr add an attribute to the last message.
func (m *messages) bytes(typ uint16, value []byte) {
	m.attr(typ, len(value))
	m.buf = append(m.buf, value...)
	m.end()
}

func (m *messages) uint32(typ uint16, value uint32) {
	m.attr(typ, 4)
	m.buf = native.AppendUint32(m.buf, value)
	m.end()
}

func (m *messages) addr(typ uint16, a netip.Addr) {
	m.attr(typ, a.BitLen()/8)
	m.buf, _ = a.AppendBinary(m.buf) // never an error, and no zones here
	m.end()
}

// flag adds NLM_F_* flags to the last message.
func (m *messages) flag(flags uint16) {
	b := m.buf[m.last+6:]
	native.PutUint16(b, native.Uint16(b)|flags)
}

// number gives the messages their sequence numbers.
func (m *messages) number(first uint32) {
	for b := m.buf; len(b) > 0; b = b[align(int(native.Uint32(b))):] {
		native.PutUint32(b[8:], first)
		first++
	}
}

// reset empties m and keeps its memory.
func (m *messages) reset() { m.buf, m.count, m.last = m.buf[:0], 0, 0 }

// message is one message of the kernel: struct nlmsghdr, and what follows.
type message struct {
	typ, flags uint16
	seq        uint32
	data       []byte
}

// cut takes the first message off what a datagram holds.
func cut(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.NLMSG_HDRLEN {
		return message{}, nil, errShort("netlink", b)
	}
	size := int(native.Uint32(b))
	if size < unix.NLMSG_HDRLEN || size > len(b) {
		return message{}, nil, fmt.Errorf("decoding a netlink message: it has %d of %d bytes", len(b), size)
	}
	m = message{typ: native.Uint16(b[4:]), flags: native.Uint16(b[6:]), seq: native.Uint32(b[8:]), data: b[unix.NLMSG_HDRLEN:size]}
	return m, b[min(align(size), len(b)):], nil
}

// err returns the error that NLMSG_ERROR (struct nlmsgerr) or NLMSG_DONE tells,
// with the words that the kernel may have added (NLMSGERR_ATTR_MSG). A unix.Errno
// is in it.
func (m message) err() error {
	if len(m.data) < 4 {
		return nil // NLMSG_DONE may have nothing to tell
	}
	errno := unix.Errno(-int32(native.Uint32(m.data)))
	if errno == 0 {
		return nil
	}
	attrs := m.data[4:]
	if m.typ == unix.NLMSG_ERROR && len(attrs) >= unix.NLMSG_HDRLEN { // the request, or its header alone
		size := unix.NLMSG_HDRLEN
		if m.flags&unix.NLM_F_CAPPED == 0 {
			size = align(int(native.Uint32(attrs)))
		}
		attrs = attrs[min(size, len(attrs)):]
	}
	if m.flags&unix.NLM_F_ACK_TLVS != 0 {
		for a := (attributes{rest: attrs}); a.next(); {
			if a.typ == nl.NLMSGERR_ATTR_MSG {
				return fmt.Errorf("%w: %s", errno, unix.ByteSliceToString(a.value))
			}
		}
	}
	return errno
}

// attributes goes through the attributes of a message, without memory of its
// own:
//
//	for a.next() { switch a.typ { … a.value … } }
//	return a.err
type attributes struct {
	rest  []byte
	typ   uint16
	value []byte
	err   error
}

// after returns the attributes of a message, after its fixed part.
func after(what string, msg []byte, fixed int) attributes {
	if len(msg) < fixed {
		return attributes{err: errShort(what, msg)}
	}
	return attributes{rest: msg[fixed:]}
}

func (a *attributes) next() bool {
	if len(a.rest) < unix.SizeofRtAttr || a.err != nil {
		return false
	}
	size := int(native.Uint16(a.rest))
	if size < unix.SizeofRtAttr || size > len(a.rest) {
		a.err = fmt.Errorf("decoding a netlink attribute: it has %d of %d bytes", len(a.rest), size)
		return false
	}
	a.typ = native.Uint16(a.rest[2:]) &^ (nl.NLA_F_NESTED | nl.NLA_F_NET_BYTEORDER)
	a.value = a.rest[unix.SizeofRtAttr:size]
	a.rest = a.rest[min(align(size), len(a.rest)):]
	return true
}

// uint32 returns the value as a number.
func (a *attributes) uint32() uint32 {
	if len(a.value) < 4 {
		a.err = errShort("netlink attribute's", a.value)
		return 0
	}
	return native.Uint32(a.value)
}

// addr returns the value as an address, the zero Addr if it is none.
func (a *attributes) addr() netip.Addr {
	ip, _ := netip.AddrFromSlice(a.value)
	return ip
}

func errShort(what string, msg []byte) error {
	return fmt.Errorf("decoding a %s message: %d bytes are too short", what, len(msg))
}
