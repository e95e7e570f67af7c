package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// errElement says that a set holds what none of ours ever does.
var errElement = errors.New("not an element of ours")

// attributes yields the attributes of a message by type: struct nlattr,
// length and type of 2 octets each in host byte order, the value, and padding
// to 4 octets (netlink(7)). It ends at the first that is cut.
//
// A list of all elements is the one thing here that is long, and this takes a
// fifth of the time of a general decoder.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofNlAttr || length > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofNlAttr:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}

// decodeElements calls each with the elements in a message about them, each
// valid until it returns. One that is of no set of ours, or a kind which no set
// of ours holds, is errElement.
func decodeElements(m netlink.Message, each func(*element)) error {
	if len(m.Data) < nfnetlink.HeaderLength {
		return errElement
	}
	table := nfnetlink.Table{Family: m.Data[0]}
	var name string
	var list []byte
	for kind, value := range attributes(m.Data[nfnetlink.HeaderLength:]) {
		switch kind {
		case unix.NFTA_SET_ELEM_LIST_TABLE:
			table.Name = text(value)
		case unix.NFTA_SET_ELEM_LIST_SET:
			name = text(value)
		case unix.NFTA_SET_ELEM_LIST_ELEMENTS:
			list = value
		}
	}
	s, ok := parseSet(table, name)
	if !ok {
		return fmt.Errorf("set %s of table %s: %w", name, table.Name, errElement)
	}
	size := s.keyLen()
	e := element{set: s} // one for all: it would be allocated for each
	for _, value := range attributes(list) {
		key, ok := decodeKey(value)
		if !ok || len(key) != size {
			return fmt.Errorf("set %s of table %s: %w", name, table.Name, errElement)
		}
		copy(e.key[:], key)
		each(&e)
	}
	return nil
}

// decodeKey returns the key of an element. One without a key stands for all
// (NFT_SET_ELEM_CATCHALL).
func decodeKey(b []byte) (key []byte, ok bool) {
	for kind, value := range attributes(b) {
		if kind == unix.NFTA_SET_ELEM_KEY {
			for kind, value := range attributes(value) {
				if kind == unix.NFTA_DATA_VALUE {
					key, ok = value, true
				}
			}
		}
	}
	return key, ok
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// readElements lists a set.
func readElements(conn *netlink.Conn, s set, each func(*element)) error {
	err := nfnetlink.Dump(conn, s.table.Family, unix.NFT_MSG_GETSETELEM, map[uint16]string{
		unix.NFTA_SET_ELEM_LIST_TABLE: s.table.Name, unix.NFTA_SET_ELEM_LIST_SET: s.name(),
	}, func(m netlink.Message) error { return decodeElements(m, each) })
	if err != nil {
		return fmt.Errorf("listing set %s of table %s: %w", s.name(), describe(s.table), err)
	}
	return nil
}
