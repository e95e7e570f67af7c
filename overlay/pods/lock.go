package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The lock of a network's directory is host-local's: flock(2), exclusive, on
// the file "lock" in it, made with this mode (host-local's backend/disk and
// alexflint/go-filemutex, which it uses). It ends with the process that has it.
const (
	lockFile = "lock"
	lockMode = 0o750
)

const lockPoll = 5 * time.Millisecond

// lock takes host-local's lock and waits for it until ctx is over. Closing the
// file gives it back.
func lock(ctx context.Context, root *os.Root) (*os.File, error) {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		f, err := tryLock(root)
		if f != nil || err != nil {
			return f, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for host-local's lock %s/%s: %w", root.Name(), lockFile, ctx.Err())
		}
	}
}

// tryLock returns nil when another has the lock, or when the file is not the
// one in the directory any more, which others would lock.
func tryLock(root *os.Root) (*os.File, error) {
	f, err := root.OpenFile(lockFile, os.O_RDONLY|os.O_CREATE, lockMode)
	if err != nil {
		return nil, fmt.Errorf("opening host-local's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
			return nil, nil
		}
		return nil, fmt.Errorf("taking host-local's lock %s/%s: %w", root.Name(), lockFile, err)
	}
	mine, err := f.Stat()
	if err == nil {
		if theirs, err := root.Stat(lockFile); err == nil && os.SameFile(mine, theirs) {
			return f, nil
		}
	}
	f.Close()
	return nil, err
}
