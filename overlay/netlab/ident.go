package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
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
	stat, err := readStat(pid)
	if err != nil {
		return identity{}, err
	}
	if state := stat[0]; state == "Z" || state == "X" {
		return identity{}, fmt.Errorf("process %d has ended", pid)
	}
	start, err := strconv.ParseUint(stat[startTime], 10, 64)
	return identity{pid, start}, err
}

// startTime is the index of field 22 in what readStat returns.
const startTime = 22 - 3

// readStat returns the fields of /proc/PID/stat from the third, the state, on;
// proc_pid_stat(5).
func readStat(pid int) ([]string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// The second field, in parentheses, may contain blanks and parentheses.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= startTime {
		return nil, fmt.Errorf("reading /proc/%d/stat: %q has no start time", pid, stat)
	}
	return fields, nil
}

// stopped reports whether a process is, by a signal.
func stopped(pid int) (bool, error) {
	stat, err := readStat(pid)
	return err == nil && stat[0] == "T", err
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
