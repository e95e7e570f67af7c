package kernel

import (
	"context"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// OnListen has f see each notification socket that Watch opens.
func (k *Kernel) OnListen(f func(close func())) {
	k.listen = func() (*socket, error) {
		s, err := k.subscribe()
		if err == nil {
			f(s.close)
		}
		return s, err
	}
}

// BatchSize is how many changes share a send.
const BatchSize = batchSize

// LimitAnswers has the request socket hold a few answers only.
func (k *Kernel) LimitAnswers() error {
	return k.socket.set(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10) })
}

// Settled is settled, for one type.
func Settled(ctx context.Context, read func() ([]int, error)) ([]int, error) {
	return settled(ctx, read)
}

// DumpAttempts is the bound of Settled.
const DumpAttempts = dumpAttempts

// ErrInterrupted marks a dump during which the kernel changed.
var ErrInterrupted error = nl.ErrDumpInterrupted
