package nfnetlink

import (
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// bracket returns the message that begins or ends a transaction.
func bracket(kind int) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
		Data:   []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	}
}

// Commit sends messages as one transaction, and returns when the kernel has
// taken all of them or none. After an error there may be more answers to come,
// so that the socket is of no more use.
//
// Only the last message is acknowledged: what fails is answered in any case, and
// before that (nfnetlink_rcv_batch). To fail takes a grace period of RCU
// (__nf_tables_abort), some 10 ms; to delete does not.
func Commit(conn *netlink.Conn, messages []netlink.Message) error {
	if len(messages) == 0 {
		return nil
	}
	batch := make([]netlink.Message, 0, len(messages)+2)
	batch = append(batch, bracket(unix.NFNL_MSG_BATCH_BEGIN))
	batch = append(batch, messages...)
	batch[len(messages)].Header.Flags |= netlink.Acknowledge
	batch = append(batch, bracket(unix.NFNL_MSG_BATCH_END))
	if _, err := conn.SendMessages(batch); err != nil {
		return err
	}
	_, err := conn.Receive()
	return err
}
