package kernel

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Protocol marks our routes (rtm_protocol, rtnetlink(7)); no routing daemon
// known to /etc/iproute2/rt_protos uses it.
const Protocol = 116

// Config says what is ours and where to look. The zero value of each field
// stands for what is written beside it.
type Config struct {
	NetNS         int            // file descriptor of a network namespace, kept open by the caller; 0: the process's own
	Protocol      int            // of our routes; 0: Protocol
	LinkPattern   *regexp.Regexp // of our VXLAN devices' names; nil: ^twill(-v6)?\.[0-9]+$
	SysctlRoot    string         // "": /proc/sys
	ReceiveBuffer int            // of the notification socket, bytes; 0: 32 MiB, some 80 000 notifications
}

// Kernel is one network namespace. Its methods may be called concurrently.
type Kernel struct {
	cfg     Config
	netns   netns.NsHandle
	sockets map[int]*nl.SocketHandle // the one request socket, in the form that nl takes
	listen  func() (*nl.NetlinkSocket, error)
}

// New opens the request socket and starts nothing.
func New(cfg Config) (*Kernel, error) {
	if cfg.Protocol == 0 {
		cfg.Protocol = Protocol
	}
	if cfg.LinkPattern == nil {
		cfg.LinkPattern = regexp.MustCompile(`^twill(-v6)?\.[0-9]+$`)
	}
	if cfg.SysctlRoot == "" {
		cfg.SysctlRoot = "/proc/sys"
	}
	if cfg.ReceiveBuffer == 0 {
		cfg.ReceiveBuffer = 32 << 20
	}
	k := &Kernel{cfg: cfg, netns: netns.None()}
	if cfg.NetNS != 0 {
		k.netns = netns.NsHandle(cfg.NetNS)
	}
	k.listen = k.subscribe
	s, err := nl.GetNetlinkSocketAt(k.netns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	// The kernel's own words in errors (since 4.12), and dumps that it filters
	// (since 4.20). Older ones do without: the decoders filter again.
	_ = s.SetExtAck(true)
	_ = unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	// The kernel answers at once, or when it has its RTNL lock.
	if err := s.SetReceiveTimeout(&unix.Timeval{Sec: 60}); err != nil {
		s.Close()
		return nil, fmt.Errorf("setting the timeout of a netlink socket: %w", err)
	}
	k.sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
	return k, nil
}

// Close closes the request socket. A running Watch has its own.
func (k *Kernel) Close() error {
	for _, s := range k.sockets {
		s.Close()
	}
	return nil
}

// request is one message to the kernel.
func request(typ, flags int, data ...nl.NetlinkRequestData) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(typ, flags)
	for _, d := range data {
		req.AddData(d)
	}
	return req
}

// do sends a change and waits for its acknowledgement.
func (k *Kernel) do(req *nl.NetlinkRequest) error {
	req.Flags |= unix.NLM_F_ACK
	req.Sockets = k.sockets
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// dumpAttempts bounds the repetitions of a dump that was overtaken by a
// change. One takes milliseconds, so this many in a row mean a storm.
const dumpAttempts = 10

// dump returns what decode makes of each message of one kind; decode says
// false to leave a message out. The result of a dump that the kernel
// calls interrupted (NLM_F_DUMP_INTR) may lack entries and is never used.
func dump[T any](ctx context.Context, k *Kernel, req *nl.NetlinkRequest, answer uint16, decode func([]byte) (T, bool, error)) ([]T, error) {
	req.Flags |= unix.NLM_F_DUMP
	req.Sockets = k.sockets
	return settled(ctx, func() (all []T, err error) {
		var bad error
		err = req.ExecuteIter(unix.NETLINK_ROUTE, answer, func(msg []byte) bool {
			t, ok, err := decode(msg)
			if err != nil {
				bad = err
			} else if ok {
				all = append(all, t)
			}
			return bad == nil
		})
		return all, errors.Join(bad, err)
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
