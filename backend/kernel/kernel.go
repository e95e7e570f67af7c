package kernel

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/vxlan"
)

// Protocol marks our routes (rtm_protocol, rtnetlink(7)); no routing daemon
// known to /etc/iproute2/rt_protos uses it.
const Protocol = 116

// Config says what is ours and where to look. The zero value of each field
// stands for what is written beside it.
type Config struct {
	NetNS         int            // file descriptor of a network namespace, kept open by the caller; 0: the process's own
	Protocol      int            // of our routes; 0: Protocol
	LinkPattern   *regexp.Regexp // of our VXLAN devices' names; nil: vxlan.DevicePattern
	SysctlRoot    string         // "": /proc/sys
	ReceiveBuffer int            // of the notification socket, bytes; 0: 32 MiB, some 80 000 notifications
}

// Kernel is one network namespace. Its methods may be called concurrently.
type Kernel struct {
	cfg    Config
	netns  netns.NsHandle
	socket *socket // for requests
	port   uint32  // of that
	listen func() (*socket, error)

	mu       sync.Mutex
	carriers map[int]bool // interfaces that a route of ours left by
}

// answerBuffer holds the errors of all requests of one send: the kernel
// reckons less than 1 KiB for each, and doubles the size that it is given.
const answerBuffer = batchSize << 10

// New opens the request socket and starts nothing.
func New(cfg Config) (*Kernel, error) {
	if cfg.Protocol == 0 {
		cfg.Protocol = Protocol
	}
	if cfg.LinkPattern == nil {
		cfg.LinkPattern = vxlan.DevicePattern
	}
	if cfg.SysctlRoot == "" {
		cfg.SysctlRoot = "/proc/sys"
	}
	if cfg.ReceiveBuffer == 0 {
		cfg.ReceiveBuffer = 32 << 20
	}
	k := &Kernel{cfg: cfg, netns: netns.None(), carriers: map[int]bool{}}
	if cfg.NetNS != 0 {
		k.netns = netns.NsHandle(cfg.NetNS)
	}
	k.listen = k.subscribe
	s, err := k.open(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return nil, err
	}
	err = s.set(func(fd int) error {
		// The kernel's own words in errors and without the request (since 4.12),
		// and dumps that it filters (since 4.20). Older ones do without: the
		// decoders filter again.
		for _, option := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
			_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, option, 1)
		}
		// The kernel answers at once, or when it has its RTNL lock.
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, answerBuffer),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60}))
	})
	if err == nil {
		k.port, err = s.portID()
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("setting up a netlink socket: %w", err)
	}
	k.socket = s
	return k, nil
}

// Close closes the request socket. A running Watch has its own.
func (k *Kernel) Close() error {
	k.socket.close()
	return nil
}

// do makes one change and returns the kernel's answer.
func (k *Kernel) do(m *messages) error {
	m.flag(unix.NLM_F_ACK)
	var refused error
	err := k.socket.ask(m, func(_ int, answer message) { refused = answer.err() })
	return cmp.Or(err, refused)
}

// get returns the messages of one kind by which the kernel answers a request.
func (k *Kernel) get(m *messages, kind uint16) (all [][]byte, err error) {
	m.flag(unix.NLM_F_ACK) // so that also an answer of no message has an end
	var refused error
	err = k.socket.ask(m, func(_ int, answer message) {
		switch answer.typ {
		case kind:
			all = append(all, bytes.Clone(answer.data))
		case unix.NLMSG_ERROR:
			refused = answer.err()
		}
	})
	return all, cmp.Or(err, refused)
}

// dumpAttempts bounds the repetitions of a dump that was overtaken by a
// change. One takes milliseconds, so this many in a row mean a storm.
const dumpAttempts = 10

// dump returns what decode makes of each message of one kind; decode says
// false to leave a message out, and must keep nothing of it. The result of a
// dump that the kernel calls interrupted (NLM_F_DUMP_INTR) may lack entries and
// is never used.
func dump[T any](ctx context.Context, k *Kernel, m *messages, kind uint16, decode func([]byte) (T, bool, error)) ([]T, error) {
	m.flag(unix.NLM_F_DUMP)
	var all []T
	return settled(ctx, func() ([]T, error) {
		all = all[:0]
		var bad, interrupted error
		err := k.socket.ask(m, func(_ int, answer message) {
			if answer.flags&unix.NLM_F_DUMP_INTR != 0 {
				interrupted = netlink.ErrDumpInterrupted
			}
			switch answer.typ {
			case kind:
				if t, ok, err := decode(answer.data); err != nil {
					bad = err
				} else if ok {
					all = append(all, t)
				}
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				bad = errors.Join(bad, answer.err())
			}
		})
		return all, errors.Join(bad, interrupted, err)
	})
}

// settled repeats read until the kernel had nothing to change meanwhile.
func settled[T any](ctx context.Context, read func() ([]T, error)) ([]T, error) {
	for range dumpAttempts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		all, err := read()
		if err == nil {
			return all, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("changed during each of %d dumps: %w", dumpAttempts, netlink.ErrDumpInterrupted)
}
