package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// What the kernel itself needs for the ways to so many peers: messages that were
// made before, many in each send, over one socket, of which the last alone is
// acknowledged. It is the limit that overlay/netlab/bench compares with.
func BenchmarkOneSocket(b *testing.B) {
	for _, peers := range []int{100, 1000, 5000, 20000} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				var err error
				inFreshNetns(func() { err = writeBatched(b, peers) })
				require.NoError(b, err)
				b.StartTimer()
			}
		})
	}
}

// inFreshNetns calls f on a thread that ends with its network namespace.
func inFreshNetns(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f()
		}
	}()
	<-done
}

// withDevice makes the VXLAN device of a node in the thread's namespace.
func withDevice(ctx context.Context) (k *Kernel, d device, err error) {
	out, err := exec.Command("sh", "-c", `ip link set lo up && ip link add eth0 type veth peer name far && ip link set far up &&
		ip link set eth0 up && ip address add 192.0.2.1/24 dev eth0`).CombinedOutput()
	if err != nil {
		return nil, device{}, fmt.Errorf("%w: %s", err, out)
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, device{}, err
	}
	if k, err = New(Config{NetNS: fd}); err != nil {
		return nil, device{}, err
	}
	link := backend.Link{
		Name: "twill.1", MTU: 1450, MAC: subnet.MAC{2, 1}, Up: true, Parent: "eth0",
		Local: netip.MustParseAddr("192.0.2.1"), VXLAN: backend.VXLAN{VNI: 1, Port: 8472},
	}
	if err = k.Apply(ctx, []backend.Change{{Want: link}})[0]; err == nil {
		d, err = k.device(byName(link.Name))
	}
	if err != nil {
		k.Close()
		return nil, device{}, err
	}
	return k, d, nil
}

func writeBatched(b *testing.B, peers int) error {
	k, d, err := withDevice(b.Context())
	if err != nil {
		return err
	}
	defer unix.Close(int(k.netns))
	defer k.Close()
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	batches := batches(d.index, peers)
	b.StartTimer()
	defer b.StopTimer()
	return send(s, batches)
}

// batches returns the messages for the ways to peers, some 32 KiB in each part,
// the last of which asks for an acknowledgement.
func batches(link, peers int) (all [][]byte) {
	var m messages
	end := func() {
		m.flag(unix.NLM_F_ACK)
		all, m = append(all, m.buf), messages{}
	}
	const replace = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	for i := range peers {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		mac := subnet.MAC{2, 2, 0, 0, byte(i >> 8), byte(i)}
		m.neighbor(unix.RTM_NEWNEIGH, replace, backend.Neighbor{IP: p.Addr(), MAC: mac}, link)
		m.fdb(unix.RTM_NEWNEIGH, replace, backend.FDB{MAC: mac, Dst: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}, link, 0)
		h := unix.RtMsg{Protocol: Protocol, Type: unix.RTN_UNICAST, Flags: unix.RTNH_F_ONLINK}
		m.route(unix.RTM_NEWROUTE, replace, h, backend.Route{Dst: p, Metric: backend.RouteMetric(p)})
		m.hop(hop{via: p.Addr(), link: link})
		if len(m.buf) > 32<<10 {
			end()
		}
	}
	if m.count > 0 {
		end()
	}
	return all
}

// send writes batches, each after the acknowledgement of the one before. The
// first answer is that, or the error of a message.
func send(s int, batches [][]byte) error {
	answer := make([]byte, 64<<10)
	for _, batch := range batches {
		if err := unix.Sendto(s, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		n, _, err := unix.Recvfrom(s, answer, 0)
		if err != nil {
			return err
		}
		if n < unix.NLMSG_HDRLEN+4 {
			return fmt.Errorf("an answer of %d bytes", n)
		}
		if code := int32(native.Uint32(answer[unix.NLMSG_HDRLEN:])); code != 0 {
			return unix.Errno(-code)
		}
	}
	return nil
}
