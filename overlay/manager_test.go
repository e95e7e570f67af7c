package overlay

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

// memManager keeps what it is told.
type memManager struct {
	envFile string

	mu    sync.Mutex
	lines []string
	ready bool // and subnet.env was there
	alive func() bool
}

func (m *memManager) Ready() {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := envfile.Read(m.envFile)
	m.ready = err == nil
}

func (m *memManager) Status(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines = append(m.lines, line)
}

func (m *memManager) Run(ctx context.Context, live func() bool) {
	m.mu.Lock()
	m.alive = live
	m.mu.Unlock()
	<-ctx.Done()
}

func (m *memManager) told(line string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.lines, line)
}

func TestManagerIsTold(t *testing.T) {
	m := &memManager{}
	b := start(t, func(c *Config, _ *memKernel) { m.envFile, c.Manager = c.SubnetFile, m })
	b.eventually("it is told what we wait for", func() bool {
		return m.told("waiting: no usable network config yet; no lease yet")
	})
	b.store.configs <- []byte(netConf)
	claim := <-b.store.claims
	b.eventually("and then", func() bool { return m.told("waiting: no lease yet") })
	b.store.helds <- subnet.Held{Lease: claim.Announcement(subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")})}
	b.eventually("ready is told when subnet.env is there", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.ready })
	b.eventually("and what is still to come", func() bool { return m.told("waiting: the first full list of peers is not programmed") })
	b.store.updates <- subnet.Update{Full: true, Put: []subnet.Record{peer(2, "n2"), peer(3, "n3")}}
	b.eventually("the rest", func() bool { return m.told("ready: subnet 10.244.1.0/24, ways to 2 peers") })
	b.eventually("it may ask whether we are alive", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.alive != nil && m.alive() })
}
