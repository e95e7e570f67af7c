package kernel

import (
	"encoding/binary"
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

func writeBatched(b *testing.B, peers int) error {
	out, err := exec.Command("sh", "-c", `ip link set lo up && ip link add eth0 type veth peer name far && ip link set far up &&
		ip link set eth0 up && ip address add 192.0.2.1/24 dev eth0`).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	k, err := New(Config{})
	if err != nil {
		return err
	}
	defer k.Close()
	link := backend.Link{
		Name: "twill.1", MTU: 1450, MAC: subnet.MAC{2, 1}, Up: true, Parent: "eth0",
		Local: netip.MustParseAddr("192.0.2.1"), VXLAN: backend.VXLAN{VNI: 1, Port: 8472},
	}
	if err := k.Apply(b.Context(), []backend.Change{{Want: link}})[0]; err != nil {
		return err
	}
	d, err := k.device(byName(link.Name))
	if err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	batches := k.batches(d.index, peers)
	b.StartTimer()
	defer b.StopTimer()
	return send(s, batches)
}

// batches returns the messages for the ways to peers, up to 32 KiB in each
// part, the last of which asks for an acknowledgement.
func (k *Kernel) batches(link, peers int) (all [][]byte) {
	var batch []byte
	last := 0
	end := func() {
		flags := batch[last+6:]
		binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
		all, batch = append(all, batch), nil
	}
	const replace = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	add := func(msg []byte) {
		if len(batch)+len(msg) > 32<<10 {
			end()
		}
		last = len(batch)
		batch = append(batch, msg...)
	}
	for i := range peers {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		mac := subnet.MAC{2, 2, 0, 0, byte(i >> 8), byte(i)}
		n := backend.Neighbor{Link: "twill.1", IP: p.Addr(), MAC: mac}
		add(request(unix.RTM_NEWNEIGH, replace, neighborMessage(n, link)...).Serialize())
		f := backend.FDB{Link: "twill.1", MAC: mac, Dst: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}
		add(request(unix.RTM_NEWNEIGH, replace, fdbMessage(f, link, 0)...).Serialize())
		r := backend.Route{Dst: p, Metric: backend.RouteMetric(p)}
		h, data := k.routeMessage(r, unix.RT_SCOPE_UNIVERSE)
		h.Type, h.Flags = unix.RTN_UNICAST, unix.RTNH_F_ONLINK
		data = append(data, hop{via: p.Addr(), link: link}.attributes()...)
		add(request(unix.RTM_NEWROUTE, replace, data...).Serialize())
	}
	end()
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
		if code := int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); code != 0 {
			return unix.Errno(-code)
		}
	}
	return nil
}
