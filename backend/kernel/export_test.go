package kernel

import (
	"context"

	"github.com/vishvananda/netlink/nl"
)

// OnListen has f see each notification socket that Watch opens.
func (k *Kernel) OnListen(f func(close func())) {
	k.listen = func() (*nl.NetlinkSocket, error) {
		s, err := k.subscribe()
		if err == nil {
			f(s.Close)
		}
		return s, err
	}
}

// Settled is settled, for one type.
func Settled(ctx context.Context, read func() ([]int, error)) ([]int, error) {
	return settled(ctx, read)
}

// DumpAttempts is the bound of Settled.
const DumpAttempts = dumpAttempts

// ErrInterrupted marks a dump during which the kernel changed.
var ErrInterrupted error = nl.ErrDumpInterrupted
