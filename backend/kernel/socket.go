package kernel

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// socket is a netlink socket (netlink(7), rtnetlink(7)) that hears the kernel
// alone. It has one buffer for all that it reads: that of package nl
// has 64 KiB anew for each acknowledgement and each notification.
type socket struct {
	file *os.File
	in   []byte

	mu  sync.Mutex // held from a request to the end of its answer
	seq uint32     // nlmsg_seq of the last request
}

// receiveSize is more than the kernel puts into one part of a dump
// (netlink_recvmsg in net/netlink/af_netlink.c: 32 KiB).
const receiveSize = 64 << 10

// open opens a socket of a protocol (unix.NETLINK_*) in our namespace that gets
// the notifications of groups. It waits for what it reads in a system call, which has its end after a
// minute, or (nonblocking) in a way that close ends.
func (k *Kernel) open(protocol, nonblocking int, groups ...uint) (s *socket, err error) {
	err = k.inside(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|nonblocking, protocol)
		if err != nil {
			return err
		}
		addr := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
		for _, g := range groups {
			addr.Groups |= 1 << (g - 1)
		}
		s = &socket{file: os.NewFile(uintptr(fd), "netlink"), in: make([]byte, receiveSize)}
		// A connected socket takes messages of its peer only, and 0 is the kernel
		// (netlink_getsockbyportid in net/netlink/af_netlink.c).
		if err := errors.Join(unix.Bind(fd, addr), unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})); err != nil {
			s.close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	return s, nil
}

func (s *socket) close() { s.file.Close() }

// set sets or gets options of the socket.
func (s *socket) set(f func(fd int) error) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	return errors.Join(raw.Control(func(fd uintptr) { failed = f(int(fd)) }), failed)
}

// portID returns who we are in messages (nlmsg_pid).
func (s *socket) portID() (id uint32, err error) {
	err = s.set(func(fd int) error {
		addr, err := unix.Getsockname(fd)
		if addr, ok := addr.(*unix.SockaddrNetlink); ok {
			id = addr.Pid
		}
		return err
	})
	return id, err
}

// receive returns the messages of one datagram; they are valid until the next
// call.
func (s *socket) receive() ([]byte, error) {
	n, err := s.file.Read(s.in)
	return s.in[:max(0, n)], err
}

// ask sends requests, and calls each for every message of the kernel's answers
// until the last request is answered in full: it must ask for an
// acknowledgement or a dump. The number of the request that is answered counts
// from 0. Each must not use the socket, nor keep what it gets.
func (s *socket) ask(m *messages, each func(request int, answer message)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.seq + 1
	s.seq += uint32(m.count)
	m.number(first)
	if _, err := s.file.Write(m.buf); err != nil {
		return fmt.Errorf("sending to the kernel: %w", err)
	}
	for {
		b, err := s.receive()
		if err != nil {
			s.drain()
			return fmt.Errorf("waiting for the kernel's answer: %w", err)
		}
		for len(b) > 0 {
			var answer message
			if answer, b, err = cut(b); err != nil {
				s.drain()
				return err
			}
			request := int(answer.seq - first) // else of one that broke off: not ours any more
			if answer.seq-first >= uint32(m.count) {
				continue
			}
			each(request, answer)
			if last := answer.typ == unix.NLMSG_ERROR || answer.typ == unix.NLMSG_DONE; last && request == m.count-1 {
				return nil
			}
		}
	}
}

// drain throws away what waits: after an overrun the kernel drops all further
// answers until the queue is empty (NETLINK_S_CONGESTED, af_netlink.c).
func (s *socket) drain() {
	_ = s.set(func(fd int) error {
		for {
			if _, _, err := unix.Recvfrom(fd, s.in, unix.MSG_DONTWAIT); err != nil {
				return err
			}
		}
	})
}
