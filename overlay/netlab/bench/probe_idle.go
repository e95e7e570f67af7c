package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuClock returns the CPU time of a process, user and system, of all threads
// it ever had, in nanoseconds; the utime and stime of /proc count ticks of 10 ms.
func cpuClock(pid int) (time.Duration, error) {
	// What clock_getcpuclockid(3) returns: MAKE_PROCESS_CPUCLOCK and CPUCLOCK_SCHED
	// of include/linux/posix-timers.h.
	id := int32(^pid<<3 | 2)
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0, fmt.Errorf("reading the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// LeaveArgs asks to leave a process alone.
type LeaveArgs struct {
	PID int
	For time.Duration
}

// Left is what it took meanwhile.
type Left struct {
	CPU     []float64 // ms, its children apart, a value for each second
	Wakeups int       // voluntary context switches of all threads
}

// Leave looks at a process every second and does nothing else.
func (p *probe) Leave(a LeaveArgs, l *Left) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	wakeups, err := switches(a.PID)
	if err != nil {
		return err
	}
	before, err := cpuClock(a.PID)
	for range int(a.For.Seconds()) {
		if err != nil {
			return err
		}
		select {
		case <-p.ctx.Done():
			return p.ctx.Err()
		case <-t.C:
		}
		var after time.Duration
		after, err = cpuClock(a.PID)
		l.CPU = append(l.CPU, float64(after-before)/1e6)
		before = after
	}
	if err != nil {
		return err
	}
	after, err := switches(a.PID)
	l.Wakeups = after - wakeups
	return err
}

func switches(pid int) (sum int, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, err
	}
	for _, file := range threads {
		status, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		for line := range strings.Lines(string(status)) {
			var n int
			if _, err := fmt.Sscanf(line, "voluntary_ctxt_switches: %d", &n); err == nil {
				sum += n
			}
		}
	}
	return sum, nil
}
