package kernel_test

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// A new local address is the source of the very next outer packet, also where
// the kernel remembers how it sent the last one, and no old address goes away
// to remind it.
func TestOuterSourceFollows(t *testing.T) {
	t.Parallel()
	for _, f := range subnet.Families {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			public := map[subnet.Family]netip.Addr{subnet.IPv4: addr("192.0.2.77"), subnet.IPv6: addr("2001:db8::77")}[f]
			objects := append(own(f), peer(f, 1)...)
			objects[3] = backend.FDB{Link: link(f).Name, MAC: mac(1001), Dst: public}
			state := backend.NewState(objects...)
			ns.reach(state)
			ns.run("ip neigh add " + public.String() + " lladdr 02:00:00:00:00:77 nud permanent dev eth0")
			to := objects[4].(backend.Route).Dst.Addr().Next()

			l := link(f)
			for range 3 {
				for range 2 {
					require.Equal(t, l.Local, ns.outerSource(to), "the source of a packet to the peer")
				}
				l.Local = map[bool]netip.Addr{true: link(f).Local.Next(), false: link(f).Local}[l.Local == link(f).Local]
				state[l.Key()] = l
				ns.reach(state)
			}
		})
	}
}

// outerSource sends a packet to an address behind the tunnel, always on one
// CPU, and returns the source of the outer packet that comes out of eth0.
func (ns *namespace) outerSource(to netip.Addr) netip.Addr {
	ns.t.Helper()
	type result struct {
		src netip.Addr
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		src, err := sendAndSniff(ns.fd, to)
		done <- result{src, err}
	}()
	r := <-done
	require.NoError(ns.t, r.err)
	return r.src
}

// sendAndSniff must run in a thread that may be spoilt.
func sendAndSniff(fd int, to netip.Addr) (netip.Addr, error) {
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return netip.Addr{}, err
	}
	var cpus, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return netip.Addr{}, err
	}
	for cpu := range 1024 {
		if cpus.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return netip.Addr{}, err
	}
	sniffer, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer unix.Close(sniffer)
	if err := unix.SetsockoptTimeval(sniffer, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60}); err != nil {
		return netip.Addr{}, err
	}
	if err := send(to); err != nil {
		return netip.Addr{}, err
	}
	packet := make([]byte, 2000)
	for {
		n, _, err := unix.Recvfrom(sniffer, packet, 0)
		if err != nil {
			return netip.Addr{}, err
		}
		if src, ok := vxlanSource(packet[:n]); ok {
			return src, nil
		}
	}
}

// send sends an empty UDP packet from this thread.
func send(to netip.Addr) error {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: 9, Addr: to.As16()})
	if to.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: 9, Addr: to.As4()}
	}
	s, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	return unix.Sendto(s, nil, 0, sa)
}

// vxlanSource returns the source of an IP packet to the port of VXLAN.
func vxlanSource(p []byte) (netip.Addr, bool) {
	header, src := 20, 12
	if len(p) > 0 && p[0]>>4 == 6 {
		header, src = 40, 8
	}
	if len(p) < header+8 || binary.BigEndian.Uint16(p[header+2:]) != 8472 {
		return netip.Addr{}, false
	}
	end := src + 4
	if header == 40 {
		end = src + 16
	}
	return netip.AddrFromSlice(p[src:end])
}

func htons(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}
