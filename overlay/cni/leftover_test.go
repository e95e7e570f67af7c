package cni_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/overlay/pods/leftover"
)

// node is a host with the conflist of dist/, driven as a runtime does, and with
// the daemon's sweep.
type node struct {
	host
	list  *libcni.NetworkConfigList
	cni   *libcni.CNIConfig
	cache string
	k     *kernel.Kernel
}

func newNode(t *testing.T, env, portmap string, disk *node) *node {
	t.Helper()
	n := &node{host: newHost(t, env), cache: t.TempDir()}
	if disk != nil {
		n.ipamDir, n.cache = disk.ipamDir, disk.cache
	}
	more := map[int]conf{0: {"delegate": conf{"macspoofchk": true}}}
	if portmap != "" {
		more[1] = conf{"backend": portmap}
	}
	var err error
	n.list, err = libcni.NetworkConfFromBytes(n.conflist(t, "", more))
	require.NoError(t, err)
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{n.bin}, n.cache, inside{&invoke.DefaultExec{RawExec: &invoke.RawExec{}}, n.ns})
	fd, err := unix.Open(netnsPath(n.ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	n.k, err = kernel.New(kernel.Config{NetNS: fd})
	require.NoError(t, err)
	t.Cleanup(func() { n.k.Close() })
	return n
}

// runtimeConf asks for all that leaves something on a host.
func runtimeConf(id, ns string, port int) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: id, NetNS: netnsPath(ns), IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", id}, {"K8S_POD_UID", "u"}, {"K8S_POD_INFRA_CONTAINER_ID", id}},
		CapabilityArgs: map[string]any{
			"portMappings": []conf{{"hostPort": port, "containerPort": 80, "protocol": "tcp"}, {"hostPort": port, "containerPort": 80, "protocol": "udp"}},
			"bandwidth":    conf{"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000},
			"dns":          conf{"servers": []string{"10.96.0.10"}}, "cgroupPath": "/kubepods/x", "io.kubernetes.cri.pod-annotations": conf{"a": "b"},
		},
	}
}

func (n *node) add(t *testing.T, id string, port int) *libcni.RuntimeConf {
	t.Helper()
	rt := runtimeConf(id, netns(t), port)
	_, err := n.cni.AddNetworkList(t.Context(), n.list, rt)
	require.NoError(t, err)
	return rt
}

// sweeper is the daemon's, for which nothing is too young.
func (n *node) sweeper(t *testing.T) *pods.Sweeper {
	t.Helper()
	// Plugins run in the host's namespace, which this process is not in.
	bandwidth := filepath.Join(t.TempDir(), "bandwidth")
	require.NoError(t, os.WriteFile(bandwidth, []byte(fmt.Sprintf("#!/bin/sh\nexec ip netns exec %s %s/bandwidth\n", n.ns, n.bin)), 0o755))
	return &pods.Sweeper{
		MinAge:    time.Nanosecond,
		Inventory: func(ctx context.Context) (pods.Inventory, error) { return pods.Read(ctx, n.k, pods.Ground{}) },
		Leftovers: leftover.Host{Kernel: n.k, Bandwidth: bandwidth},
		Results:   filepath.Join(n.cache, "results"),
	}
}

func (n *node) network() pods.Network {
	return pods.Network{Name: "cbr0", Dir: filepath.Join(n.ipamDir, "cbr0"), Bridge: "cni0", VethFirst: true}
}

// traces is all that a host has of its pods, sorted.
func (n *node) traces(t *testing.T) (all []string) {
	t.Helper()
	rules := ip(t, "netns", "exec", n.ns, "sh", "-c", "nft list ruleset; iptables-nft-save; ip6tables-nft-save")
	for line := range strings.Lines(rules) {
		if strings.Contains(line, "-pod") || strings.Contains(line, "10.5.52.") || strings.Contains(line, "fd00:5:") || strings.Contains(line, "CNI-DN-") {
			all = append(all, "rule "+strings.TrimSpace(line))
		}
	}
	for line := range strings.Lines(ip(t, "-n", n.ns, "-o", "link")) {
		if name := strings.Fields(line)[1]; strings.HasPrefix(name, "veth") || strings.HasPrefix(name, "bwp") {
			all = append(all, "link "+name)
		}
	}
	for _, dir := range []string{filepath.Join(n.ipamDir, "cbr0"), filepath.Join(n.cache, "results")} {
		files, err := os.ReadDir(dir)
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		for _, f := range files {
			if f.Name() != "lock" && !strings.HasPrefix(f.Name(), "last_reserved_ip") {
				all = append(all, "file "+f.Name())
			}
		}
	}
	slices.Sort(all)
	return all
}

// vanish ends a pod without a DEL.
func (n *node) vanish(t *testing.T, rt *libcni.RuntimeConf) {
	t.Helper()
	before := len(n.veths(t))
	ip(t, "netns", "del", strings.TrimPrefix(rt.NetNS, "/run/netns/"))
	require.Eventually(t, func() bool { return len(n.veths(t)) == before-1 }, 20*time.Second, 10*time.Millisecond)
}

// What no DEL was made for is found and removed by the daemon's sweep, all of
// it; the pods that live keep all that they have.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	const masquerading = "FLANNEL_IPMASQ=false"
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, strings.Replace(dualEnv, "FLANNEL_IPMASQ=true", masquerading, 1), backend, nil)
			n.add(t, "living-pod", 8081)
			sweeper := n.sweeper(t)
			alone := n.traces(t)
			require.Contains(t, strings.Join(alone, "\n"), "8081")

			lost := n.add(t, "lost-pod", 8080)
			require.Greater(t, len(n.traces(t)), 2*len(alone)-4, "as much again")
			n.vanish(t, lost)
			done, err := sweeper.Sweep(t.Context(), []pods.Network{n.network()})
			require.NoError(t, err)
			require.Len(t, done.Released, 2)
			if backend == "nftables" {
				require.Equal(t, alone, n.traces(t))
			} else {
				left := subtract(n.traces(t), alone)
				require.NotContains(t, strings.Join(left, "\n"), "10.5.52.3", "no way leads to the address")
				for _, l := range left {
					require.Contains(t, l, "CNI-DN-", "an empty chain, and the rule that leads to it")
				}
			}

			// Another pod gets address and port, and all goes when it goes.
			next := n.add(t, "next-pod", 8080)
			_, err = sweeper.Sweep(t.Context(), []pods.Network{n.network()})
			require.NoError(t, err)
			require.NoError(t, n.cni.CheckNetworkList(t.Context(), n.list, next))
			require.NoError(t, n.cni.DelNetworkList(t.Context(), n.list, next))
			require.NoError(t, n.cni.DelNetworkList(t.Context(), n.list, lost), "the runtime finds its memory after all")
			require.Equal(t, alone, n.traces(t))
		})
	}
}

func subtract(all, from []string) []string {
	have := map[string]int{}
	for _, s := range from {
		have[s]++
	}
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { have[s]--; return have[s] >= 0 })
}

// After a power cut the disk has files of pods of which the kernel has nothing;
// some are cut off.
func TestLeftoversOfAPowerCut(t *testing.T) {
	t.Parallel()
	before := newNode(t, dualEnv, "nftables", nil)
	for i := range 4 {
		before.add(t, fmt.Sprintf("old-pod%d", i), 8080+i)
	}
	results := filepath.Join(before.cache, "results")
	require.NoError(t, os.Truncate(filepath.Join(results, "cbr0-old-pod1-eth0"), 0))
	require.NoError(t, os.Truncate(filepath.Join(results, "cbr0-old-pod2-eth0"), 100))
	require.NoError(t, os.Remove(filepath.Join(before.ipamDir, "cbr0", "10.5.52.5")))
	require.NoError(t, os.Remove(filepath.Join(before.ipamDir, "cbr0", "fd00:5:0:52::5")))
	others := map[string]string{
		"cbr0-x-pod-eth0":    `{"kind":"cniCacheV1","containerId":"pod","ifName":"eth0","networkName":"cbr0-x"}`,
		"other-pod-eth0":     "",
		"cbr0-old-cache-one": `{"cniVersion":"0.3.1","ips":[{"address":"10.5.52.9/24"}]}`,
	}
	for name, text := range others {
		require.NoError(t, os.WriteFile(filepath.Join(results, name), []byte(text), 0o600))
	}

	after := newNode(t, dualEnv, "nftables", before)
	after.add(t, "new-pod", 8080)
	want := append(slices.Sorted(maps.Keys(others)), "cbr0-new-pod-eth0")
	sweeper := after.sweeper(t)
	for range 2 {
		_, err := sweeper.Sweep(t.Context(), []pods.Network{after.network()})
		require.NoError(t, err)
	}
	require.Len(t, after.reserved(t), 2)
	files, err := os.ReadDir(results)
	require.NoError(t, err)
	var have []string
	for _, f := range files {
		have = append(have, f.Name())
	}
	require.ElementsMatch(t, want, have)
}

// Somebody has emptied host-local's directory below living pods, as many an
// advice on the net has it.
func TestLeftoversWithoutReservations(t *testing.T) {
	t.Parallel()
	n := newNode(t, dualEnv, "nftables", nil)
	n.add(t, "living-pod", 8081)
	sweeper := n.sweeper(t)
	alone := n.traces(t)
	lost := n.add(t, "lost-pod", 8080)
	require.NoError(t, os.RemoveAll(filepath.Join(n.ipamDir, "cbr0")))
	all := n.traces(t)
	_, err := sweeper.Sweep(t.Context(), []pods.Network{n.network()})
	require.NoError(t, err)
	require.Equal(t, all, n.traces(t), "both live")

	// A veth of which nobody can tell whose it is: it may be that pod's.
	stray := netns(t)
	ip(t, "-n", n.ns, "link", "add", "stray", "type", "veth", "peer", "name", "eth0", "netns", stray)
	n.vanish(t, lost)
	done, err := sweeper.Sweep(t.Context(), []pods.Network{n.network()})
	require.NoError(t, err)
	require.Empty(t, done.Results)
	ip(t, "-n", n.ns, "link", "del", "stray")

	done, err = sweeper.Sweep(t.Context(), []pods.Network{n.network()})
	require.NoError(t, err)
	require.Equal(t, []string{"cbr0-lost-pod-eth0"}, done.Results)
	require.Equal(t, slices.DeleteFunc(alone, func(s string) bool {
		return strings.HasPrefix(s, "file 10.5.") || strings.HasPrefix(s, "file fd00:")
	}), n.traces(t))
}

// What cannot be removed keeps the addresses: the next sweep tries again.
func TestLeftoversThatStay(t *testing.T) {
	t.Parallel()
	n := newNode(t, v4Env, "nftables", nil)
	lost := n.add(t, "lost-pod", 8080)
	n.vanish(t, lost)
	sweeper := n.sweeper(t)
	host := sweeper.Leftovers.(leftover.Host)
	sweeper.Leftovers = leftover.Host{Kernel: host.Kernel, Bandwidth: "/bin/false"}
	_, err := sweeper.Sweep(t.Context(), []pods.Network{n.network()})
	require.ErrorContains(t, err, "removing what is left of container lost-pod in network cbr0: deleting bwp")
	require.Len(t, n.reserved(t), 1)
	sweeper.Leftovers = host
	_, err = sweeper.Sweep(t.Context(), []pods.Network{n.network()})
	require.NoError(t, err)
	require.Empty(t, n.traces(t))
}
