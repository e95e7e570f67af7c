package bench

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/backend/nftables"
	"github.com/twill-net/twill/backend/nftables/guard"
	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/firewall"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
)

var profiles = flag.String("profiles", "", "`directory` for profiles of what is measured; go tool pprof adds several up")

// inNamespace marks the second run of the test binary, in a network namespace.
const inNamespace = "TWILL_BENCH_NAMESPACE"

// TestMain runs everything in a fresh network namespace, loopback and etcd
// included: the agent then works in the one that its process is in, as twilld
// does.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("SKIP: needs root: network namespaces")
		os.Exit(0)
	}
	if os.Getenv(inNamespace) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is the thread's
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// stage is the agent in this process, on a real kernel and a real etcd, so that
// profiles of what is measured, and of nothing else, show where its time goes:
//
//	go test -run '^$' -bench ColdStart/20000 -benchtime 3x ./overlay/netlab/bench -args -profiles /tmp
type stage struct {
	b      *testing.B
	dir    string
	server *etcdtest.Server
	client *clientv3.Client
}

func newStage(b *testing.B, count int) *stage {
	b.Helper()
	run(b, `ip link set lo up; ip link del eth0 2>/dev/null
		ip link add eth0 type veth peer name far && ip link set far up && ip link set eth0 up
		ip address replace 192.168.77.11/24 dev eth0; ip route replace default via 192.168.77.1`)
	s := &stage{b: b, dir: b.TempDir(), server: etcdtest.Start(b, etcdtest.Options{})}
	s.client = s.server.Client(b)
	_, err := s.client.Put(b.Context(), netlab.ConfigKey, NetConf)
	require.NoError(b, err)
	require.NoError(b, announce(b.Context(), s.client, peers(1, count, 0)))
	return s
}

// profiled takes a CPU profile until stop is called, and a heap profile then.
func profiled(b *testing.B) (stop func()) {
	b.Helper()
	if *profiles == "" {
		return func() {}
	}
	name := filepath.Join(*profiles, strings.ReplaceAll(b.Name(), "/", "-")+time.Now().Format("-150405.000"))
	cpu, err := os.Create(name + ".cpu")
	require.NoError(b, err)
	require.NoError(b, pprof.StartCPUProfile(cpu))
	return func() {
		pprof.StopCPUProfile()
		require.NoError(b, cpu.Close())
		runtime.GC()
		heap, err := os.Create(name + ".heap")
		require.NoError(b, err)
		require.NoError(b, pprof.Lookup("heap").WriteTo(heap, 0))
		require.NoError(b, heap.Close())
	}
}

func run(b *testing.B, script string) {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), "sh", "-c", script).CombinedOutput()
	require.NoError(b, err, "%s", out)
}

// start runs an agent as twilld does, waits until it is ready and returns what
// ends it.
func (s *stage) start() (stop func()) {
	s.b.Helper()
	const health = "127.0.0.1:8471"
	ctx, cancel := context.WithCancel(s.b.Context())
	log := logrus.New()
	log.SetOutput(io.Discard)
	if testing.Verbose() {
		log.SetOutput(os.Stderr)
	}
	entry := logrus.NewEntry(log)
	ours := regexp.MustCompile(`^twill(-v6)?\.[0-9]+$`)
	k, err := kernel.New(kernel.Config{LinkPattern: ours})
	require.NoError(s.b, err)
	conf := etcd.DefaultConfig()
	conf.Endpoints, conf.Logger = []string{s.server.Endpoint}, entry
	store, err := etcd.New(conf)
	require.NoError(s.b, err)
	rules := firewall.New(firewall.Config{Resync: 5 * time.Second}, nftables.New(), nftables.NewForeign())
	agent := overlay.New(overlay.Config{
		Node: "node1", MachineID: strings.Repeat("1", 32), Version: "bench",
		Underlay:   underlay.Options{Ours: ours.MatchString},
		Route:      func(a netip.Addr) (string, netip.Addr, error) { return k.RouteGet(ctx, a) },
		Masquerade: true, RandomFull: true, Forward: true, Hygiene: true,
		LastGood: filepath.Join(s.dir, "last-good"), LeaseTTL: conf.LeaseTTL,
		SubnetFile: filepath.Join(s.dir, "subnet.env"), FullPass: 30 * time.Second,
		HealthAddr: netip.MustParseAddrPort(health),
		Log:        entry, Metrics: prometheus.NewRegistry(), PodLinks: k, CNIConfDir: s.dir, Calm: debug.FreeOSMemory,
	}, store, k, rules, guard.New(guard.Config{}))
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx, make(chan overlay.StoreHealth)) }()
	for !ready("http://" + health + "/readyz") {
		select {
		case err := <-done:
			require.NoError(s.b, err)
		case <-s.b.Context().Done():
			s.b.Fatal("interrupted")
		case <-time.After(5 * time.Millisecond):
		}
	}
	return func() {
		cancel()
		require.NoError(s.b, <-done)
		store.Close()
		require.NoError(s.b, k.Close())
	}
}

func ready(url string) bool {
	resp, err := http.Get(url)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// clean removes what the agent leaves.
func (s *stage) clean() {
	run(s.b, "ip link del twill.1; nft flush ruleset; rm -f "+s.dir+"/last-good "+s.dir+"/subnet.env")
}

var sizes = []int{100, 1000, 5000, 20000}

func forSizes(b *testing.B, f func(b *testing.B, size int)) {
	for _, size := range sizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) { f(b, size) })
	}
}

// From nothing to ready.
func BenchmarkColdStart(b *testing.B) {
	forSizes(b, func(b *testing.B, size int) {
		s := newStage(b, size)
		for b.Loop() {
			end := profiled(b)
			stop := s.start()
			b.StopTimer()
			end()
			stop()
			s.clean()
			b.StartTimer()
		}
	})
}

// From a kernel that has it all to ready.
func BenchmarkWarmStart(b *testing.B) {
	forSizes(b, func(b *testing.B, size int) {
		s := newStage(b, size)
		s.start()()
		b.ResetTimer()
		for b.Loop() {
			end := profiled(b)
			stop := s.start()
			b.StopTimer()
			end()
			stop()
			b.StartTimer()
		}
		s.clean()
	})
}

// listens reports whether a process has a netlink socket that gets
// notifications: a row of /proc/net/netlink with its PID and a mask of groups.
func listens(b *testing.B, pid int) bool {
	b.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/netlink")
	require.NoError(b, err)
	for row := range strings.Lines(string(text)) {
		if words := strings.Fields(row); len(words) > 3 && words[2] == fmt.Sprint(pid) && strings.Trim(words[3], "0") != "" {
			return true
		}
	}
	return false
}

// One peer comes, and goes again: from put to route, twice. The witness is
// another process, so that a profile shows the agent alone.
func BenchmarkOnePeer(b *testing.B) {
	forSizes(b, func(b *testing.B, size int) {
		s := newStage(b, size)
		defer s.clean()
		defer s.start()()
		witness := exec.CommandContext(b.Context(), "ip", "-o", "monitor", "route")
		out, err := witness.StdoutPipe()
		require.NoError(b, err)
		require.NoError(b, witness.Start())
		defer func() { _ = witness.Process.Kill(); _ = witness.Wait() }()
		for !listens(b, witness.Process.Pid) {
			runtime.Gosched()
		}
		lines := bufio.NewScanner(out)
		p := peer{size + 1, 0}
		await := func() {
			for lines.Scan() {
				if strings.Contains(lines.Text(), p.subnet().String()) {
					return
				}
			}
			b.Fatal("the witness ended")
		}
		defer profiled(b)()
		b.ResetTimer()
		for b.Loop() {
			require.NoError(b, p.put(b.Context(), s.client, clientv3.NoLease))
			await()
			require.NoError(b, withdraw(b.Context(), s.client, []peer{p}))
			await()
		}
	})
}
