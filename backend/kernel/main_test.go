package kernel_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/subnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// namespace is an anonymous network namespace: it ends with its descriptor,
// however the test ends. It has lo, and the pair eth0 and far, all up.
type namespace struct {
	t  *testing.T
	fd int
	*kernel.Kernel
}

// emptyNamespace has lo alone, which was never up.
func emptyNamespace(t *testing.T) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	ns := &namespace{t: t}
	opened := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			opened <- err
			return
		}
		var err error
		ns.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		opened <- err
	}()
	require.NoError(t, <-opened)
	t.Cleanup(func() { unix.Close(ns.fd) })
	return ns
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	ns := emptyNamespace(t)
	ns.run("echo 1 > /proc/sys/net/ipv6/conf/default/addr_gen_mode") // no link-local addresses that come later
	ns.run("ip link set lo up")
	ns.run("ip link add eth0 mtu 1500 type veth peer name far mtu 1500")
	ns.run("ip link set eth0 up")
	ns.run("ip link set far up")
	ns.run("ip address add 192.0.2.1/24 dev eth0")
	ns.run("ip address add 192.0.2.2/24 dev eth0")
	ns.run("ip address add 2001:db8::1/64 dev eth0 nodad")
	ns.run("ip address add 2001:db8::2/64 dev eth0 nodad")
	ns.Kernel = ns.kernel(kernel.Config{})
	return ns
}

// kernel returns a Kernel of the namespace.
func (ns *namespace) kernel(cfg kernel.Config) *kernel.Kernel {
	ns.t.Helper()
	cfg.NetNS = ns.fd
	k, err := kernel.New(cfg)
	require.NoError(ns.t, err)
	ns.t.Cleanup(func() { k.Close() })
	return k
}

// try runs a command in the namespace, as an operator would: the witness, and
// the one who interferes.
func (ns *namespace) try(command string) (string, error) {
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		out, err := exec.Command("/bin/sh", "-c", command).CombinedOutput()
		done <- result{out, err}
	}()
	r := <-done
	if r.err != nil {
		r.err = fmt.Errorf("%s: %w: %s", command, r.err, r.out)
	}
	return strings.TrimSpace(string(r.out)), r.err
}

func (ns *namespace) run(command string) string {
	ns.t.Helper()
	out, err := ns.try(command)
	require.NoError(ns.t, err)
	return out
}

// observe returns what carries our mark, and the sysctls named.
func (ns *namespace) observe(sysctls ...string) backend.State {
	ns.t.Helper()
	state, err := ns.Observe(ns.t.Context(), sysctls)
	require.NoError(ns.t, err)
	return state
}

// apply makes the changes, all of which must succeed.
func (ns *namespace) apply(changes ...backend.Change) {
	ns.t.Helper()
	for i, err := range ns.Apply(ns.t.Context(), changes) {
		require.NoError(ns.t, err, "%s", changes[i])
	}
}

// reach applies what leads to want and checks that the kernel has it.
func (ns *namespace) reach(want backend.State) {
	ns.t.Helper()
	ns.apply(backend.Diff(want, ns.observe())...)
	same(ns.t, want, ns.observe())
}

// same requires two equal states, and shows them as a person would read them.
func same(t *testing.T, want, have backend.State, why ...any) {
	t.Helper()
	lines := func(s backend.State) (lines []string) {
		for _, o := range s {
			lines = append(lines, o.String())
		}
		slices.Sort(lines)
		return lines
	}
	require.Equal(t, lines(want), lines(have), why...)
	require.True(t, maps.Equal(want, have), why...)
}

// put applies one object that may be there, as have.
func (ns *namespace) put(have, want backend.Object) error {
	ns.t.Helper()
	return ns.Apply(ns.t.Context(), []backend.Change{{Have: have, Want: want}})[0]
}

func (ns *namespace) delete(have backend.Object) error {
	ns.t.Helper()
	return ns.Apply(ns.t.Context(), []backend.Change{{Have: have}})[0]
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func mac(n int) subnet.MAC { return subnet.MAC{2, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)} }

// link returns the VXLAN device of this node, over IPv4 or IPv6.
func link(f subnet.Family) backend.Link {
	l := backend.Link{
		Name: "twill.1", MTU: 1450, MAC: mac(1), Up: true, Parent: "eth0", Local: addr("192.0.2.1"),
		VXLAN: backend.VXLAN{VNI: 1, Port: 8472},
	}
	if f == subnet.IPv6 {
		l.Name, l.MTU, l.Local = "twill-v6.1", 1430, addr("2001:db8::1")
	}
	return l
}

// own returns the device and its address.
func own(f subnet.Family) []backend.Object {
	l := link(f)
	a := prefix("10.244.0.0/32")
	if f == subnet.IPv6 {
		a = prefix("fd00:244::/128")
	}
	return []backend.Object{l, backend.Address{Link: l.Name, Prefix: a}}
}

// peer returns what leads to peer n, over the device of its family.
func peer(f subnet.Family, n int) []backend.Object {
	dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)
	public := netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)})
	metric := uint32(0)
	if f == subnet.IPv6 {
		dst = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 1, byte(n >> 8), byte(n)}), 64)
		public = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, byte(n >> 8), byte(n), 15: 1})
		metric = 1024
	}
	device := link(f).Name
	return []backend.Object{
		backend.Neighbor{Link: device, IP: dst.Addr(), MAC: mac(1000 + n)},
		backend.FDB{Link: device, MAC: mac(1000 + n), Dst: public},
		backend.Route{Dst: dst, Link: device, Via: dst.Addr(), OnLink: true, Metric: metric},
	}
}

// node returns the state of a node with peers 1 to n in both families.
func node(n int) backend.State {
	var objects []backend.Object
	for _, f := range subnet.Families {
		objects = append(objects, own(f)...)
		for i := range n {
			objects = append(objects, peer(f, i+1)...)
		}
	}
	return backend.NewState(objects...)
}

// patience is how long what must come is waited for, on a busy machine, too.
const patience = time.Minute

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, 10*time.Millisecond, what)
}

// cancelled returns a context that is over.
func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
