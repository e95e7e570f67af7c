package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// identity names one process for good: PIDs are re-used, a PID with its start
// time is not (until the machine reboots, and then /run is empty).
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot; proc_pid_stat(5), field 22
}

func identify(pid int) (identity, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return identity{}, err
	}
	// The second field, in parentheses, may contain blanks and parentheses.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const startTime = 22 - 3
	if len(fields) <= startTime {
		return identity{}, fmt.Errorf("reading /proc/%d/stat: %q has no start time", pid, stat)
	}
	if state := fields[0][0]; state == 'Z' || state == 'X' {
		return identity{}, fmt.Errorf("process %d has ended", pid)
	}
	start, err := strconv.ParseUint(string(fields[startTime]), 10, 64)
	return identity{pid, start}, err
}

func (id identity) alive() bool {
	now, err := identify(id.PID)
	return err == nil && now == id
}

// kill ends the process and returns when it is gone. A process that is gone
// already, even if its PID is another's now, is no error.
func (id identity) kill(ctx context.Context) error {
	if id.PID == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening process %d: %w", id.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !id.alive() { // checked with the pidfd open: it refers to this process from now on
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing process %d: %w", id.PID, err)
	}
	for ctx.Err() == nil {
		// Readable once the process has ended; pidfd_open(2).
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return err
		}
	}
	return fmt.Errorf("waiting for the end of process %d: %w", id.PID, ctx.Err())
}

// poll calls check until it returns true, an error, or ctx is done.
func poll(ctx context.Context, every time.Duration, check func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if done, err := check(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
