package cni_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/stretchr/testify/require"
)

// The kubelet's way to call: what it and containerd pass is taken, errors name the
// pod.
func TestErrorsNameThePod(t *testing.T) {
	t.Parallel()
	n := newNode(t, v4Env, "", nil)
	rt := runtimeConf("pod", netns(t), 8080)
	_, err := n.cni.AddNetworkList(t.Context(), n.list, rt)
	require.NoError(t, err)
	_, err = n.cni.AddNetworkList(t.Context(), n.list, rt)
	require.ErrorContains(t, err, "pod default/pod: adding interface eth0 to container pod: it has an interface of that name already")
	ip(t, "-n", strings.TrimPrefix(rt.NetNS, "/run/netns/"), "link", "set", "eth0", "down")
	require.ErrorContains(t, n.cni.CheckNetworkList(t.Context(), n.list, rt), "pod default/pod: ")
	require.NoError(t, n.cni.DelNetworkList(t.Context(), n.list, rt))
	rt.NetNS = "/run/netns/no-such"
	_, err = n.cni.AddNetworkList(t.Context(), n.list, rt)
	require.ErrorContains(t, err, "pod default/pod: opening the network namespace of container pod")
	require.Empty(t, n.traces(t))
}

// containerd before 2.0 brings each pod's lo up by the plugin loopback.
func TestLoopback(t *testing.T) {
	t.Parallel()
	n := newNode(t, v4Env, "", nil)
	list, err := libcni.NetworkConfFromBytes([]byte(`{"cniVersion":"0.3.1","name":"cni-loopback","plugins":[{"type":"loopback"}]}`))
	require.NoError(t, err)
	ns := netns(t)
	ip(t, "-n", ns, "link", "set", "lo", "down")
	rt := &libcni.RuntimeConf{ContainerID: "pod", NetNS: netnsPath(ns), IfName: "lo"}
	_, err = n.cni.AddNetworkList(t.Context(), list, rt)
	require.NoError(t, err)
	require.Contains(t, ip(t, "-n", ns, "link", "show", "lo"), "LOOPBACK,UP")
	require.NoError(t, n.cni.DelNetworkList(t.Context(), list, rt))
}

// A subnet that is used up: the error says so, what was tried for nothing
// leaves nothing, and the next pod that goes makes room.
func TestSubnetUsedUp(t *testing.T) {
	t.Parallel()
	n := newNode(t, strings.Replace(v4Env, "10.5.52.1/24", "10.5.52.1/28", 1), "nftables", nil)
	const room = 13 // of 16: not the network's, the gateway's, the broadcast address
	all := make([]*libcni.RuntimeConf, room+5)
	for i := range all {
		all[i] = runtimeConf(fmt.Sprintf("p%d-pod", i), netns(t), 8080+i)
	}
	errs := n.each(t.Context(), all, 4, func(ctx context.Context, rt *libcni.RuntimeConf) error {
		_, err := n.cni.AddNetworkList(ctx, n.list, rt)
		return err
	})
	full, lucky := 0, all[0]
	for i, err := range errs {
		if err == nil {
			lucky = all[i]
			continue
		}
		full++
		requireCode(t, 11, err)
		require.ErrorContains(t, err, fmt.Sprintf("pod default/%s: running the delegate plugin bridge with ADD: ", all[i].ContainerID))
		require.ErrorContains(t, err, "no IP addresses available in range set: 10.5.52.1-10.5.52.14; all of the node's subnet is reserved for pods")
		require.NoError(t, n.cni.DelNetworkList(t.Context(), n.list, all[i]), "a runtime makes a DEL after an ADD that failed")
	}
	require.Equal(t, len(all)-room, full)
	require.Len(t, n.reserved(t), room)
	require.Len(t, n.veths(t), room)

	require.NoError(t, n.cni.DelNetworkList(t.Context(), n.list, lucky))
	next := n.add(t, "next-pod", 9090)
	require.NoError(t, n.cni.CheckNetworkList(t.Context(), n.list, next))
	for _, err := range n.each(t.Context(), slices.Concat(all, []*libcni.RuntimeConf{next}), 4, n.del) {
		require.NoError(t, err)
	}
	require.Empty(t, n.traces(t))
}

func (n *node) del(ctx context.Context, rt *libcni.RuntimeConf) error {
	return n.cni.DelNetworkList(ctx, n.list, rt)
}

// each does something to all pods, so many at a time.
func (n *node) each(ctx context.Context, all []*libcni.RuntimeConf, atATime int, do func(context.Context, *libcni.RuntimeConf) error) []error {
	errs := make([]error, len(all))
	jobs := make(chan int)
	var workers sync.WaitGroup
	for range atATime {
		workers.Go(func() {
			for i := range jobs {
				errs[i] = do(ctx, all[i])
			}
		})
	}
	for i := range all {
		jobs <- i
	}
	close(jobs)
	workers.Wait()
	return errs
}
