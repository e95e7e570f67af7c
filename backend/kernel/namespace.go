package kernel

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inside runs f in our network namespace; f must not start goroutines. What
// /proc/sys/net shows depends on the namespace of the thread that opens it
// (proc(5)), so that it does not do to have a socket there.
func (k *Kernel) inside(f func() error) error {
	if k.netns == netns.None() {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and no other
		// goroutine finds itself in this namespace.
		runtime.LockOSThread()
		if err := unix.Setns(int(k.netns), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
