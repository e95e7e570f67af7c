package netlab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twill-net/twill/subnet"
)

// headers is what an ICMP echo adds to its payload: IP header and ICMP header.
var headers = subnet.PerFamily[int]{20 + 8, 40 + 8}

// Ping sends one echo request whose IP packet is size bytes long (0: 84 or
// 104, ping's default), with fragmentation forbidden on the way and at the
// sender (IP_PMTUDISC_DO), and returns the round-trip time. No answer within
// two seconds is an error, and so is "message too long".
func (h *Host) Ping(ctx context.Context, to netip.Addr, size int) (time.Duration, error) {
	payload := 56
	if size > 0 {
		payload = size - headers[subnet.FamilyOf(to)]
	}
	out, err := h.Exec(ctx, "ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", strconv.Itoa(payload), to.String())
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	_, after, _ := strings.Cut(out, " time=")
	ms, _, _ := strings.Cut(after, " ms")
	rtt, err := strconv.ParseFloat(ms, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the output of ping: %q has no time", out)
	}
	return time.Duration(rtt * float64(time.Millisecond)), nil
}

// MTU returns the MTU of one of the host's links.
func (h *Host) MTU(ctx context.Context, link string) (int, error) {
	out, err := h.Exec(ctx, "ip", "-o", "link", "show", "dev", link)
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(out, " mtu ")
	mtu, _, _ := strings.Cut(after, " ")
	return strconv.Atoi(mtu)
}

// Flow is a ping that goes on, to count what a fault costs.
type Flow struct {
	host *Host
	cmd  *exec.Cmd
	done chan struct{}

	mu       sync.Mutex
	received int
	answers  []time.Time   // when each was read, by sequence number; zero: not yet
	lastAt   time.Time     // when one was read
	gap      time.Duration // longest time between two answers
	waiters  []flowWaiter
	summary  string
}

type flowWaiter struct {
	at    int
	reach chan struct{}
}

// Loss is what a Flow counted.
type Loss struct {
	Sent, Received int
	LongestGap     time.Duration // between two answers, as they were read
	Missing        []Missing
}

// Missing is a request without an answer.
type Missing struct {
	Seq   int       // counted from 1
	After time.Time // when the last answer before was read; zero: none was
}

func (m Missing) String() string {
	return fmt.Sprintf("%d (after %s)", m.Seq, m.After.Format("15:04:05.000"))
}

// Lost returns the number of requests without an answer.
func (l Loss) Lost() int { return l.Sent - l.Received }

// PingContinuously sends an echo request every interval (2 ms or more) until
// the flow is stopped or the host ends.
func (h *Host) PingContinuously(ctx context.Context, to netip.Addr, interval time.Duration) (*Flow, error) {
	every := strconv.FormatFloat(interval.Seconds(), 'f', 3, 64)
	cmd := h.command(ctx, "ping", "-n", "-i", every, "-W", "1", to.String())
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	f := &Flow{host: h, cmd: cmd, done: make(chan struct{})}
	h.lab.running.Go(func() {
		defer close(f.done)
		f.read(out)
		_ = cmd.Wait() // 1 when an answer is missing: that is counted
	})
	return f, nil
}

// read takes ping's output: a line "… icmp_seq=17 ttl=62 time=0.08 ms" for each
// answer and at the end "400 packets transmitted, 398 received, …".
func (f *Flow) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		if strings.Contains(line, "packets transmitted") {
			f.mu.Lock()
			f.summary = line
			f.mu.Unlock()
		}
		_, after, ok := strings.Cut(line, " icmp_seq=")
		if !ok || !strings.Contains(line, " time=") || strings.Contains(line, "DUP!") {
			continue
		}
		number, _, _ := strings.Cut(after, " ")
		if seq, err := strconv.Atoi(number); err == nil {
			f.answered(seq, time.Now())
		}
	}
}

func (f *Flow) answered(seq int, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.received > 0 {
		f.gap = max(f.gap, now.Sub(f.lastAt))
	}
	f.received++
	f.lastAt = now
	for seq < len(f.answers)-1<<15 { // 16 bits on the wire
		seq += 1 << 16
	}
	f.answers = append(f.answers, make([]time.Time, max(0, seq+1-len(f.answers)))...)
	f.answers[seq] = now
	waiting := f.waiters[:0]
	for _, w := range f.waiters {
		if f.received >= w.at {
			close(w.reach)
		} else {
			waiting = append(waiting, w)
		}
	}
	f.waiters = waiting
}

// Await waits until n more requests have been answered: that traffic flows, or
// flows again.
func (f *Flow) Await(ctx context.Context, n int) error {
	f.mu.Lock()
	w := flowWaiter{f.received + n, make(chan struct{})}
	f.waiters = append(f.waiters, w)
	f.mu.Unlock()
	select {
	case <-w.reach:
		return nil
	case <-f.done:
		return errors.New("the ping has ended")
	case <-ctx.Done():
		return fmt.Errorf("waiting for %d answers to the ping from %s: %w", n, f.host.Name, ctx.Err())
	}
}

// onTheirWay is how many requests ping may have sent when the signal to end
// meets it, whose answers it no longer waits for: more than one where it had
// to wait for a processor.
const onTheirWay = 3

// Stop ends the flow and returns what it counted. Requests sent last, whose
// answers were still on their way, do not count.
func (f *Flow) Stop() (Loss, error) {
	if err := signalEntered(f.cmd.Process, syscall.SIGINT); err != nil {
		return Loss{}, fmt.Errorf("stopping the ping from %s: %w", f.host.Name, err)
	}
	<-f.done
	f.mu.Lock()
	defer f.mu.Unlock()
	sent, err := strconv.Atoi(strings.SplitN(f.summary, " ", 2)[0])
	if err != nil {
		return Loss{}, fmt.Errorf("reading ping's summary %q: %w", f.summary, err)
	}
	if last := max(0, len(f.answers)-1); sent-last <= onTheirWay {
		sent = last
	}
	return Loss{Sent: sent, Received: f.received, LongestGap: f.gap, Missing: f.missing(sent)}, nil
}

// missing lists the requests of the first n that have no answer.
func (f *Flow) missing(n int) (all []Missing) {
	var before time.Time
	for seq := 1; seq <= n; seq++ {
		if seq < len(f.answers) && !f.answers[seq].IsZero() {
			before = f.answers[seq]
			continue
		}
		all = append(all, Missing{seq, before})
	}
	return all
}
