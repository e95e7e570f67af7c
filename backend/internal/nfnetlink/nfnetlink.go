// Package nfnetlink speaks the wire format of nf_tables (NETLINK_NETFILTER,
// linux/netfilter/nf_tables.h): reading, watching, and transactions of encoded
// messages, which is what the adapters of the firewall have in common. Tables,
// chains and rules are encoded by github.com/google/nftables.
//
// It imports neither vishvananda/netlink, google/nftables nor a logger.
package nfnetlink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// HeaderLength is that of struct nfgenmsg, with which every message of
// nfnetlink begins: family, version, and a resource in network byte order
// (linux/netfilter/nfnetlink.h).
const HeaderLength = 4

// timeout bounds one exchange with the kernel when the context has no earlier
// deadline. One takes milliseconds; but nfnetlink answers a batch whose commit
// fails with one error in all, while google/nftables waits for one
// acknowledgement per message.
const timeout = 10 * time.Second

// Deadline returns that of an exchange: the context's, or soon.
func Deadline(ctx context.Context) time.Time {
	limit := time.Now().Add(timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(limit) {
		return d
	}
	return limit
}

// Dial opens a socket for requests in a network namespace (a file descriptor;
// 0: the calling thread's).
func Dial(ctx context.Context, netns int) (*netlink.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("opening a netfilter netlink socket: %w", err)
	}
	if err := c.SetDeadline(Deadline(ctx)); err != nil {
		return nil, errors.Join(fmt.Errorf("setting the deadline of a netfilter netlink socket: %w", err), c.Close())
	}
	return c, nil
}

// Message returns an nf_tables request (unix.NFT_MSG_*) about a family
// (unix.NFPROTO_*).
func Message(family byte, kind int, flags netlink.HeaderFlags, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// Encode returns the attributes that fill adds; numbers in nf_tables are in
// network byte order.
func Encode(fill func(*netlink.AttributeEncoder)) ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	fill(e)
	return e.Encode()
}

// Decode returns a decoder of a message's attributes.
func Decode(m netlink.Message) (*netlink.AttributeDecoder, error) {
	if len(m.Data) < HeaderLength {
		return nil, fmt.Errorf("a message of %d octets is too short for its header", len(m.Data))
	}
	return Attributes(m.Data[HeaderLength:])
}

// Attributes returns a decoder of attributes.
func Attributes(b []byte) (*netlink.AttributeDecoder, error) {
	attrs, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil, err
	}
	attrs.ByteOrder = binary.BigEndian
	return attrs, nil
}

// Ask sends a request whose attributes are names, and returns the answers.
func Ask(conn *netlink.Conn, family byte, kind int, flags netlink.HeaderFlags, names map[uint16]string) ([]netlink.Message, error) {
	attrs, err := encodeNames(names)
	if err != nil {
		return nil, err
	}
	return conn.Execute(Message(family, kind, flags, attrs))
}

func encodeNames(names map[uint16]string) ([]byte, error) {
	return Encode(func(e *netlink.AttributeEncoder) {
		for attr, name := range names {
			e.String(attr, name)
		}
	})
}

// Get asks for one object and returns its attributes.
func Get(conn *netlink.Conn, family byte, kind int, names map[uint16]string) (*netlink.AttributeDecoder, error) {
	reply, err := Ask(conn, family, kind, 0, names)
	if err != nil {
		return nil, err
	}
	if len(reply) != 1 {
		return nil, fmt.Errorf("%d answers instead of one", len(reply))
	}
	return Decode(reply[0])
}

// Generation returns the number that each committed transaction of the network
// namespace raises.
func Generation(conn *netlink.Conn) (uint32, error) {
	attrs, err := Get(conn, unix.NFPROTO_UNSPEC, unix.NFT_MSG_GETGEN, nil)
	if err != nil {
		return 0, fmt.Errorf("asking for the ruleset's generation: %w", err)
	}
	var id uint32
	for attrs.Next() {
		if attrs.Type() == unix.NFTA_GEN_ID {
			id = attrs.Uint32()
		}
	}
	return id, attrs.Err()
}
