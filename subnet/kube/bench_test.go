package kube_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/kube"
	"github.com/twill-net/twill/subnet/kube/kubetest"
)

// childEnv makes the test binary a process that does what a daemon does with
// the store, and nothing else; it names a kubeconfig.
const childEnv = "TWILL_BENCH_KUBECONFIG"

// figures are what a child says of itself when it is asked.
type figures struct {
	Updates int64         // since the full list
	CPU     time.Duration // user and system, since the start
	Anon    int           // RssAnon, kB
	Peak    int           // VmHWM, kB
}

// child follows the leases into a snapshot. It says how it is when the first
// list is in the snapshot, and then for each line that it reads.
func child(kubeconfig string) error {
	began := time.Now()
	cfg := kube.DefaultConfig()
	cfg.Node, cfg.Kubeconfig = "n0", kubeconfig
	s, err := kube.New(cfg)
	if err != nil {
		return err
	}
	snapshot := subnet.NewSnapshot("n0")
	snapshot.SetOwn(subnet.Lease{}, nil)
	var updates atomic.Int64
	first := make(chan struct{})
	go func() {
		_ = s.WatchLeases(context.Background(), func(u subnet.Update) {
			if u.Full {
				snapshot.Replace(u.Put)
				fmt.Println(len(snapshot.Peers()), time.Since(began).Nanoseconds())
				close(first)
				return
			}
			updates.Add(1)
			for _, r := range u.Put {
				snapshot.Put(r)
			}
		})
	}()
	<-first
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			return err
		}
		f := figures{Updates: updates.Load(), CPU: time.Duration(usage.Utime.Nano() + usage.Stime.Nano())}
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(status)) {
			_, _ = fmt.Sscanf(line, "RssAnon: %d", &f.Anon)
			_, _ = fmt.Sscanf(line, "VmHWM: %d", &f.Peak)
		}
		if err := json.NewEncoder(os.Stdout).Encode(f); err != nil {
			return err
		}
	}
	return nil
}

// largeNode is a Node as a kubelet keeps it: some 15 kB.
func largeNode(i int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: fmt.Sprintf("n%d", i),
		Annotations: map[string]string{
			prefix + "kube-subnet-manager": "true", prefix + "backend-type": "vxlan",
			prefix + "backend-data": fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}`, i>>8, i&255),
			prefix + "public-ip":    netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}).String(),
			"volumes.kubernetes.io/controller-managed-attach-detach": "true", "node.alpha.kubernetes.io/ttl": "0",
		},
		Labels: map[string]string{"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": fmt.Sprintf("n%d", i), "topology.kubernetes.io/zone": "a"},
	}}
	n.Spec.PodCIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24).String()
	n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.Annotations[prefix+"public-ip"]}, {Type: corev1.NodeHostName, Address: n.Name}}
	for k := range 50 { // as many as a kubelet tells
		digest := strings.Repeat(fmt.Sprintf("%08x", i*50+k), 8)
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{
			Names:     []string{fmt.Sprintf("registry.example.com/team-%d/image-%d@sha256:%s", k%7, k, digest), fmt.Sprintf("registry.example.com/team-%d/image-%d:v1.%d", k%7, k, i)},
			SizeBytes: int64(i*k) << 10,
		})
	}
	for _, c := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady} {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficient" + string(c), Message: "kubelet has sufficient " + string(c)})
	}
	return n
}

// each runs do for 0 to n-1, some at a time.
func each(n int, do func(int)) {
	var g errgroup.Group
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error { do(i); return nil })
	}
	_ = g.Wait()
}

// BenchmarkNodes measures what large clusters cost a node: the time to the
// first list, memory, and CPU for it and for a heartbeat of each Node.
func BenchmarkNodes(b *testing.B) {
	for _, nodes := range []int{100, 5000} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			s := kubetest.Start(b, "--max-mutating-requests-inflight=1000")
			s.Grant(b, least(b)...)
			each(nodes, func(i int) { s.CreateNode(b, largeNode(i)) })
			for b.Loop() {
				measure(b, s, nodes)
			}
		})
	}
}

func measure(b *testing.B, s *kubetest.Server, nodes int) {
	self, err := os.Executable()
	require.NoError(b, err)
	cmd := exec.CommandContext(b.Context(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+s.Kubeconfig(b, s.URL, kubetest.Daemon))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	lines := bufio.NewReader(out)
	var peers int
	var took time.Duration
	_, err = fmt.Fscanln(lines, &peers, &took)
	require.NoError(b, err)
	require.Equal(b, nodes-1, peers, "but for ourselves")
	ask := func() (f figures) {
		_, err := fmt.Fprintln(in)
		require.NoError(b, err)
		line, err := lines.ReadBytes('\n')
		require.NoError(b, err)
		require.NoError(b, json.Unmarshal(line, &f))
		return f
	}
	listed := ask()
	each(nodes, func(i int) {
		s.PatchStatus(b, fmt.Sprintf("n%d", i), fmt.Sprintf(`{"status":{"nodeInfo":{"bootID":"%d"}}}`, time.Now().UnixNano()))
	})
	// What comes after the heartbeats comes when they are done with.
	s.PatchNode(b, "n1", fmt.Sprintf(`{"metadata":{"annotations":{%q:"192.0.2.1"}}}`, prefix+"source-ip"))
	require.Eventually(b, func() bool { return ask().Updates > 0 }, time.Minute, 100*time.Millisecond)
	beaten := ask()
	s.PatchNode(b, "n1", fmt.Sprintf(`{"metadata":{"annotations":{%q:null}}}`, prefix+"source-ip"))
	require.EqualValues(b, 1, beaten.Updates, "no heartbeat is news")
	require.NoError(b, in.Close())
	require.NoError(b, cmd.Wait())
	b.ReportMetric(took.Seconds(), "s-list")
	b.ReportMetric(listed.CPU.Seconds(), "cpu-s-list")
	b.ReportMetric(float64(listed.Anon)/1024, "MiB-listed")
	b.ReportMetric(float64(beaten.Anon)/1024, "MiB-later")
	b.ReportMetric(float64(beaten.Peak)/1024, "MiB-peak-rss")
	b.ReportMetric(float64((beaten.CPU-listed.CPU).Microseconds())/float64(nodes), "cpu-µs/heartbeat")
}
