package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

var twill1 = backend.Key{Kind: backend.KindLink, Name: "twill.1"}

func TestLostLeaseIsNotReady(t *testing.T) {
	for _, why := range []error{
		fmt.Errorf("the node name \"n1\" belongs to two machines: %w", subnet.ErrDuplicate),
		fmt.Errorf("acquiring a lease: %w", subnet.ErrExhausted),
		fmt.Errorf("Node n1 has no podCIDRs: %w", subnet.ErrNoLease),
	} {
		b := start(t, nil)
		b.ready(peer(2, "n2"))
		b.store.lose <- why
		b.eventually("it says so", func() bool {
			s := b.agent.Status()
			return !s.Ready && strings.Contains(strings.Join(s.NotReady, ""), why.Error())
		})
		require.NotNil(t, b.kernel.get(routeKey(2)), "what flows, flows on")
		claim := <-b.store.claims // it is tried again
		b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})}
		b.eventually("ready again", func() bool { return b.agent.Status().Ready })
	}
}

// In a container sysctls cannot be written: one that is wrong is told, and told
// no more when somebody else mends it. Only without forwarding there is no
// network.
func TestSysctlsThatCannotBeWritten(t *testing.T) {
	filter := backend.Sysctl{Name: "net/ipv4/conf/twill.1/rp_filter", Value: "2"}
	forward := backend.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}
	readOnly := errors.New("read-only file system")
	b := start(t, func(_ *Config, k *memKernel) { k.broken[filter.Key()] = readOnly })
	b.ready(peer(2, "n2"))
	failing := func(keys ...backend.Key) func() bool {
		return func() bool {
			f := b.agent.Status().Failing
			if len(f) != len(keys) || b.agent.counts().sysctls != len(keys) {
				return false
			}
			for i, k := range keys {
				if f[i].Object != k.String() || f[i].Error != readOnly.Error() {
					return false
				}
			}
			return true
		}
	}
	b.eventually("it is told", failing(filter.Key()))
	b.kernel.set(filter.Key(), filter)
	b.eventually("somebody mended it", failing())
	other := filter
	other.Value = "1"
	b.kernel.set(filter.Key(), other)
	b.eventually("it drifted", failing(filter.Key()))
	require.True(t, b.agent.Status().Ready)

	b.kernel.mu.Lock()
	b.kernel.broken[forward.Key()] = readOnly
	b.kernel.mu.Unlock()
	b.kernel.set(forward.Key(), backend.Sysctl{Name: forward.Name, Value: "0"})
	b.eventually("no pod reaches another node", func() bool {
		return slices.Equal(b.agent.Status().NotReady, []string{"forwarding is off: read-only file system"})
	})
	b.kernel.set(forward.Key(), forward)
	b.eventually("ready again", func() bool { return b.agent.Status().Ready })
	b.kernel.set(filter.Key(), filter)
	b.eventually("all is well", failing())
}

func TestStoreThatRefusesLosesNoLease(t *testing.T) {
	var log *logtest.Hook
	b := start(t, func(c *Config, _ *memKernel) { log = logtest.NewLocal(c.Log.Logger) })
	b.ready(peer(2, "n2"))
	b.store.lose <- errors.New("etcd: permission denied")
	b.eventually("it is told", func() bool { return len(b.agent.Status().Problems) == 1 })
	require.True(t, b.agent.Status().Ready, "nobody else has our lease")
	b.eventually("in an operator's words", func() bool {
		return slices.ContainsFunc(log.AllEntries(), func(e *logrus.Entry) bool {
			return e.Message == "this node's subnet could not be leased or renewed, will retry" && e.Data["task"] == partLease
		})
	})
}

// The reconciler never waits for hold, whichever claim hold puts back.
func TestPublishNeverBlocks(t *testing.T) {
	a := &Agent{claims: make(chan subnet.Claim, 1)}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				a.offer(subnet.Claim{Node: "old"})
			}
		}
	}()
	for range 100_000 {
		a.publish(subnet.Claim{Node: "new"})
	}
	close(stop)
	<-stopped
}

// The device went with its parent. What hung on it is neither a failure nor a
// line in the log of its own, and all is made at once when the host's network
// is back, however long it was away.
func TestDeviceThatCannotBeMade(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"), peer(3, "n3"))
	b.kernel.mu.Lock()
	b.kernel.broken[twill1] = fmt.Errorf("finding the parent eth0: %w", syscall.ENODEV)
	for _, o := range b.kernel.state {
		if onLink(o, "twill.1") {
			b.kernel.broken[o.Key()] = fmt.Errorf("finding link twill.1: %w", syscall.ENODEV)
		}
	}
	b.kernel.mu.Unlock()
	b.kernel.set(twill1, nil)
	b.eventually("not ready, and why", func() bool {
		return slices.Equal(b.agent.Status().NotReady, []string{"the device is not as it must be: finding the parent eth0: no such device"})
	})
	require.Contains(t, b.agent.Status().Text(), "\nproblem    link twill.1 since ")
	b.kernel.set(routeKey(2), nil) // as the kernel tells of each entry
	b.eventually("tried more than once", func() bool {
		b.kernel.mu.Lock()
		defer b.kernel.mu.Unlock()
		n := 0
		for _, c := range b.kernel.applied {
			if c.Key() == twill1 {
				n++
			}
		}
		return n > 4
	})
	require.Empty(t, b.agent.Status().Contended)
	for _, f := range b.agent.Status().Failing {
		require.Equal(t, twill1.String(), f.Object)
	}
	b.kernel.mu.Lock()
	clear(b.kernel.broken)
	b.kernel.mu.Unlock()
	b.agent.inbox.event(backend.Event{Host: true}, everything)
	b.eventually("all is back", func() bool {
		return b.agent.Status().Ready && b.kernel.get(routeKey(2)) != nil && b.kernel.get(routeKey(3)) != nil
	})
	require.Empty(t, b.agent.Status().Failing)
}

// What could not be made while the host's network was another is tried when
// that changes, not when the backoff says so.
func TestHostChangeIsANewTry(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	k2 := routeKey(2)
	b.kernel.mu.Lock()
	b.kernel.broken[k2] = errors.New("adding route 10.244.2.0/24: network is down")
	b.kernel.mu.Unlock()
	b.kernel.set(k2, nil)
	b.eventually("failing", func() bool { return len(b.agent.Status().Failing) == 1 })
	b.agent.inbox.put(func(n *news) { n.nodes = nil }) // a pass, with the next try far away
	b.kernel.mu.Lock()
	delete(b.kernel.broken, k2)
	b.kernel.mu.Unlock()
	b.agent.inbox.event(backend.Event{Host: true}, everything)
	b.eventually("it is back", func() bool { return b.kernel.get(k2) != nil })
}

// A restored store is doubted for a minute, also when it lists again.
func TestDoubtOutlivesAnotherList(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"), peer(3, "n3"))
	b.store.updates <- subnet.Update{Full: true, WentBack: true, Put: []subnet.Record{peer(2, "n2")}}
	b.store.updates <- subnet.Update{Full: true, Put: []subnet.Record{peer(2, "n2"), peer(4, "n4")}}
	b.eventually("the second list was taken", func() bool { return b.kernel.get(routeKey(4)) != nil })
	require.NotNil(t, b.kernel.get(routeKey(3)))
}

// A node that announces itself elsewhere is there, although its doubtful record
// carries the higher revision, of a history that is no more.
func TestAnnouncementBeatsDoubtfulRecord(t *testing.T) {
	b := start(t, nil)
	old := peer(3, "n3")
	old.Created, old.Modified = 9000, 9000
	b.ready(peer(2, "n2"), old)
	b.store.updates <- subnet.Update{Full: true, WentBack: true, Put: []subnet.Record{peer(2, "n2")}}
	moved := peer(9, "n3")
	moved.Created, moved.Modified = 5001, 5001
	b.store.updates <- subnet.Update{Put: []subnet.Record{moved}}
	b.eventually("the way to where it is", func() bool { return b.kernel.get(routeKey(9)) != nil && b.kernel.get(routeKey(3)) == nil })
}

// A record as old as the backup does not beat where the node was last seen.
func TestBackupDoesNotBeatDoubtfulRecord(t *testing.T) {
	b := start(t, nil)
	now := peer(3, "n3")
	now.Created, now.Modified = 9000, 9000
	b.ready(now)
	was := peer(8, "n3")
	b.store.updates <- subnet.Update{Full: true, WentBack: true, Put: []subnet.Record{was, peer(4, "n4")}}
	b.eventually("the list was taken", func() bool { return b.kernel.get(routeKey(4)) != nil })
	require.NotNil(t, b.kernel.get(routeKey(3)))
	require.Nil(t, b.kernel.get(routeKey(8)))
}

// via returns to which node the packets for a VTEP go, by the last octet of its
// MAC address.
func (b *bench) via(i byte) netip.Addr {
	b.kernel.mu.Lock()
	defer b.kernel.mu.Unlock()
	for _, o := range b.kernel.state {
		if f, ok := o.(backend.FDB); ok && f.MAC == (subnet.MAC{2, 5: i}) {
			return f.Dst
		}
	}
	return netip.Addr{}
}

// Nor does one of another node that had the subnet then: who has it now will say
// so, and is in its place meanwhile.
func TestFormerOwnerDoesNotBeatDoubtfulRecord(t *testing.T) {
	newer := func(i byte, name string, modified int64) subnet.Record {
		r := peer(i, name)
		r.Created, r.Modified = modified, modified
		return r
	}
	now, moved := newer(3, "n3", 9000), newer(8, "n2", 9001)
	was := peer(3, "n2")
	was.Lease.PublicIPs[subnet.IPv4] = netip.MustParseAddr("192.168.0.77")
	wentBack := subnet.Update{Full: true, WentBack: true, Put: []subnet.Record{was, peer(4, "n4")}}
	taken := func(b *bench) {
		b.store.updates <- wentBack
		b.eventually("the list was taken", func() bool { return b.kernel.get(routeKey(4)) != nil })
		require.Equal(t, now.Lease.PublicIPs[0], b.via(3))
		require.Equal(t, moved.Lease.PublicIPs[0], b.via(8))
	}
	last := func(b *bench) {
		b.store.updates <- subnet.Update{Put: []subnet.Record{peer(5, "n5")}}
		b.eventually("what came last was taken", func() bool { return b.kernel.get(routeKey(5)) != nil })
	}
	for name, then := range map[string]func(*bench){
		"listed again": func(b *bench) {
			b.store.updates <- subnet.Update{Full: true, Put: []subnet.Record{was, peer(4, "n4")}}
			last(b)
			require.Equal(t, now.Lease.PublicIPs[0], b.via(3))
		},
		"the former one goes": func(b *bench) {
			b.store.updates <- subnet.Update{Put: []subnet.Record{newer(8, "n2", 5000)}, Gone: []string{was.Key}}
			last(b)
			require.Equal(t, now.Lease.PublicIPs[0], b.via(3))
		},
		"its owner says so": func(b *bench) {
			b.store.updates <- subnet.Update{Put: []subnet.Record{newer(3, "n3", 5000)}}
			b.store.updates <- subnet.Update{Gone: []string{now.Key}}
			b.eventually("and goes", func() bool { return b.kernel.get(routeKey(3)) == nil })
		},
		"its owner is elsewhere": func(b *bench) {
			b.store.updates <- subnet.Update{Put: []subnet.Record{newer(9, "n3", 5000)}}
			b.eventually("the way to where it is", func() bool { return b.kernel.get(routeKey(9)) != nil })
			b.eventually("and not to where it was", func() bool { return b.via(3) != now.Lease.PublicIPs[0] })
		},
		"the former one says so": func(b *bench) {
			again := was
			again.Modified = 5000
			b.store.updates <- subnet.Update{Put: []subnet.Record{again}}
			b.eventually("it is", func() bool { return b.via(3) == was.Lease.PublicIPs[0] })
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			b.ready(now, moved)
			taken(b)
			then(b)
		})
	}
}

func TestWatchThatWorksAgainIsNoProblem(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	b.kernel.fail <- errors.New("watching the kernel: no buffer space")
	b.eventually("it watches again, and that is told", func() bool { return len(b.agent.Status().Problems) == 0 })
	b.kernel.fail <- errors.New("watching the kernel: no buffer space")
	b.eventually("told again", func() bool { return len(b.agent.Status().Problems) == 0 })
	b.kernel.set(routeKey(2), nil)
	b.eventually("it works", func() bool { return b.kernel.get(routeKey(2)) != nil })
}

func TestRulesThatFailAreNamedAndHoldNothingUp(t *testing.T) {
	synctest.Test(t, rulesThatFailAreNamedAndHoldNothingUp)
}

func rulesThatFailAreNamedAndHoldNothingUp(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"))
	b.firewall.mu.Lock()
	b.firewall.broken = errors.New("writing table inet twill: operation not permitted")
	b.firewall.mu.Unlock()
	b.store.configs <- []byte(`{"Network": "10.244.0.0/16", "Backend": {"MTU": 1400}}`)
	b.agent.inbox.rules()
	b.eventually("they are named", func() bool {
		s := b.agent.Status()
		return len(s.NotReady) == 1 && s.NotReady[0] == "the rules are not in: writing table inet twill: operation not permitted"
	})
	b.eventually("subnet.env is right", func() bool { return strings.Contains(readFile(t, b.agent.cfg.SubnetFile), "FLANNEL_MTU=1350\n") })

	// Whatever else happens meanwhile, they are tried less and less often.
	passes := 0
	b.eventually("many passes", func() bool {
		b.agent.inbox.rules()
		b.kernel.set(routeKey(2), nil)
		passes++
		return passes > 100
	})
	b.firewall.mu.Lock()
	tries := b.firewall.syncs
	b.firewall.broken = nil
	b.firewall.mu.Unlock()
	require.Less(t, tries, 12)
	b.eventually("they are in", func() bool { return b.agent.Status().Ready })
}

// With a Have the kernel replaces whatever has a route's place, whoever's it
// is: a plan may claim one only if the route went in.
func TestPlanDoesNotClaimWhatNeverWentIn(t *testing.T) {
	b := start(t, func(_ *Config, k *memKernel) {
		k.host.Routes = append(k.host.Routes, backend.HostRoute{Dst: netip.MustParsePrefix("192.168.0.0/24"), Link: "eth0"})
		k.broken[routeKey(2)] = errors.New("adding route 10.244.2.0/24: a foreign route of protocol static takes its place")
	})
	b.store.configs <- []byte(`{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": true}}`)
	claim := <-b.store.claims
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})}
	p := peer(2, "n2")
	b.store.updates <- subnet.Update{Full: true, Put: []subnet.Record{p}}
	b.eventually("failing", func() bool { return len(b.agent.Status().Failing) == 1 })
	moved := netip.MustParseAddr("192.168.0.77")
	p.Lease.PublicIPs[subnet.IPv4] = moved
	p.Modified++
	b.store.updates <- subnet.Update{Put: []subnet.Record{p}}
	var tried backend.Change
	b.eventually("tried", func() bool {
		b.kernel.mu.Lock()
		defer b.kernel.mu.Unlock()
		for _, c := range b.kernel.applied {
			if r, ok := c.Want.(backend.Route); ok && r.Via == moved {
				tried = c
				return true
			}
		}
		return false
	})
	require.Nil(t, tried.Have)
}

func TestLinkThatFlapsIsOneContention(t *testing.T) {
	b := start(t, nil)
	b.ready(peer(2, "n2"), peer(3, "n3"))
	for range contended {
		b.kernel.set(twill1, nil)
		b.eventually("back", func() bool { return b.kernel.get(twill1) != nil && b.kernel.get(routeKey(3)) != nil })
	}
	b.eventually("one is named", func() bool {
		c := b.agent.Status().Contended
		return len(c) == 1 && c[0].Object == twill1.String()
	})
}

// Rules that something else rewrites again and again are repaired ever more
// slowly, and named.
func TestContendedRules(t *testing.T) {
	b := start(t, nil)
	b.ready()
	spoil := func() {
		b.firewall.mu.Lock()
		b.firewall.rules = nil
		b.firewall.mu.Unlock()
		b.agent.inbox.rules()
	}
	mended := func() bool {
		b.firewall.mu.Lock()
		defer b.firewall.mu.Unlock()
		return b.firewall.rules != nil
	}
	for range contended {
		spoil()
		b.eventually("mended", mended)
	}
	spoil()
	b.eventually("named", func() bool {
		c := b.agent.Status().Contended
		return len(c) == 1 && c[0].Object == "rules"
	})
	b.eventually("mended, later", mended)
	require.True(t, b.agent.Status().Ready)
}

func TestNetworkThatHoldsTheUnderlay(t *testing.T) {
	b := start(t, nil)
	b.store.configs <- []byte(`{"Network": "192.168.0.0/16"}`)
	b.eventually("both are named", func() bool {
		return strings.Contains(strings.Join(b.agent.Status().NotReady, ""), "network 192.168.0.0/16 holds the node's own address 192.168.0.1 on eth0")
	})
	b.ready() // with a config that fits
}

func TestSocketOfAnother(t *testing.T) {
	socket := t.TempDir() + "/twilld.sock"
	first := start(t, func(c *Config, _ *memKernel) { c.Socket = socket })
	first.eventually("it answers", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	_, err := listenUnix(socket)
	require.EqualError(t, err, "another twilld answers there: stop it first, a host has one")

	file := t.TempDir() + "/file"
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = listenUnix(file)
	require.EqualError(t, err, "something else than a socket is there")
	require.FileExists(t, file)
}
