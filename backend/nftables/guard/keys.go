package guard

import (
	"encoding/binary"
	"math"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// keys are elements of one set, encoded as lists of them (NFTA_SET_ELEM_LIST_ELEMENTS)
// each of which fits in a message: the length of an attribute is a 16-bit number.
//
// It is done here because elements are what there are thousands of: the library
// takes ten times as long for each, and loses those beyond that length without
// a word.
type keys struct {
	full [][]byte
	last []byte
}

// maxList is the length in octets of the longest list.
const maxList = math.MaxUint16 - unix.SizeofNlAttr

// add adds a key, whose length is a multiple of 4 octets, so that nothing is
// padded.
func (k *keys) add(key []byte) {
	const header = unix.SizeofNlAttr
	size := 3*header + len(key)
	if len(k.last)+size > maxList {
		k.full, k.last = append(k.full, k.last), nil
	}
	k.last = appendAttribute(k.last, unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, size)
	k.last = appendAttribute(k.last, unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, size-header)
	k.last = appendAttribute(k.last, unix.NFTA_DATA_VALUE, size-2*header)
	k.last = append(k.last, key...)
}

// appendAttribute appends the head of an attribute: struct nlattr (netlink(7)).
func appendAttribute(b []byte, kind uint16, length int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(length))
	return binary.NativeEndian.AppendUint16(b, kind)
}

// appendMessages appends a request (unix.NFT_MSG_*) for all elements.
func (k *keys) appendMessages(messages []netlink.Message, s set, kind int, flags netlink.HeaderFlags) ([]netlink.Message, error) {
	for i := range len(k.full) + 1 {
		list := k.last
		if i < len(k.full) {
			list = k.full[i]
		}
		attrs, err := nfnetlink.Encode(func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_SET_ELEM_LIST_TABLE, s.table.Name)
			e.String(unix.NFTA_SET_ELEM_LIST_SET, s.name())
			e.Bytes(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, list)
		})
		if err != nil {
			return nil, err
		}
		messages = append(messages, nfnetlink.Message(s.table.Family, kind, flags, attrs))
	}
	return messages, nil
}

// messages returns what changes the elements of those sets that there are.
//
// To delete what is not there fails, and the whole transaction with it; so it is
// added first, which does nothing where it is.
func (w *transaction) messages(sets map[set]bool) (messages []netlink.Message, err error) {
	for _, step := range []struct {
		elements map[set]*keys
		kind     int
		flags    netlink.HeaderFlags
	}{
		{w.del, unix.NFT_MSG_NEWSETELEM, netlink.Create},
		{w.del, unix.NFT_MSG_DELSETELEM, 0},
		{w.add, unix.NFT_MSG_NEWSETELEM, netlink.Create},
	} {
		for s, k := range step.elements {
			if !sets[s] {
				continue
			}
			if messages, err = k.appendMessages(messages, s, step.kind, step.flags); err != nil {
				return nil, err
			}
		}
	}
	return messages, nil
}
