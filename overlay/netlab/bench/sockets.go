package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// wire is one thread on CPU 0 which holds the sockets of both ends, each in its
// network namespace: closed-loop tests on one CPU are steady where tests on two
// swing with the scheduler. Both directions, softirqs included, run on it.
type wire struct {
	netns  [2]string // client's and server's
	server netip.Addr
}

// test is one closed-loop test. It returns what one second does: round trips,
// datagrams, connections or bytes.
type test struct {
	name, unit string
	better     string // higher or lower
	run        func(w wire, d time.Duration) (value float64, err error)
}

var tests = []test{
	{"tcprr1", "µs", "lower", func(w wire, d time.Duration) (float64, error) { return w.roundTrips(unix.SOCK_STREAM, d) }},
	{"udprr1", "µs", "lower", func(w wire, d time.Duration) (float64, error) { return w.roundTrips(unix.SOCK_DGRAM, d) }},
	{"udpburst", "packets/s", "higher", wire.burst},
	{"tcp1s", "Gb/s", "higher", wire.stream},
	{"crr1", "connections/s", "higher", wire.connections},
}

// onCPU0 calls f on a thread of its own, which is bound to CPU 0 and ends with
// it.
func onCPU0(f func() (float64, error)) (float64, error) {
	type result struct {
		value float64
		err   error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: it may be left in another namespace
		var set unix.CPUSet
		set.Set(0)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			done <- result{err: err}
			return
		}
		value, err := f()
		done <- result{value, err}
	}()
	r := <-done
	return r.value, r.err
}

// socket opens a socket in the namespace of one end.
func (w wire) socket(end, kind int) (int, error) {
	ns, err := os.Open(w.netns[end])
	if err != nil {
		return -1, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return -1, fmt.Errorf("entering %s: %w", w.netns[end], err)
	}
	s, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// Nothing is waited for longer: a lost packet is an error, not a hang.
	err = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	return s, err
}

const wirePort = 7700

// listen opens the server's socket.
func (w wire) listen(kind int) (int, error) {
	s, err := w.socket(1, kind)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(s, &unix.SockaddrInet4{Port: wirePort})
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(s, 16)
	}
	return s, err
}

func (w wire) connect(kind int) (int, error) {
	s, err := w.socket(0, kind)
	if err != nil {
		return -1, err
	}
	return s, unix.Connect(s, &unix.SockaddrInet4{Port: wirePort, Addr: w.server.As4()})
}

// pipe returns the connected sockets of both ends.
func (w wire) pipe(kind int) (client, server int, closeAll func(), err error) {
	l, err := w.listen(kind)
	if err != nil {
		return 0, 0, nil, err
	}
	client, err = w.connect(kind)
	if err != nil {
		unix.Close(l)
		return 0, 0, nil, fmt.Errorf("connecting to %s: %w", w.server, err)
	}
	server = l
	if kind == unix.SOCK_STREAM {
		server, _, err = unix.Accept(l)
		unix.Close(l)
		if err == nil {
			err = unix.SetsockoptInt(server, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		}
	} else {
		err = w.join(client, l)
	}
	return client, server, func() { unix.Close(client); unix.Close(server) }, err
}

// join connects the server's UDP socket to the client.
func (w wire) join(client, server int) error {
	if _, err := unix.Write(client, []byte{0}); err != nil {
		return err
	}
	_, from, err := unix.Recvfrom(server, make([]byte, 1), 0)
	if err != nil {
		return err
	}
	return unix.Connect(server, from)
}

// roundTrips returns the median time of one byte there and one back, µs.
func (w wire) roundTrips(kind int, d time.Duration) (float64, error) {
	client, server, closeAll, err := w.pipe(kind)
	if err != nil {
		return 0, err
	}
	defer closeAll()
	one := make([]byte, 1)
	var took []float64
	for end := now() + int64(d); ; {
		from := now()
		for _, step := range []struct {
			f func(int, []byte) (int, error)
			s int
		}{{unix.Write, client}, {unix.Read, server}, {unix.Write, server}, {unix.Read, client}} {
			if _, err := step.f(step.s, one); err != nil {
				return 0, err
			}
		}
		to := now()
		took = append(took, float64(to-from)/1000)
		if to > end {
			return median(took), nil
		}
	}
}

// burst sends 64 datagrams, then takes 64; datagrams per second.
func (w wire) burst(d time.Duration) (float64, error) {
	client, server, closeAll, err := w.pipe(unix.SOCK_DGRAM)
	if err != nil {
		return 0, err
	}
	defer closeAll()
	one := make([]byte, 1)
	from, n := now(), 0
	for now() < from+int64(d) {
		for range 64 {
			if _, err := unix.Write(client, one); err != nil {
				return 0, err
			}
		}
		for range 64 {
			if _, err := unix.Read(server, one); err != nil {
				return 0, fmt.Errorf("taking the datagrams that were sent: %w", err)
			}
			n++
		}
	}
	return float64(n) / (float64(now()-from) / 1e9), nil
}

// stream sends as much as the socket takes, then takes it all; Gb/s.
func (w wire) stream(d time.Duration) (float64, error) {
	client, server, closeAll, err := w.pipe(unix.SOCK_STREAM)
	if err != nil {
		return 0, err
	}
	defer closeAll()
	buffer := make([]byte, 128<<10)
	from, total := now(), 0
	for now() < from+int64(d) {
		n, err := unix.SendmsgN(client, buffer, nil, nil, unix.MSG_DONTWAIT)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return 0, err
		}
		for n > 0 || err != nil {
			got, _, recvErr := unix.Recvfrom(server, buffer, unix.MSG_DONTWAIT)
			if recvErr != nil {
				break // what is on the way comes with the next
			}
			total += got
			n -= got
			err = nil
		}
	}
	return float64(total) * 8 / float64(now()-from), nil
}

// connections connects, sends one byte and closes; per second.
func (w wire) connections(d time.Duration) (float64, error) {
	l, err := w.listen(unix.SOCK_STREAM)
	if err != nil {
		return 0, err
	}
	defer unix.Close(l)
	from, n := now(), 0
	for now() < from+int64(d) {
		if err := w.connection(l); err != nil {
			return 0, err
		}
		n++
	}
	return float64(n) / (float64(now()-from) / 1e9), nil
}

func (w wire) connection(l int) error {
	client, err := w.connect(unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	defer unix.Close(client)
	server, _, err := unix.Accept(l)
	if err != nil {
		return err
	}
	defer unix.Close(server)
	one := make([]byte, 1)
	if _, err := unix.Write(client, one); err != nil {
		return err
	}
	if _, err := unix.Read(server, one); err != nil {
		return err
	}
	// A reset, so that no port is kept for a minute (TIME-WAIT).
	return unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
