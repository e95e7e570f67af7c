package pods_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/subnet"
)

// The whole way of a node that gets another subnet.
func TestSubnetChanges(t *testing.T) {
	t.Parallel()
	m := newMachine(t, nil)
	oldNS, newNS := netns(t), netns(t)
	old, err := m.add("old", oldNS, subnet1, six1)
	require.NoError(t, err)
	_, err = m.plugin("bridge", "ADD", "refused", newNS, subnet2, six2)
	require.ErrorContains(t, err, "already has an IP address different from")
	_, err = m.plugin("bridge", "DEL", "refused", newNS, subnet2, six2)
	require.NoError(t, err)

	plan := m.plan()
	require.Len(t, plan.Stranded, 1)
	require.Equal(t, "old", plan.Stranded[0].Container)
	m.follow(plan)
	require.Empty(t, m.plan().Changes, "that is all")
	now, err := m.add("new", newNS, subnet2, six2)
	require.NoError(t, err)
	_, err = m.add("another", netns(t), subnet2, six2)
	require.NoError(t, err)
	reaches := func(ns, a string) {
		t.Helper()
		require.Eventually(t, func() bool {
			return exec.Command("ip", "netns", "exec", ns, "ping", "-c1", "-W1", a).Run() == nil
		}, patience, 50*time.Millisecond, "%s reaches %s", ns, a)
	}
	for _, a := range strings.Fields(ipsOf(old) + " " + ipsOf(now)) {
		reaches(m.ns, a)
	}
	for _, a := range append(strings.Fields(ipsOf(now)), "10.5.1.1") {
		reaches(oldNS, a)
	}

	_, err = m.plugin("bridge", "DEL", "old", oldNS, subnet2, six2)
	require.NoError(t, err)
	plan = m.plan()
	require.Empty(t, plan.Stranded)
	m.follow(plan)
	require.ElementsMatch(t, []netip.Prefix{prefix("10.5.2.1/24"), prefix("fd00:5:0:2::1/64")}, m.gateways())
	require.Empty(t, m.plan())
}

func (m machine) plan() pods.BridgePlan {
	m.t.Helper()
	host, err := m.Host(m.t.Context())
	require.NoError(m.t, err)
	inv, err := m.inventory(m.t.Context())
	require.NoError(m.t, err)
	return pods.Bridges(host, inv, node())
}

func (m machine) follow(plan pods.BridgePlan) {
	m.t.Helper()
	require.NotEmpty(m.t, plan.Changes)
	for _, err := range m.ApplyBridge(m.t.Context(), plan.Changes) {
		require.NoError(m.t, err)
	}
}

func (m machine) gateways() (all []netip.Prefix) {
	m.t.Helper()
	host, err := m.Host(m.t.Context())
	require.NoError(m.t, err)
	i, ok := host.Interface("cni0")
	require.True(m.t, ok)
	for _, a := range i.Addresses {
		if f := subnet.FamilyOf(a.Prefix.Addr()); f == subnet.IPv4 || !a.Prefix.Addr().IsLinkLocalUnicast() {
			all = append(all, a.Prefix)
		}
	}
	return all
}
