package etcd_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

// A member without a leader must not be believed to have no news.
func TestLeaderLost(t *testing.T) {
	t.Parallel()
	members := etcdtest.StartCluster(t, 3, etcdtest.Options{})
	b := backend{server: members[0], client: members[0].Client(t), prefix: "/x"}
	var health subnettest.Reports
	b.change = func(c *etcd.Config) { c.Health = health.Take }
	b.Put(t, "10.5.1.0-24", peerA, false)
	s := b.open(t)
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	h := subnettest.Hold(t, s, subnettest.Claim(t, "n1"))
	h.Next(t)
	members[1].Kill()
	members[2].Kill()
	subnettest.Eventually(t, "it is told", func() bool {
		_, err := health.Last()
		return err != nil
	})
	_, err := health.Last()
	t.Log(err)
	members[1].Restart()
	subnettest.Eventually(t, "there is a leader again", func() bool {
		_, err := b.client.Put(t.Context(), b.key("10.5.2.0-24"), peerB)
		return err == nil
	})
	v.Await(t, b)
	subnettest.Eventually(t, "all is well again", func() bool {
		_, err := health.Last()
		return err == nil
	})
	full, wentBack := v.Fulls()
	require.Zero(t, full)
	require.Zero(t, wentBack, "a member that lags is no backup")
	require.Empty(t, h.Held)
}

// One member of three dies: another one serves.
func TestMemberLost(t *testing.T) {
	t.Parallel()
	members := etcdtest.StartCluster(t, 3, etcdtest.Options{})
	b := backend{server: members[0], client: members[0].Client(t), prefix: "/x"}
	b.change = func(c *etcd.Config) {
		c.Endpoints = []string{members[1].Endpoint, members[2].Endpoint, members[0].Endpoint}
	}
	v := subnettest.Watch(t, b.open(t))
	b.Put(t, "10.5.1.0-24", peerA, false)
	v.Await(t, b)
	for _, m := range []int{1, 2} {
		members[m].Kill()
		subnettest.Eventually(t, "another member leads", func() bool { // and so takes this
			_, err := b.client.Put(t.Context(), b.key("10.5.2.0-24"), peerB)
			return err == nil
		})
		v.Await(t, b)
		b.Delete(t, "10.5.2.0-24")
		v.Await(t, b)
		members[m].Restart()
	}
	_, wentBack := v.Fulls()
	require.Zero(t, wentBack)
}
