package overlay

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPeersComeChangeAndGo(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"), peer(3, "n3"))
	b.eventually("routes to both", func() bool { return b.kernel.get(routeKey(2)) != nil && b.kernel.get(routeKey(3)) != nil })

	moved := peer(4, "n2") // n2 comes back with another subnet, address and MAC
	moved.Created = 9
	b.store.updates <- subnet.Update{Put: []subnet.Record{moved}, Gone: []string{peer(2, "n2").Key}}
	b.eventually("the new route is there and the old one is not", func() bool {
		return b.kernel.get(routeKey(4)) != nil && b.kernel.get(routeKey(2)) == nil
	})
	b.store.updates <- subnet.Update{Gone: []string{moved.Key, peer(3, "n3").Key}}
	b.eventually("no peer is left", func() bool { return b.kernel.get(routeKey(3)) == nil && b.kernel.get(routeKey(4)) == nil })
	require.Zero(t, b.agent.Status().Repairs.Total, "plans are not repairs")
}

func TestSubnetReusedByAnotherNode(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "old"))
	heir := peer(2, "new")
	heir.Lease.PublicIPs[subnet.IPv4] = netip.MustParseAddr("192.168.0.99")
	heir.Lease.BackendData[subnet.IPv4] = `{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}`
	b.store.updates <- subnet.Update{Put: []subnet.Record{heir}}
	want := backend.FDB{Link: "twill.1", MAC: subnet.MAC{2, 0, 0, 0, 0, 0x99}, Dst: netip.MustParseAddr("192.168.0.99")}
	b.eventually("the heir's FDB entry", func() bool { return b.kernel.get(want.Key()) == want })
	b.eventually("the old one's is gone", func() bool {
		return b.kernel.get(backend.FDB{Link: "twill.1", MAC: subnet.MAC{2, 0, 0, 0, 0, 2}}.Key()) == nil
	})
	require.NotNil(t, b.kernel.get(routeKey(2)), "the route that both want stays")
}

func TestNothingIsDeletedBeforeTheFirstList(t *testing.T) {
	left := backend.Route{Dst: netip.MustParsePrefix("10.244.7.0/24"), Link: "twill.1", Via: netip.MustParseAddr("10.244.7.0"), OnLink: true, Metric: routeKey(7).Metric}
	b := start(t, func(_ *Config, k *memKernel) { k.state[left.Key()] = left })
	b.store.configs <- []byte(netConf)
	claim := <-b.store.claims
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})}
	link := backend.Key{Kind: backend.KindLink, Name: "twill.1"}
	b.eventually("the device is there", func() bool { return b.kernel.get(link) != nil })
	require.NotNil(t, b.kernel.get(left.Key()))
	require.False(t, b.agent.Status().Ready, "peers are not known yet")
	b.store.updates <- subnet.Update{Full: true}
	b.eventually("what nobody wants is swept", func() bool { return b.kernel.get(left.Key()) == nil })
}

// A list that arrives while the kernel is read is not planned for yet: what it
// names must not be swept.
func TestFirstListDuringAPass(t *testing.T) {
	gate := make(chan struct{})
	left := backend.Route{Dst: netip.MustParsePrefix("10.244.2.0/24"), Link: "twill.1", Via: netip.MustParseAddr("10.244.2.0"), OnLink: true, Metric: routeKey(2).Metric}
	b := start(t, func(_ *Config, k *memKernel) { k.state[left.Key()], k.gate = left, gate })
	b.store.configs <- []byte(netConf)
	claim := <-b.store.claims
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})}
	<-gate
	b.store.updates <- subnet.Update{Full: true, Put: []subnet.Record{peer(2, "n2")}}
	b.eventually("the list is in", b.agent.inbox.isInSync)
	b.kernel.mu.Lock()
	b.kernel.gate = nil
	b.kernel.mu.Unlock()
	gate <- struct{}{}
	b.eventually("the agent is ready", func() bool { return b.agent.Status().Ready })
	b.kernel.mu.Lock()
	defer b.kernel.mu.Unlock()
	require.Empty(t, b.kernel.deleted)
}

func TestDriftIsRepairedAndTold(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	route := b.kernel.get(routeKey(2))
	b.kernel.set(routeKey(2), nil)
	b.eventually("the route is back", func() bool { return b.kernel.get(routeKey(2)) == route })
	b.eventually("the repair is told", func() bool { return b.agent.Status().Repairs.ByKind["route"] == 1 })
	r := b.agent.Status().Repairs.Recent[0]
	require.Equal(t, "absent", r.Before)
	require.Equal(t, route.String(), r.After)

	foreign := backend.Neighbor{Link: "twill.1", IP: netip.MustParseAddr("10.244.9.9"), MAC: subnet.MAC{2}}
	b.kernel.set(foreign.Key(), foreign)
	b.eventually("a foreign entry on our device goes", func() bool { return b.kernel.get(foreign.Key()) == nil })

	b.kernel.set(backend.Key{Kind: backend.KindLink, Name: "twill.1"}, nil)
	b.eventually("device and all that hangs on it are back", func() bool {
		return b.kernel.get(backend.Key{Kind: backend.KindLink, Name: "twill.1"}) != nil && b.kernel.get(routeKey(2)) == route
	})
}

func TestWhatGoesWithAReplacedLinkIsNoRepair(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	b.store.configs <- []byte(`{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "Port": 4789}}`)
	b.eventually("the device has the new port", func() bool {
		l, ok := b.kernel.get(backend.Key{Kind: backend.KindLink, Name: "twill.1"}).(backend.Link)
		return ok && l.VXLAN.Port == 4789
	})
	b.eventually("and its routes", func() bool {
		b.kernel.mu.Lock()
		defer b.kernel.mu.Unlock()
		n := 0
		for _, c := range b.kernel.applied {
			if c.Key() == routeKey(2) {
				n++
			}
		}
		return n == 2
	})
	b.kernel.set(routeKey(2), nil)
	b.eventually("the route is back", func() bool { return b.agent.Status().Repairs.Total > 0 })
	require.Equal(t, map[string]int{"route": 1}, b.agent.Status().Repairs.ByKind)
}

func TestContentionIsPacedAndNamed(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	for range contended {
		b.kernel.set(routeKey(2), nil)
		b.eventually("repaired", func() bool { return b.kernel.get(routeKey(2)) != nil })
	}
	b.kernel.set(routeKey(2), nil)
	b.eventually("named", func() bool { return len(b.agent.Status().Contended) == 1 })
	require.Equal(t, routeKey(2).String(), b.agent.Status().Contended[0].Object)
	b.eventually("still repaired, later", func() bool { return b.kernel.get(routeKey(2)) != nil })
}

func TestOneFailingEntryBlocksNothing(t *testing.T) {
	k2 := routeKey(2)
	b := start(t, func(_ *Config, k *memKernel) { k.broken[k2] = errors.New("adding route 10.244.2.0/24: not today") })
	b.ready(peer(2, "n2"), peer(3, "n3"))
	require.NotNil(t, b.kernel.get(routeKey(3)))
	require.Equal(t, k2.String(), b.agent.Status().Failing[0].Object)
	b.kernel.mu.Lock()
	delete(b.kernel.broken, k2)
	b.kernel.mu.Unlock()
	b.eventually("it is tried again by itself", func() bool { return b.kernel.get(k2) != nil })
	b.eventually("and no longer named", func() bool { return len(b.agent.Status().Failing) == 0 })
}

func TestRefusedRecordsAreNamedAndOthersWork(t *testing.T) {
	b := start(t, nil)
	ours := peer(5, "thief")
	ours.Lease.PublicIPs[subnet.IPv4] = netip.MustParseAddr("192.168.0.1")
	vni := peer(6, "other-vni")
	vni.Lease.BackendData[subnet.IPv4] = `{"VNI":7,"VtepMAC":"02:00:00:00:00:06"}`
	b.ready(peer(2, "n2"), ours, vni, subnet.Record{Key: "garbage", Invalid: "lease key \"garbage\" is none"})
	s := b.agent.Status()
	require.Len(t, s.Peers, 1)
	require.Equal(t, []Refused{
		{Key: "10.244.5.0-24", Node: "thief", Reason: "its public IP 192.168.0.1 is also that of this node"},
		{Key: "10.244.6.0-24", Node: "other-vni", Reason: "its BackendData: VNI 7 is not this network's 1"},
		{Key: "garbage", Reason: "lease key \"garbage\" is none"},
	}, s.Refused)
	require.NotNil(t, b.kernel.get(routeKey(2)))
	require.Nil(t, b.kernel.get(routeKey(6)))
}

func TestRestoredStoreKeepsPeersForAWhile(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"), peer(3, "n3"))
	b.store.updates <- subnet.Update{Full: true, WentBack: true, Put: []subnet.Record{peer(2, "n2")}}
	b.store.updates <- subnet.Update{Put: []subnet.Record{peer(4, "n4")}} // in order behind the list
	b.eventually("the list was taken", func() bool { return b.kernel.get(routeKey(4)) != nil })
	require.NotNil(t, b.kernel.get(routeKey(3)), "n3 has time to announce itself again")
	b.agent.inbox.expire(time.Now().Add(removalDelay + time.Second))
	b.agent.inbox.poke()
	b.eventually("n3 did not", func() bool { return b.kernel.get(routeKey(3)) == nil })
}

func TestWarmRestartWritesNothing(t *testing.T) {
	first := start(t, nil)
	first.ready(peer(2, "n2"), peer(3, "n3"))
	state := first.kernel.state

	second := start(t, func(_ *Config, k *memKernel) { k.state = state })
	second.ready(peer(2, "n2"), peer(3, "n3"))
	require.Zero(t, second.kernel.writeCount())
}

func TestConfigChanges(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	b.store.configs <- []byte(`{"Network": "10.244.0.0/16", "Backend": {"MTU": 1400}}`)
	link := backend.Key{Kind: backend.KindLink, Name: "twill.1"}
	b.eventually("the device follows", func() bool {
		l, ok := b.kernel.get(link).(backend.Link)
		return ok && l.MTU == 1350
	})
	b.eventually("subnet.env follows", func() bool { return strings.Contains(readFile(t, b.agent.cfg.SubnetFile), "FLANNEL_MTU=1350\n") })

	for raw, why := range map[string]string{
		`{"Network": "10.9.0.0/16"}`:                               "IPv4 network 10.9.0.0/16 no longer leases this node's subnet 10.244.1.0/24; restarting twilld takes this node's subnet away",
		`{"Network": "192.168.0.0/16"}`:                            "network 192.168.0.0/16 holds the node's own address 192.168.0.1 on eth0: pods and nodes need networks apart, choose another Network; a restart of twilld before that leaves this node without a network",
		`{"Network": "10.244.0.0/16", "Backend":{"Type":"alloc"}}`: "Backend.Type changed from vxlan to alloc; it takes effect when twilld is restarted",
		`{"Netwrok": "10.244.0.0/16"}`:                             `Netwrok is not a key; did you mean Network? Keys: `,
	} {
		b.store.configs <- []byte(raw)
		b.eventually("it is refused with its reason", func() bool { return strings.HasPrefix(b.agent.Status().Config.Refused, why) })
		text := b.agent.Status().Text()
		require.Contains(t, text, "newest config refused, see problem\n")
		require.Equal(t, 1, strings.Count(text, why), "once is enough: %s", text)
		require.Contains(t, text, "; the old config stays at work\n")
	}
	require.True(t, b.agent.Status().Ready, "the old config is at work")
	require.NotNil(t, b.kernel.get(routeKey(2)))
}

func TestUnderlayChange(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	b.kernel.mu.Lock()
	b.kernel.host.Interfaces = []backend.Interface{{Name: "eth1", MTU: 9000, Up: true, Addresses: []backend.InterfaceAddress{
		{Prefix: netip.MustParsePrefix("192.168.5.1/24"), Usable: true}}}}
	b.kernel.host.Routes = []backend.HostRoute{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.5.254"), Link: "eth1"}}
	b.kernel.mu.Unlock()
	b.agent.inbox.event(backend.Event{Host: true}, everything)
	b.eventually("the device follows in place", func() bool {
		l, ok := b.kernel.get(backend.Key{Kind: backend.KindLink, Name: "twill.1"}).(backend.Link)
		return ok && l.Parent == "eth1" && l.Local == netip.MustParseAddr("192.168.5.1") && l.MTU == 8950
	})
	claim := <-b.store.claims
	require.Equal(t, netip.MustParseAddr("192.168.5.1"), claim.PublicIPs[subnet.IPv4], "announced again")
	require.Equal(t, netip.MustParsePrefix("10.244.1.0/24"), claim.Previous[subnet.IPv4])
}

// Without a network config it is said where one goes, unless the store is what
// is missing.
func TestNoConfig(t *testing.T) {
	b := start(t, func(c *Config, _ *memKernel) { c.NoConfig = "write one" })
	says := func(want string) {
		b.Helper()
		b.eventually(want, func() bool { return b.agent.Status().NotReady[0] == want })
	}
	says("no usable network config yet: write one")
	b.health <- StoreHealth{errors.New("connection refused")}
	says("no usable network config yet")
	b.health <- StoreHealth{}
	b.store.configs <- []byte("{}")
	says("no usable network config yet: Network is missing; it must be the overlay network's CIDR, as EnableIPv4 is true")
}

func TestReadiness(t *testing.T) {
	b := start(t, nil)
	b.eventually("it says what it waits for", func() bool {
		s := b.agent.Status()
		return !s.Ready && len(s.NotReady) == 2 && s.NotReady[0] == "no usable network config yet" && s.NotReady[1] == "no lease yet"
	})
	_, err := os.Stat(b.agent.cfg.SubnetFile)
	require.ErrorIs(t, err, os.ErrNotExist, "subnet.env is written only when it is true")
	b.ready()
	b.health <- StoreHealth{errors.New("connection refused")}
	b.eventually("a store that is down does not undo readiness", func() bool {
		s := b.agent.Status()
		return s.Ready && s.Store.Degraded != nil && s.Store.Error == "connection refused"
	})
	b.health <- StoreHealth{}
	b.eventually("and it comes back", func() bool { return b.agent.Status().Store.Degraded == nil })
}

func readFile(t *testing.T, name string) string {
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

// The kernel tells of what we did to an FDB entry, perhaps when its peer is back
// already, or gone: that is no repair, though the entry is made again, or deleted.
func TestLateEchoOfOurOwnIsNoRepair(t *testing.T) {
	synctest.Test(t, lateEchoOfOurOwnIsNoRepair)
}

func lateEchoOfOurOwnIsNoRepair(t *testing.T) {
	b := start(t, nil)
	n2 := peer(2, "n2")
	b.ready(n2, peer(3, "n3"))
	entry := backend.Key{Kind: backend.KindFDB, Name: "twill.1", MAC: subnet.MAC{2, 5: 2}}
	had := b.kernel.get(entry)
	require.NotNil(t, had)
	b.store.updates <- subnet.Update{Gone: []string{n2.Key}}
	b.eventually("the peer goes", func() bool { return b.kernel.get(entry) == nil })
	deletions := func() (n int) {
		b.kernel.mu.Lock()
		defer b.kernel.mu.Unlock()
		for _, k := range b.kernel.deleted {
			if k == entry {
				n++
			}
		}
		return n
	}
	once := deletions()
	b.agent.inbox.event(backend.Event{Key: entry, Object: had}, everything) // of when it came
	b.eventually("it is deleted once more", func() bool { return deletions() > once })
	b.store.updates <- subnet.Update{Put: []subnet.Record{n2}}
	b.eventually("and is back", func() bool { return b.kernel.get(routeKey(2)) != nil })
	b.kernel.mu.Lock()
	writes := b.kernel.writes
	b.kernel.mu.Unlock()
	<-time.After(8 * time.Second) // by the bubble's clock: the machine is busy
	b.agent.inbox.event(backend.Event{Key: entry}, everything)
	b.eventually("it is made again", func() bool {
		b.kernel.mu.Lock()
		defer b.kernel.mu.Unlock()
		return b.kernel.writes > writes
	})
	others := backend.Key{Kind: backend.KindFDB, Name: "twill.1", MAC: subnet.MAC{2, 5: 3}}
	b.kernel.set(others, nil)
	repaired := func(k backend.Key) bool {
		return slices.ContainsFunc(b.agent.Status().Repairs.Recent, func(r Repair) bool { return r.Object == k.String() })
	}
	b.eventually("what others delete is a repair", func() bool { return repaired(others) })
	require.False(t, repaired(entry))
}
