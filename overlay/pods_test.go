package overlay

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/subnet"
)

// memLinks is a host whose bridges can be changed.
type memLinks struct {
	*memKernel
	broken error // of the next change
}

func (l *memLinks) Behind(context.Context, string) (int, []netip.Addr, []netip.Addr, error) {
	return 0, nil, nil, errors.New("nobody asks")
}

func (l *memLinks) ApplyBridge(_ context.Context, changes []backend.Change) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	errs := make([]error, len(changes))
	for i, c := range changes {
		if errs[i], l.broken = l.broken, nil; errs[i] != nil {
			continue
		}
		b := l.link(c.Key().Name)
		b.Addresses = slices.DeleteFunc(slices.Clone(b.Addresses), func(a backend.InterfaceAddress) bool { return a.Prefix == c.Key().Prefix })
		if c.Want != nil {
			b.Addresses = append(b.Addresses, backend.InterfaceAddress{Prefix: c.Key().Prefix, Usable: true})
		}
	}
	return errs
}

func (l *memLinks) SetBridgeMTU(_ context.Context, name string, mtu int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.link(name).MTU = mtu
	return nil
}

func (l *memLinks) link(name string) *backend.Interface {
	i := slices.IndexFunc(l.host.Interfaces, func(i backend.Interface) bool { return i.Name == name })
	return &l.host.Interfaces[i]
}

func (l *memLinks) add(more ...backend.Interface) {
	l.mu.Lock()
	l.host.Interfaces = append(l.host.Interfaces, more...)
	tell := l.tell
	l.mu.Unlock()
	if tell != nil {
		tell(backend.Event{Host: true})
	}
}

func (l *memLinks) bridge() (addresses []string, mtu int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.link("cni0")
	for _, a := range b.Addresses {
		addresses = append(addresses, a.Prefix.String())
	}
	return addresses, b.MTU
}

// The bridge follows when the node gets another subnet; pods that are left in
// the old one are named, and no longer when they have gone.
func TestBridgeFollowsTheSubnet(t *testing.T) {
	links := &memLinks{}
	b := start(t, func(c *Config, k *memKernel) {
		links.memKernel, c.PodLinks = k, links
		c.CNIConfDir = t.TempDir()
		links.add(backend.Interface{Name: "cni0", Kind: "bridge", MTU: 1400, Addresses: []backend.InterfaceAddress{
			{Prefix: netip.MustParsePrefix("10.244.1.1/24"), Usable: true},
		}}, backend.Interface{Name: "veth1", Kind: "veth", MTU: 1450, Master: "cni0", Alias: "twill:cbr0/c1/eth0/10.244.1.7/"})
	})
	b.ready(peer(2, "n2"))
	b.eventually("the bridge has its ports' MTU", func() bool { _, mtu := links.bridge(); return mtu == 1450 })
	require.Empty(t, b.agent.Status().Stranded)

	links.mu.Lock()
	links.broken = errors.New("adding address 10.244.5.1/24 dev cni0: not now")
	links.mu.Unlock()
	own := peer(5, "n1").Lease
	own.PublicIPs[subnet.IPv4] = netip.MustParseAddr("192.168.0.1")
	b.store.helds <- subnet.Held{Lease: own}
	b.eventually("the trouble is told", func() bool {
		return slices.ContainsFunc(b.agent.Status().Problems, func(p Problem) bool { return p.What == partBridge })
	})
	links.add()
	b.eventually("the gateway is ours, and that of the pod's old subnet stays behind it", func() bool {
		have, _ := links.bridge()
		return slices.Equal(have, []string{"10.244.5.1/24", "10.244.1.1/24"})
	})
	b.eventually("the pod is named", func() bool {
		return slices.Equal(b.agent.Status().Stranded, []string{"c1/eth0 10.244.1.7"})
	})
	require.Contains(t, b.agent.Status().Text(), "pod c1/eth0 10.244.1.7: not in this node's subnet")

	links.mu.Lock()
	links.host.Interfaces = slices.DeleteFunc(links.host.Interfaces, func(i backend.Interface) bool { return i.Name == "veth1" })
	links.mu.Unlock()
	links.add()
	b.eventually("the old gateway goes with the last pod", func() bool {
		have, _ := links.bridge()
		return slices.Equal(have, []string{"10.244.5.1/24"})
	})
	b.eventually("all is well", func() bool { s := b.agent.Status(); return len(s.Stranded) == 0 && len(s.Problems) == 0 })
}

// A gateway that somebody takes from the bridge is a repair like any other:
// counted, told with before and after, and paced when something keeps at it.
func TestLostGatewayIsARepair(t *testing.T) {
	gateway4 := backend.InterfaceAddress{Prefix: netip.MustParsePrefix("10.244.1.1/24"), Usable: true}
	links := &memLinks{}
	b := start(t, func(c *Config, k *memKernel) {
		links.memKernel, c.PodLinks = k, links
		c.CNIConfDir = t.TempDir()
		links.add(backend.Interface{Name: "cni0", Kind: "bridge", MTU: 1450, Addresses: []backend.InterfaceAddress{
			gateway4, {Prefix: netip.MustParsePrefix("fd00:1::1/64"), Usable: true},
		}}, backend.Interface{Name: "veth1", Kind: "veth", MTU: 1450, Master: "cni0", Alias: "twill:cbr0/c1/eth0/10.244.1.7/fd00:1::7"})
	})
	b.store.configs <- []byte(`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:1::/48"}`)
	claim := <-b.store.claims
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{
		netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:1::/64"),
	})}
	b.store.updates <- subnet.Update{Full: true}
	b.eventually("the agent is ready", func() bool { return b.agent.Status().Ready })
	b.eventually("the bridge was found in order", func() bool { return b.kernel.looked().interfaces > 0 })
	mended := func() bool { have, _ := links.bridge(); return slices.Contains(have, "fd00:1::1/64") }
	lose := func() { // as the kernel does when the bridge goes down
		links.mu.Lock()
		links.link("cni0").Addresses = []backend.InterfaceAddress{gateway4}
		links.mu.Unlock()
		links.add()
	}
	for n := range contended {
		lose()
		b.eventually("it is back, and told", func() bool { return mended() && b.agent.Status().Repairs.ByKind["address"] == n+1 })
	}
	const object = "address fd00:1::1/64 dev cni0"
	recent := b.agent.Status().Repairs.Recent
	last := recent[len(recent)-1]
	last.Time = time.Time{}
	require.Equal(t, Repair{Object: object, Before: "absent", After: object, Times: contended}, last)
	lose()
	b.eventually("it is named", func() bool { return slices.Equal(b.agent.Status().Contended, []Contended{{object, contended}}) })
	b.eventually("back, later", mended)
}

// Addresses of pods that did not survive a reboot are free at once.
func TestStaleReservationsAreReleased(t *testing.T) {
	conf, data := t.TempDir(), t.TempDir()
	write := func(path, text string, age time.Duration) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		then := time.Now().Add(-age)
		require.NoError(t, os.Chtimes(path, then, then))
	}
	write(conf+"/10-twill.conflist", `{"name": "cbr0", "cniVersion": "1.0.0", "plugins": [
		{"type": "twill", "ipam": {"dataDir": "`+data+`"}}]}`, 0)
	write(conf+"/05-other.conflist", `{"name": "other", "cniVersion": "1.0.0", "plugins": [{"type": "macvlan"}]}`, 0)
	stale, fresh, live := data+"/cbr0/10.244.1.2", data+"/cbr0/10.244.1.3", data+"/cbr0/10.244.1.4"
	write(stale, "gone\r\neth0", time.Hour)
	write(fresh, "new\r\neth0", time.Minute)
	write(live, "c1\r\neth0", time.Hour)

	b := start(t, func(c *Config, k *memKernel) {
		links := &memLinks{memKernel: k}
		c.PodLinks, c.CNIConfDir = links, conf
		links.add(backend.Interface{Name: "veth1", Kind: "veth", Alias: "twill:cbr0/c1/eth0/10.244.1.4/"})
	})
	b.ready(peer(2, "n2"))
	b.eventually("the stale one is gone", func() bool { _, err := os.Stat(stale); return os.IsNotExist(err) })
	require.FileExists(t, fresh)
	require.FileExists(t, live)
	b.eventually("what comes before our config is named", func() bool {
		return slices.ContainsFunc(b.agent.Status().Problems, func(p Problem) bool {
			return p.What == partCNI && strings.HasPrefix(p.Error, "runtimes take 05-other.conflist (network other, macvlan), which sorts before ours in "+conf)
		})
	})
}

// A veth that nobody can place is named, once, for as long as addresses stay
// reserved for its sake.
func TestVethThatStopsTheSweep(t *testing.T) {
	conf, data := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(conf+"/10-twill.conflist", []byte(`{"name": "cbr0", "cniVersion": "1.0.0", "plugins": [
		{"type": "twill", "ipam": {"dataDir": "`+data+`"}}]}`), 0o600))
	stale := data + "/cbr0/10.244.1.2"
	require.NoError(t, os.Mkdir(filepath.Dir(stale), 0o755))
	require.NoError(t, os.WriteFile(stale, []byte("gone\r\neth0"), 0o600))
	then := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(stale, then, then))

	var links *memLinks
	var log *logtest.Hook
	b := start(t, func(c *Config, k *memKernel) {
		links = &memLinks{memKernel: k}
		log = logtest.NewLocal(c.Log.Logger)
		c.PodLinks, c.CNIConfDir = links, conf
		links.add(backend.Interface{Name: "ve-web", Kind: "veth"})
	})
	b.ready(peer(2, "n2"))
	told := func() (all []string) {
		for _, p := range b.agent.Status().Problems {
			if p.What == partSweep {
				all = append(all, p.Error)
			}
		}
		return all
	}
	sweep := func() { b.agent.sweepNow <- struct{}{} }
	const text = "1 reserved address looks stale and is kept, as nobody can tell what is behind veth ve-web: delete it if nothing uses it, or give its other end an address"
	b.eventually("the veth is named", func() bool { sweep(); return slices.Equal(told(), []string{text}) })
	for range 3 {
		sweep()
	}
	logged := func(text string) (n int) {
		for _, e := range log.AllEntries() {
			if e.Message == text {
				n++
			}
		}
		return n
	}
	require.Equal(t, 1, logged("addresses of pods that seem gone stay reserved: nobody can tell what is behind these veths"))

	links.mu.Lock()
	links.host.Interfaces = slices.DeleteFunc(links.host.Interfaces, func(i backend.Interface) bool { return i.Name == "ve-web" })
	links.mu.Unlock()
	b.eventually("all is well", func() bool { sweep(); return len(told()) == 0 })
	require.NoFileExists(t, stale)
}

// Who is named was there at the sweep before, too: most of them belong to an
// ADD that is done a moment later.
func TestNamedVeths(t *testing.T) {
	a, b := pods.Veth{Name: "a", Index: 1}, pods.Veth{Name: "b", Index: 2}
	k := kept{}
	require.NoError(t, k.look(pods.Swept{Kept: 2, Unknown: []pods.Veth{a}}))
	require.NoError(t, k.look(pods.Swept{Kept: 2, Unknown: []pods.Veth{b}}))
	require.EqualError(t, k.look(pods.Swept{Kept: 2, Unknown: []pods.Veth{a, b}}),
		"2 reserved addresses look stale and are kept, as nobody can tell what is behind veth b: delete it if nothing uses it, or give its other end an address")
	require.Equal(t, []string{"b"}, k.named)
	require.ErrorContains(t, k.look(pods.Swept{Kept: 2, Unknown: []pods.Veth{a, b}}), "behind veths a, b: delete them if nothing uses them, or give their other ends addresses")
	var many []pods.Veth
	for i := range 12 {
		many = append(many, pods.Veth{Name: "veth" + strconv.Itoa(i), Index: 10 + i})
	}
	require.NoError(t, k.look(pods.Swept{Kept: 2, Unknown: many}))
	require.ErrorContains(t, k.look(pods.Swept{Kept: 2, Unknown: many}), "behind veths veth0, veth1, veth2, veth3, veth4 and 7 more: ")
	require.NoError(t, k.look(pods.Swept{}))
	require.Empty(t, k.named)
}
