package nfnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// streamBuffer is the size in octets of what is read at once. The kernel makes
// messages as large as the reader has room for, up to 32 KiB (netlink_dump), and
// walks a set from its beginning for each message (nf_tables_dump_set), so that
// to list 20 000 elements by 4 KiB takes several times as long.
const streamBuffer = 32 << 10

// stream reads messages into one buffer, which they share: a list of all peers'
// elements is megabytes, of which nobody needs more than one message at a time.
type stream struct {
	raw    syscall.RawConn
	buffer []byte
}

func newStream(conn *netlink.Conn) (*stream, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &stream{raw, make([]byte, streamBuffer)}, nil
}

// next waits for messages and calls each with them, in turn. They are valid
// until it returns. What does not fit is ENOBUFS, as what the socket has no room
// for.
func (s *stream) next(each func(netlink.Message) error) error {
	var n int
	var failed error
	err := s.raw.Read(func(fd uintptr) bool {
		n, failed = unix.Read(int(fd), s.buffer)
		return !errors.Is(failed, unix.EAGAIN) && !errors.Is(failed, unix.EINTR)
	})
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	if n == len(s.buffer) {
		return fmt.Errorf("a message is longer than %d octets: %w", n, unix.ENOBUFS)
	}
	messages, err := syscall.ParseNetlinkMessage(s.buffer[:n])
	if err != nil {
		return err
	}
	for _, m := range messages {
		err := each(netlink.Message{Header: netlink.Header{
			Length: m.Header.Len, Type: netlink.HeaderType(m.Header.Type), Flags: netlink.HeaderFlags(m.Header.Flags),
			Sequence: m.Header.Seq, PID: m.Header.Pid,
		}, Data: m.Data})
		if err != nil {
			return err
		}
	}
	return nil
}

// Dump sends a request for a list whose attributes are names, and calls each
// with the messages of the answer, which are valid until it returns. An error of
// each is returned when the answer has been read. A list that changed while it
// was read is EINTR.
func Dump(conn *netlink.Conn, family byte, kind int, names map[uint16]string, each func(netlink.Message) error) error {
	attrs, err := encodeNames(names)
	if err != nil {
		return err
	}
	s, err := newStream(conn)
	if err != nil {
		return err
	}
	request, err := conn.Send(Message(family, kind, netlink.Dump, attrs))
	if err != nil {
		return err
	}
	done, interrupted := false, false
	var failed error
	for !done {
		err := s.next(func(m netlink.Message) error {
			if m.Header.Sequence != request.Header.Sequence {
				return fmt.Errorf("an answer to request %d came for request %d", m.Header.Sequence, request.Header.Sequence)
			}
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
			switch m.Header.Type {
			case netlink.Done, netlink.Error:
				done = true
				return errno(m)
			}
			if failed == nil {
				failed = each(m)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if interrupted {
		return unix.EINTR
	}
	return failed
}

// errno returns the error in a message that ends an answer (netlink(7)).
func errno(m netlink.Message) error {
	if len(m.Data) < 4 {
		return fmt.Errorf("an answer's end of %d octets has no room for an error number", len(m.Data))
	}
	if n := int32(binary.NativeEndian.Uint32(m.Data)); n != 0 {
		return unix.Errno(-n)
	}
	return nil
}
