package nfnetlink

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// readAttempts bounds how often a reading is begun anew because the ruleset
// changed in the middle of it.
const readAttempts = 20

// Read repeats a reading, on one socket in a network namespace (a file
// descriptor; 0: the calling thread's), until the ruleset's generation is the
// same before and after it. What read returns is forgotten if it is begun anew.
func Read(ctx context.Context, netns int, read func(*netlink.Conn) error) error {
	conn, err := Dial(ctx, netns)
	if err != nil {
		return err
	}
	return errors.Join(ReadOn(ctx, conn, read), conn.Close())
}

// ReadOn is Read on a socket that is open.
func ReadOn(ctx context.Context, conn *netlink.Conn, read func(*netlink.Conn) error) error {
	return stable(ctx, func() (uint32, error) { return Generation(conn) }, func() error { return read(conn) })
}

// stable is Read, with the generation as asked for.
func stable(ctx context.Context, generation func() (uint32, error), read func() error) error {
	before, err := generation()
	if err != nil {
		return err
	}
	for range readAttempts {
		failed := read()
		if failed != nil && !errors.Is(failed, unix.ENOENT) && !errors.Is(failed, unix.EINTR) {
			return failed
		}
		after, err := generation()
		if err != nil {
			return err
		}
		if before == after {
			return failed
		}
		before = after // what was listed first may be gone by now, hence ENOENT
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return fmt.Errorf("the ruleset changed %d times while it was read; "+
		"find who writes to nftables all the time (`nft monitor`), and try again", readAttempts)
}

// Absent reports whether an error of Dial or Generation says that the kernel
// has no netfilter netlink, or no nf_tables in it (nfnetlink_rcv_msg).
func Absent(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

// Advice says what to do about an error of the kernel, or nothing. A
// requirement says what the kernel must have.
func Advice(err error, requirement string) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "; this needs CAP_NET_ADMIN, and a table that no other program owns (nft's flag owner)"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT):
		return "; " + requirement
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return "; the host is short of memory or of socket buffer (net.core.wmem_max, net.core.rmem_max)"
	}
	return ""
}
