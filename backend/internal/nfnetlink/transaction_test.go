package nfnetlink_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/rulestest"
)

// elements is a request about n elements of set s in table t, from a number on.
func elements(t *testing.T, kind int, set string, from, n int) netlink.Message {
	t.Helper()
	attrs, err := nfnetlink.Encode(func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_SET_ELEM_LIST_TABLE, "t")
		e.String(unix.NFTA_SET_ELEM_LIST_SET, set)
		e.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
			for i := range n {
				list.Nested(unix.NFTA_LIST_ELEM, func(elem *netlink.AttributeEncoder) error {
					elem.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
						key.Bytes(unix.NFTA_DATA_VALUE, binary.BigEndian.AppendUint32(nil, uint32(from+i)))
						return nil
					})
					return nil
				})
			}
			return nil
		})
	})
	require.NoError(t, err)
	return nfnetlink.Message(unix.NFPROTO_INET, kind, netlink.Create, attrs)
}

// A transaction is committed whole or not at all, and a list of any length is
// read whole.
func TestCommitAndDump(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := rulestest.NewNamespace(t)
	ns.Pipe(t, "table inet t {\nset s { type ipv4_addr; }\nset other { type ipv4_addr; }\n}", "nft", "-f", "-")
	dial := func() *netlink.Conn {
		conn, err := nfnetlink.Dial(t.Context(), ns.FD())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	conn := dial()
	dump := func(set string, each func(netlink.Message) error) error {
		return nfnetlink.Dump(conn, unix.NFPROTO_INET, unix.NFT_MSG_GETSETELEM, map[uint16]string{
			unix.NFTA_SET_ELEM_LIST_TABLE: "t", unix.NFTA_SET_ELEM_LIST_SET: set,
		}, each)
	}
	octets := func() (n int) {
		t.Helper()
		require.NoError(t, dump("s", func(m netlink.Message) error {
			n += len(m.Data)
			return nil
		}))
		return n
	}
	empty := octets()
	require.NoError(t, nfnetlink.Commit(conn, nil))
	require.NoError(t, nfnetlink.Commit(conn, []netlink.Message{
		elements(t, unix.NFT_MSG_NEWSETELEM, "s", 0, 4000), elements(t, unix.NFT_MSG_NEWSETELEM, "s", 4000, 4000),
	}))
	const perElement = 16 // three headers of 4 octets, and the key
	full := octets()
	require.Greater(t, full, empty+8000*perElement)

	for _, messages := range [][]netlink.Message{
		{elements(t, unix.NFT_MSG_NEWSETELEM, "none", 0, 1), elements(t, unix.NFT_MSG_NEWSETELEM, "s", 9000, 1)},
		{elements(t, unix.NFT_MSG_NEWSETELEM, "s", 9000, 1), elements(t, unix.NFT_MSG_DELSETELEM, "s", 9001, 1)},
	} {
		require.ErrorIs(t, nfnetlink.Commit(dial(), messages), unix.ENOENT)
		require.Equal(t, full, octets())
	}
	require.ErrorIs(t, dump("none", func(netlink.Message) error { return nil }), unix.ENOENT)
	require.Equal(t, full, octets(), "the socket is of use after an error of the kernel")

	stop, calls := errors.New("stop"), 0
	require.ErrorIs(t, dump("s", func(netlink.Message) error { calls++; return stop }), stop)
	require.Equal(t, 1, calls)
	require.Equal(t, full, octets(), "and after one of the reader")

	require.NoError(t, nfnetlink.Commit(conn, []netlink.Message{elements(t, unix.NFT_MSG_DELSETELEM, "s", 0, 4000)}))
	require.Less(t, octets(), full)
}
