package nftables

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// headerLength is that of struct nfgenmsg, with which every message of
// nfnetlink begins: family, version, and a resource in network byte order
// (linux/netfilter/nfnetlink.h).
const headerLength = 4

// message returns an nf_tables request (NFT_MSG_*) about family inet.
func message(kind int, flags netlink.HeaderFlags, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// encode returns the attributes that fill adds; numbers in nf_tables are in
// network byte order.
func encode(fill func(*netlink.AttributeEncoder)) ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	fill(e)
	return e.Encode()
}

// decode returns a decoder of a message's attributes.
func decode(m netlink.Message) (*netlink.AttributeDecoder, error) {
	if len(m.Data) < headerLength {
		return nil, fmt.Errorf("a message of %d octets is too short for its header", len(m.Data))
	}
	attrs, err := netlink.NewAttributeDecoder(m.Data[headerLength:])
	if err != nil {
		return nil, err
	}
	attrs.ByteOrder = binary.BigEndian
	return attrs, nil
}

// ask sends a request whose attributes are names, and returns the answers.
func ask(conn *netlink.Conn, kind int, flags netlink.HeaderFlags, names map[uint16]string) ([]netlink.Message, error) {
	attrs, err := encode(func(e *netlink.AttributeEncoder) {
		for attr, name := range names {
			e.String(attr, name)
		}
	})
	if err != nil {
		return nil, err
	}
	return conn.Execute(message(kind, flags, attrs))
}

// get asks for one object and returns its attributes.
func get(conn *netlink.Conn, kind int, names map[uint16]string) (*netlink.AttributeDecoder, error) {
	reply, err := ask(conn, kind, 0, names)
	if err != nil {
		return nil, err
	}
	if len(reply) != 1 {
		return nil, fmt.Errorf("%d answers instead of one", len(reply))
	}
	return decode(reply[0])
}
