package guard_test

import (
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/nftables/guard"
)

// elementMessage is a message about elements with these keys.
func elementMessage(family byte, table, set string, keys ...[]byte) []byte {
	e := netlink.NewAttributeEncoder()
	e.String(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	e.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	e.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
		for _, k := range keys {
			list.Nested(unix.NFTA_LIST_ELEM, func(elem *netlink.AttributeEncoder) error {
				elem.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
					key.Bytes(unix.NFTA_DATA_VALUE, k)
					return nil
				})
				return nil
			})
		}
		return nil
	})
	b, err := e.Encode()
	if err != nil {
		panic(err)
	}
	return append([]byte{family, 0, 0, 0}, b...)
}

func FuzzDecodeElements(f *testing.F) {
	whole := elementMessage(unix.NFPROTO_INET, guard.VTEPTable, "ipv6-64-in-ipv4", make([]byte, 20), make([]byte, 20))
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add(elementMessage(unix.NFPROTO_INET, guard.VTEPTable, "ipv4-33-in-ipv4", make([]byte, 8)))
	f.Add(elementMessage(unix.NFPROTO_INET, guard.VTEPTable, "peers-ipv4", make([]byte, 16)))
	f.Add(elementMessage(unix.NFPROTO_BRIDGE, guard.PodsTable, "pod-ports", make([]byte, 16)))
	f.Add([]byte{1, 0, 0, 0, 3, 0, 1, 0})
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := guard.DecodeElements(data)
		if n > len(data) {
			t.Fatalf("%d elements of %d octets, %v", n, len(data), err)
		}
	})
}

func TestDecodeElements(t *testing.T) {
	t.Parallel()
	for set, c := range map[string]struct {
		keyLen int
		ok     bool
	}{
		"peers-ipv4": {4, true}, "peers-ipv6": {16, true}, "ipv4-24-in-ipv6": {20, true}, "ipv6-0-in-ipv6": {32, true},
		"pods-ipv6": {32, true}, "ipv4-024-in-ipv4": {8, false}, "ipv4-33-in-ipv4": {8, false}, "ipv4--1-in-ipv4": {8, false},
		"extra": {4, false}, "": {0, false},
	} {
		n, err := guard.DecodeElements(elementMessage(unix.NFPROTO_INET, guard.VTEPTable, set, make([]byte, c.keyLen), make([]byte, c.keyLen)))
		if c.ok {
			require.NoError(t, err, set)
			require.Equal(t, 2, n, set)
		} else {
			require.Error(t, err, set)
		}
		_, err = guard.DecodeElements(elementMessage(unix.NFPROTO_INET, guard.VTEPTable, set, make([]byte, c.keyLen+1)))
		require.Error(t, err, set)
	}
}
