package chaos

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/subnet"
)

// flow is pings from one pod to another over one socket, each of which is
// accounted for: those every interval, and probes.
type flow struct {
	from, to *pod
	family   subnet.Family
	steady   bool // pings every interval; else only when probed
	conn     *net.IPConn
	raw      syscall.RawConn
	id       uint16
	reading  sync.WaitGroup

	mu   sync.Mutex
	seq  uint64
	sent map[uint64]*request
}

type request struct {
	at       time.Time
	size     int // of the IP packet
	answered bool
	unsent   error // why it has not left
}

func (r *request) String() string {
	switch {
	case r == nil:
		return "forgotten"
	case r.answered:
		return "answered"
	case r.unsent != nil:
		return fmt.Sprintf("not sent (%v)", r.unsent)
	}
	return "lost"
}

// interval is the time between two pings of a steady flow.
const interval = 10 * time.Millisecond

// small is the size of a steady flow's packets; headers are IP's and ICMP's.
const small = 84

var headers = subnet.PerFamily[int]{20 + 8, 40 + 8}

func newFlow(ctx context.Context, from, to *pod, f subnet.Family, id uint16, steady bool) (*flow, error) {
	network := subnet.PerFamily[string]{"ip4:icmp", "ip6:ipv6-icmp"}[f]
	conn, err := from.DialContext(ctx, network, to.Addrs[f].String())
	if err != nil {
		return nil, fmt.Errorf("opening a socket on %s to %s: %w", from.Name, to.Name, err)
	}
	fl := &flow{from: from, to: to, family: f, steady: steady, conn: conn.(*net.IPConn), id: id, sent: map[uint64]*request{}}
	if fl.raw, err = fl.conn.SyscallConn(); err == nil {
		err = fl.forbidFragments()
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	fl.reading.Go(fl.read)
	return fl, nil
}

// forbidFragments sets "don't fragment" and has the kernel go by the link's
// MTU, not by a path MTU that an earlier fault has taught it (ip(7), ipv6(7)).
func (fl *flow) forbidFragments() (err error) {
	level, option, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	if fl.family == subnet.IPv6 {
		level, option, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	}
	if e := fl.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, value) }); e != nil {
		return e
	}
	return err
}

func (fl *flow) String() string {
	return fmt.Sprintf("%s to %s (%s)", fl.from.Name, fl.to.Name, fl.family)
}

func (fl *flow) close() {
	fl.conn.Close()
	fl.reading.Wait()
}

// send sends one request; what cannot be sent counts as lost.
func (fl *flow) send(size int) (seq uint64) {
	r := &request{at: time.Now(), size: size}
	fl.mu.Lock()
	fl.seq++
	seq = fl.seq
	fl.sent[seq] = r
	fl.mu.Unlock()
	message := fl.message(seq, size)
	var err error
	if e := fl.raw.Write(func(fd uintptr) bool { err = unix.Send(int(fd), message, unix.MSG_DONTWAIT); return true }); e != nil {
		err = e
	}
	if err != nil {
		fl.mu.Lock()
		r.unsent = err
		fl.mu.Unlock()
	}
	return seq
}

// Of RFC 792 and RFC 4443.
const (
	echoReply4, echo4 = 0, 8
	echo6, echoReply6 = 128, 129
)

// message is an echo request whose payload begins with its number.
func (fl *flow) message(seq uint64, size int) []byte {
	m := make([]byte, size-headers[fl.family]+8)
	m[0] = echo4
	if fl.family == subnet.IPv6 {
		m[0] = echo6 // the kernel fills in the checksum
	}
	binary.BigEndian.PutUint16(m[4:], fl.id)
	binary.BigEndian.PutUint16(m[6:], uint16(seq))
	binary.BigEndian.PutUint64(m[8:], seq)
	if fl.family == subnet.IPv4 {
		binary.BigEndian.PutUint16(m[2:], checksum(m))
	}
	return m
}

// checksum is the Internet checksum (RFC 1071) of a message of even length.
func checksum(m []byte) uint16 {
	var sum uint32
	for ; len(m) > 1; m = m[2:] {
		sum += uint32(binary.BigEndian.Uint16(m))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func (fl *flow) read() {
	reply := subnet.PerFamily[byte]{echoReply4, echoReply6}[fl.family]
	buffer := make([]byte, 2048)
	for {
		n, _, err := fl.conn.ReadFromIP(buffer) // without the IP header
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // what an ICMP error has left on the socket
			continue
		}
		m := buffer[:n]
		if n < 16 || m[0] != reply || binary.BigEndian.Uint16(m[4:]) != fl.id {
			continue
		}
		fl.mu.Lock()
		if r := fl.sent[binary.BigEndian.Uint64(m[8:])]; r != nil {
			r.answered = true
		}
		fl.mu.Unlock()
	}
}

func (fl *flow) answered(seq uint64) bool {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return fl.sent[seq] != nil && fl.sent[seq].answered
}

// probe sends a small and a full-size request and waits for the answers.
func (fl *flow) probe(ctx context.Context) error {
	full := min(fl.from.mtu, fl.to.mtu)
	seqs := []uint64{fl.send(small + 20), fl.send(full)}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := poll(ctx, 5*time.Millisecond, func() error {
		if !fl.answered(seqs[0]) || !fl.answered(seqs[1]) {
			return errors.New("no answer")
		}
		return nil
	})
	if err == nil {
		return nil
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return fmt.Errorf("%s: small %s, full size (%d) %s", fl, fl.sent[seqs[0]], full, fl.sent[seqs[1]])
}

// loss tells of the steady requests sent in a span of time.
type loss struct {
	sent, lost  int
	first, last time.Time // when lost ones were sent
	unsent      error     // why one of them has not left
}

func (fl *flow) loss(since, until time.Time) (l loss) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for _, r := range fl.sent {
		if r.size != small || r.at.Before(since) || r.at.After(until) {
			continue
		}
		l.sent++
		if r.answered {
			continue
		}
		l.lost++
		l.unsent = cmp.Or(l.unsent, r.unsent)
		if l.first.IsZero() || r.at.Before(l.first) {
			l.first = r.at
		}
		if r.at.After(l.last) {
			l.last = r.at
		}
	}
	return l
}

// pending reports whether an answer to what was sent in the last second before
// until may still be on its way.
func (fl *flow) pending(until time.Time) bool {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for _, r := range fl.sent {
		if !r.answered && r.at.Before(until) && until.Sub(r.at) < time.Second {
			return true
		}
	}
	return false
}

// forget drops what was sent before a time.
func (fl *flow) forget(before time.Time) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for seq, r := range fl.sent {
		if r.at.Before(before) {
			delete(fl.sent, seq)
		}
	}
}
