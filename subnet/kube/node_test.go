package kube_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/kube"
	"github.com/twill-net/twill/subnet/subnettest"
)

// What a flannel writes is read, and what we write a flannel can read.
func flannelAnnotations(t *testing.T, b backend) {
	b.Join(t, "n1", "10.5.1.0/24", "fd00:5:0:1::/64")
	b.annotate(t, "n1", map[string]any{
		prefix + "kube-subnet-manager": "true", prefix + "backend-type": "vxlan",
		prefix + "backend-data": `{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, prefix + "public-ip": "192.168.0.1",
		prefix + "backend-v6-data": `{ "VNI": 1, "VtepMAC": "aa:bb:cc:dd:ee:fe" }`, prefix + "public-ipv6": "2001:db8::1",
	})
	b.Join(t, "n2", "10.5.2.0/24")
	b.annotate(t, "n2", map[string]any{
		prefix + "kube-subnet-manager": "true", prefix + "backend-type": "host-gw",
		prefix + "backend-data": "null", prefix + "backend-v6-data": "null", prefix + "public-ip": "192.168.0.2",
	})
	b.Join(t, "n3", "10.5.3.0/24")
	b.annotate(t, "n3", map[string]any{prefix + "kube-subnet-manager": "false", prefix + "backend-type": "vxlan", prefix + "public-ip": "192.168.0.3"})
	v := subnettest.Watch(t, b.open(t, "n9"))
	subnettest.Eventually(t, "they are there", func() bool { return len(v.Updates()) == 1 })
	got := v.Records()
	require.Len(t, got, 2)
	require.Equal(t, subnet.Lease{
		Node:      "n1",
		Subnets:   subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("fd00:5:0:1::/64")},
		PublicIPs: subnet.PerFamily[netip.Addr]{netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("2001:db8::1")}, BackendType: "vxlan",
		BackendData: subnet.PerFamily[string]{`{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, `{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:fe"}`},
	}, got["n1"].Lease)
	require.Equal(t, subnet.Lease{
		Node: "n2", Subnets: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.5.2.0/24")},
		PublicIPs: subnet.PerFamily[netip.Addr]{netip.MustParseAddr("192.168.0.2")}, BackendType: "host-gw",
	}, got["n2"].Lease)

	// A node moves from flannel to Twill. What it does not announce any more
	// goes, what is nobody's stays.
	b.annotate(t, "n1", map[string]any{prefix + "node-public-ip": "192.168.0.1", "example.com/other": "x"})
	subnettest.Hold(t, b.open(t, "n1"), subnettest.Claim(t, "n1")).Next(t)
	require.Equal(t, map[string]string{
		prefix + "kube-subnet-manager": "true", prefix + "backend-type": "vxlan",
		prefix + "backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`, prefix + "public-ip": "192.168.0.1",
		prefix + "machine-id": "machine-n1", prefix + "node-public-ip": "192.168.0.1", "example.com/other": "x",
	}, b.server.Node(t, "n1").Annotations)
}

func brokenAnnotations(t *testing.T, b backend) {
	good := map[string]any{
		prefix + "kube-subnet-manager": "true", prefix + "backend-type": "vxlan",
		prefix + "backend-data": `{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, prefix + "public-ip": "192.168.0.1",
	}
	v := subnettest.Watch(t, b.open(t, "n9"))
	for i, c := range []struct {
		name, value string
		reason      string
	}{
		{"backend-type", "", prefix + "backend-type is missing"},
		{"backend-type", "vx lan", prefix + `backend-type: "vx lan" is not a name: at most 253 bytes, printable and without spaces`},
		{"backend-data", "{", prefix + `backend-data: "{" is not JSON`},
		{"backend-v6-data", "rubbish", prefix + `backend-v6-data: "rubbish" is not JSON`},
		{"public-ip", "here", prefix + `public-ip: "here" is not an IPv4 address`},
		{"public-ip", "2001:db8::1", prefix + `public-ip: "2001:db8::1" is not an IPv4 address`},
		{"public-ip", "224.0.0.1", prefix + "public-ip: 224.0.0.1 cannot be the address of a node"},
		{"public-ipv6", "::ffff:192.0.2.1", prefix + `public-ipv6: "::ffff:192.0.2.1" is not an IPv6 address`},
		{"source-ip", "127.0.0.1", prefix + "source-ip: 127.0.0.1 cannot be the address of a node"},
		{"machine-id", strings.Repeat("x", 254), prefix + `machine-id: "` + strings.Repeat("x", 64) + `" is not a name: at most 253 bytes, printable and without spaces`},
	} {
		node := fmt.Sprintf("n%d", 10+i)
		b.Join(t, node, fmt.Sprintf("10.5.%d.0/24", i))
		b.annotate(t, node, good)
		b.annotate(t, node, map[string]any{prefix + c.name: c.value})
		subnettest.Eventually(t, c.reason, func() bool { return v.Records()[node].Invalid == "annotation "+c.reason })
		b.annotate(t, node, good)
		if _, ok := good[prefix+c.name]; !ok {
			b.annotate(t, node, map[string]any{prefix + c.name: nil})
		}
		subnettest.Eventually(t, "it is mended", func() bool { return v.Records()[node].Invalid == "" })
	}
	b.Join(t, "n1")
	b.annotate(t, "n1", good)
	subnettest.Eventually(t, "it is refused", func() bool { return v.Records()["n1"].Invalid == "the Node has no spec.podCIDRs" })
	require.Equal(t, "192.168.0.1", v.Records()["n1"].Lease.PublicIPs[subnet.IPv4].String(), "what can be read is there")
	b.annotate(t, "n1", map[string]any{prefix + "kube-subnet-manager": nil})
	subnettest.Eventually(t, "it is gone", func() bool { _, ok := v.Records()["n1"]; return !ok })
}

func overwrittenPublicIP(t *testing.T, b backend) {
	var log subnettest.Log
	b.change = func(c *kube.Config) { c.Logger = log.Entry() }
	b.Join(t, "n1", "10.5.1.0/24")
	b.annotate(t, "n1", map[string]any{prefix + "public-ip-overwrite": "203.0.113.1", prefix + "public-ipv6-overwrite": "2001:db8::9"})
	c := subnettest.Claim(t, "n1")
	h := subnettest.Hold(t, b.open(t, "n1"), c)
	held := h.Next(t)
	require.Equal(t, subnet.PerFamily[netip.Addr]{netip.MustParseAddr("203.0.113.1")}, held.Lease.PublicIPs, "of a family that has a tunnel")
	require.Equal(t, c.PublicIPs, held.Lease.Sources, "its packets come from where they came from")
	for _, overwrite := range []any{"203.0.113.2", "rubbish", "203.0.113.3", nil} {
		b.annotate(t, "n1", map[string]any{prefix + "public-ip-overwrite": overwrite})
		held = h.Next(t)
		want := c.PublicIPs
		if ip, err := netip.ParseAddr(fmt.Sprint(overwrite)); err == nil {
			want[subnet.IPv4] = ip
		}
		require.Equal(t, want, held.Lease.PublicIPs)
		require.Equal(t, held.Lease, b.Records(t)[0].Lease)
	}
	require.Equal(t, subnet.PerFamily[netip.Addr]{}, held.Lease.Sources)
	require.Equal(t, 1, strings.Count(log.String(), `public-ip-overwrite: \"rubbish\" is not an IPv4 address`))
}

func watchAddresses(t *testing.T, b backend) {
	told := make(chan kube.Addresses, 10)
	s := b.open(t, "n7")
	stop := subnettest.During(t, func(ctx context.Context) { _ = s.WatchAddresses(ctx, func(a kube.Addresses) { told <- a }) })
	b.Join(t, "n7")
	var want kube.Addresses
	got := next(t, told)
	if got == want { // the Node came before its status
		got = next(t, told)
	}
	want.Internal[subnet.IPv4] = netip.MustParseAddr("192.168.0.7")
	require.Equal(t, want, got)
	b.server.PatchStatus(t, "n7", `{"status":{"addresses":[{"type":"InternalIP","address":"192.168.0.8"},{"type":"InternalIP","address":"2001:db8::8"}]}}`)
	want.Internal[subnet.IPv6] = netip.MustParseAddr("2001:db8::8")
	want.Internal[subnet.IPv4] = netip.MustParseAddr("192.168.0.8")
	require.Equal(t, want, next(t, told))
	b.annotate(t, "n7", map[string]any{prefix + "node-public-ip": "10.0.0.7", prefix + "node-public-ipv6": "2001:db8:a::7"})
	want.Local = subnet.PerFamily[netip.Addr]{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("2001:db8:a::7")}
	want.LocalBy = subnet.PerFamily[string]{prefix + "node-public-ip", prefix + "node-public-ipv6"}
	require.Equal(t, want, next(t, told))
	b.annotate(t, "n7", map[string]any{prefix + "public-ip-overwrite": "rubbish", prefix + "node-public-ipv6": "10.0.0.7", prefix + "public-ipv6-overwrite": "::1"})
	want.Local[subnet.IPv6], want.LocalBy[subnet.IPv6] = netip.Addr{}, ""
	want.Unusable = subnet.PerFamily[string]{
		"annotation " + prefix + `public-ip-overwrite: "rubbish" is not an IPv4 address`,
		"annotation " + prefix + `node-public-ipv6: "10.0.0.7" is not an IPv6 address; annotation ` + prefix + "public-ipv6-overwrite: ::1 cannot be the address of a node",
	}
	require.Equal(t, want, next(t, told))
	b.annotate(t, "n7", map[string]any{prefix + "public-ip-overwrite": "10.0.0.7", prefix + "node-public-ipv6": nil, prefix + "public-ipv6-overwrite": nil})
	want.Unusable = subnet.PerFamily[string]{}
	require.Equal(t, want, next(t, told))
	b.Leave(t, "n7")
	b.Join(t, "n8")
	stop()
	require.Empty(t, told, "without a Node the last ones stand")
}

// A heartbeat of the kubelet's is an event of 10 kB, and no news.
func heartbeats(t *testing.T, b backend) {
	b.Join(t, "n1", "10.5.1.0/24")
	subnettest.Hold(t, b.open(t, "n1"), subnettest.Claim(t, "n1")).Next(t)
	v := subnettest.Watch(t, b.open(t, "n9"))
	v.Await(t, subnettest.Looking(b))
	for i := range 5 {
		b.server.PatchStatus(t, "n1", fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":%q}]}}`,
			time.Now().Add(time.Duration(i)*time.Minute).UTC().Format(time.RFC3339)))
	}
	b.Join(t, "n2", "10.5.2.0/24")
	subnettest.Hold(t, b.open(t, "n2"), subnettest.Claim(t, "n2")).Next(t)
	subnettest.Eventually(t, "what comes after is told", func() bool { _, ok := v.Records()["n2"]; return ok })
	require.Len(t, v.Updates(), 2)
}

func anotherPrefix(t *testing.T, b backend) {
	b.change = func(c *kube.Config) { c.AnnotationPrefix = "example.com/twill" }
	b.Join(t, "n1", "10.5.1.0/24")
	subnettest.Hold(t, b.open(t, "n1"), subnettest.Claim(t, "n1")).Next(t)
	require.Equal(t, "192.168.0.1", b.server.Node(t, "n1").Annotations["example.com/twill-public-ip"])
	v := subnettest.Watch(t, b.open(t, "n9"))
	subnettest.Eventually(t, "it is read as well", func() bool { return len(v.Records()) == 1 })
}

func condition(t *testing.T, b backend) {
	b.Join(t, "n1")
	states := make(chan subnet.NetworkState)
	s := b.open(t, "n1")
	subnettest.During(t, func(ctx context.Context) { _ = s.ReportNetwork(ctx, states) })
	reads := func(status corev1.ConditionStatus, message string) func() bool {
		return func() bool {
			c := unavailable(b.server.Node(t, "n1"))
			return c.Status == status && c.Message == message && !c.LastTransitionTime.IsZero()
		}
	}
	states <- subnet.NetworkState{Up: true, Message: "up"}
	subnettest.Eventually(t, "it is False", reads(corev1.ConditionFalse, "up"))
	since := unavailable(b.server.Node(t, "n1")).LastTransitionTime
	states <- subnet.NetworkState{Message: "the lease is lost"}
	subnettest.Eventually(t, "it is True", reads(corev1.ConditionTrue, "the lease is lost"))
	states <- subnet.NetworkState{Message: "no route"}
	subnettest.Eventually(t, "the reason is another", reads(corev1.ConditionTrue, "no route"))
	later := unavailable(b.server.Node(t, "n1")).LastTransitionTime
	require.False(t, later.Before(&since))
	states <- subnet.NetworkState{Up: true, Message: "up"}
	subnettest.Eventually(t, "it is False again", reads(corev1.ConditionFalse, "up"))
	b.server.PatchStatus(t, "n1", `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"True","reason":"Somebody"}]}}`)
	subnettest.Eventually(t, "it is put right", reads(corev1.ConditionFalse, "up"))
	b.Leave(t, "n1")
	b.Join(t, "n1")
	subnettest.Eventually(t, "a new Node is told", reads(corev1.ConditionFalse, "up"))
}

func unavailable(n *corev1.Node) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// A cloud that says the same for reasons of its own is not fought with.
func conditionOfOthers(t *testing.T, b backend) {
	b.Join(t, "n1")
	b.server.PatchStatus(t, "n1", `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False","reason":"RouteCreated"}]}}`)
	states := make(chan subnet.NetworkState)
	s := b.open(t, "n1")
	seen := make(chan kube.Addresses, 1)
	subnettest.During(t, func(ctx context.Context) { _ = s.WatchAddresses(ctx, func(a kube.Addresses) { seen <- a }) })
	next(t, seen)
	subnettest.During(t, func(ctx context.Context) { _ = s.ReportNetwork(ctx, states) })
	for range 2 { // when the second is taken, the first is done with
		states <- subnet.NetworkState{Up: true, Message: "up"}
	}
	require.Equal(t, "RouteCreated", unavailable(b.server.Node(t, "n1")).Reason)
	states <- subnet.NetworkState{Message: "down"}
	subnettest.Eventually(t, "it is True", func() bool { return unavailable(b.server.Node(t, "n1")).Message == "down" })
}

func conditionOff(t *testing.T, b backend) {
	b.change = func(c *kube.Config) { c.SetUnavailable = false }
	b.Join(t, "n1")
	states := make(chan subnet.NetworkState)
	s := b.open(t, "n1")
	stop := subnettest.During(t, func(ctx context.Context) { _ = s.ReportNetwork(ctx, states) })
	states <- subnet.NetworkState{Up: true}
	states <- subnet.NetworkState{}
	stop()
	require.Zero(t, unavailable(b.server.Node(t, "n1")))
}
