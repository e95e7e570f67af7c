package nft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// sessionBuffer is the size in octets of a session's socket buffers. A
// transaction is sent as one message, and each rule in it is acknowledged before
// any of that is read: the default of 208 KiB ends at about 100 rules, with
// ENOBUFS.
const sessionBuffer = 8 << 20

// Session is the socket by which an adapter asks and writes. It stays open: to
// close one takes a grace period of RCU, some 10 ms, if anyone has deleted
// anything just before, and everybody else who writes waits as well
// (nft_rcv_nl_event). It is opened by the first use, and anew by the next one
// after an error: an answer that comes late would be taken for another's.
type Session struct {
	netns int

	mu     sync.Mutex
	socket *netlink.Conn  // nil when closed
	writer *nftables.Conn // on socket
	port   atomic.Uint32
}

// NewSession returns a session in a network namespace (a file descriptor; 0: the
// calling thread's).
func NewSession(netns int) *Session { return &Session{netns: netns} }

// Do runs an exchange with the kernel, one at a time.
func (s *Session) Do(ctx context.Context, exchange func(*netlink.Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.socket == nil {
		if err := s.open(); err != nil {
			return fmt.Errorf("opening a netfilter netlink socket: %w", err)
		}
	}
	err := s.socket.SetDeadline(nfnetlink.Deadline(ctx))
	if err == nil {
		err = exchange(s.socket)
	}
	if err != nil {
		_ = s.close() // it is what failed that matters
	}
	return err
}

// Read is nfnetlink.Read.
func (s *Session) Read(ctx context.Context, read func(*netlink.Conn) error) error {
	return s.Do(ctx, func(conn *netlink.Conn) error { return nfnetlink.ReadOn(ctx, conn, read) })
}

// Generation returns the number that each transaction in the network namespace
// raises (NFTA_GEN_ID), iptables-nft's too: while it is the same, so are all tables.
func (s *Session) Generation(ctx context.Context) (generation uint32, err error) {
	err = s.Do(ctx, func(conn *netlink.Conn) (err error) {
		generation, err = nfnetlink.Generation(conn)
		return err
	})
	return generation, err
}

// Write commits what fill gives to the connection, in one transaction.
func (s *Session) Write(ctx context.Context, fill func(*nftables.Conn) error) error {
	return s.Do(ctx, func(*netlink.Conn) error {
		if err := fill(s.writer); err != nil {
			return err
		}
		return s.writer.Flush()
	})
}

// Sent reports whether a notification tells of what this session has written.
func (s *Session) Sent(m netlink.Message) bool {
	port := s.port.Load()
	return port != 0 && m.Header.PID == port
}

// Close closes the socket. The session may be used again.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close()
}

func (s *Session) open() error {
	var socket *netlink.Conn
	writer, err := nftables.New(
		nftables.AsLasting(),
		nftables.WithNetNSFd(s.netns),
		nftables.WithSockOptions(func(c *netlink.Conn) error {
			socket = c
			// An error that came with the message which it is about would be as large.
			return errors.Join(c.SetReadBuffer(sessionBuffer), c.SetWriteBuffer(sessionBuffer), c.SetOption(netlink.CapAcknowledge, true))
		}),
	)
	var port uint32
	if err == nil {
		port, err = portOf(socket)
	}
	if err != nil {
		if socket != nil {
			err = errors.Join(err, socket.Close())
		}
		return err
	}
	s.socket, s.writer = socket, writer
	s.port.Store(port)
	return nil
}

func (s *Session) close() error {
	if s.socket == nil {
		return nil
	}
	err := s.socket.Close()
	s.port.Store(0)
	s.socket, s.writer = nil, nil
	return err
}

// portOf returns the address of a netlink socket, by which the kernel knows it.
func portOf(socket *netlink.Conn) (port uint32, err error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	var address unix.Sockaddr
	var failed error
	err = raw.Control(func(fd uintptr) { address, failed = unix.Getsockname(int(fd)) })
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	a, ok := address.(*unix.SockaddrNetlink)
	if !ok {
		return 0, fmt.Errorf("its address is of another kind, %T", address)
	}
	return a.Pid, nil
}
