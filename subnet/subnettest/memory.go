// Package subnettest holds what tests of stores need: a store in memory, and
// the contract that every store passes. Only tests may import it; it must not
// import a store.
package subnettest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd/acquire"
)

// Memory is a store in memory. Each node opens it; its faults are scripted by
// Break and Restore.
type Memory struct {
	mu      sync.Mutex
	changed chan struct{} // closed at each change
	broken  error
	config  []byte
	history int // counts how often the store went back in time
	rev     int64
	records map[string]subnet.Record
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{changed: make(chan struct{}), records: map[string]subnet.Record{}}
}

// Client is a Memory as one node sees it.
type Client struct {
	*Memory
	own subnet.Held // what Hold last held; under the lock
}

// Open returns the store for one node.
func (m *Memory) Open() *Client { return &Client{Memory: m} }

// update changes the store under its lock and wakes who waits.
func (m *Memory) update(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	m.wake()
}

func (m *Memory) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// watch calls look at first and after each change, under the lock; what look
// returns is called without it. It ends with ctx, or when the store breaks.
func (m *Memory) watch(ctx context.Context, look func() (tell func())) error {
	for {
		m.mu.Lock()
		err, changed := m.broken, m.changed
		var tell func()
		if err == nil {
			tell = look()
		}
		m.mu.Unlock()
		if err != nil {
			return err
		}
		if tell != nil {
			tell()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// WatchConfig is as a store's.
func (m *Memory) WatchConfig(ctx context.Context, on func(raw []byte)) error {
	var last []byte
	return m.watch(ctx, func() func() {
		if m.config == nil || (last != nil && string(last) == string(m.config)) {
			return nil
		}
		last = slices.Clone(m.config)
		raw := slices.Clone(last)
		return func() { on(raw) }
	})
}

// WatchLeases is as a store's.
func (m *Memory) WatchLeases(ctx context.Context, on func(subnet.Update)) error {
	var last map[string]subnet.Record
	history := -1
	return m.watch(ctx, func() func() {
		before := last
		last = maps.Clone(m.records)
		u := subnet.Update{Full: history != m.history, WentBack: history >= 0 && history != m.history}
		history = m.history
		for key, r := range last {
			if old, ok := before[key]; u.Full || !ok || old != r {
				u.Put = append(u.Put, r)
			}
		}
		for key := range before {
			if _, ok := last[key]; !ok && !u.Full {
				u.Gone = append(u.Gone, key)
			}
		}
		if !u.Full && len(u.Put)+len(u.Gone) == 0 {
			return nil
		}
		return func() { on(u) }
	})
}

// Hold is as a store's. Leases do not expire by themselves.
func (m *Client) Hold(ctx context.Context, claim subnet.Claim, held func(subnet.Held)) error {
	var failed error
	var last subnet.Held
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := m.watch(ctx, func() func() {
		own, err := m.acquire(claim)
		if err != nil {
			failed = err
			cancel()
			return nil
		}
		if last.Key == own.Key && last.Created == own.Created && last.Lease == own.Lease && last.Expires.IsZero() == own.Expires.IsZero() {
			return nil
		}
		last, m.own = own, own
		claim.Previous = own.Lease.Subnets
		return func() { held(own) }
	})
	return errors.Join(err, failed)
}

// TTL is what Held.Expires is ahead.
const TTL = 24 * time.Hour

func (m *Memory) acquire(claim subnet.Claim) (subnet.Held, error) {
	choice, err := acquire.Choose(claim, slices.Collect(maps.Values(m.records)))
	if err != nil {
		return subnet.Held{}, err
	}
	if !choice.Written() {
		m.rev++
		for _, r := range choice.Delete {
			delete(m.records, r.Key)
		}
		for _, r := range choice.Park {
			r.Lease, r.Modified = acquire.Parked(r.Lease), m.rev
			m.records[r.Key] = r
		}
		m.put(subnet.Record{Key: choice.Key, Lease: choice.Lease, Reserved: choice.Reserved()})
		m.wake()
	}
	held := subnet.Held{Lease: choice.Lease, Key: choice.Key, Created: m.records[choice.Key].Created}
	if !choice.Reserved() {
		held.Expires = time.Now().Add(TTL)
	}
	return held, nil
}

func (m *Memory) put(r subnet.Record) {
	r.Created, r.Modified = m.rev, m.rev
	if old, ok := m.records[r.Key]; ok {
		r.Created = old.Created
	}
	m.records[r.Key] = r
}

// Release is as a store's.
func (m *Client) Release(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return m.broken
	}
	r, ok := m.records[m.own.Key]
	if !ok || r.Created != m.own.Created || r.Lease != m.own.Lease {
		return nil
	}
	m.rev++
	if r.Reserved {
		r.Lease, r.Modified = acquire.Parked(r.Lease), m.rev
		m.records[r.Key] = r
	} else {
		delete(m.records, r.Key)
	}
	m.wake()
	return nil
}

// Close does nothing.
func (m *Memory) Close() error { return nil }

// SetConfig writes the network config; nil deletes it.
func (m *Memory) SetConfig(raw []byte) { m.update(func() { m.config = raw }) }

// Put writes a record as somebody else would, over whatever is there.
func (m *Memory) Put(r subnet.Record) {
	m.update(func() {
		m.rev++
		m.put(r)
	})
}

// Delete deletes a record, by whomever.
func (m *Memory) Delete(key string) {
	m.update(func() {
		m.rev++
		delete(m.records, key)
	})
}

// Records returns what the store holds, sorted by key.
func (m *Memory) Records() []subnet.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]subnet.Record, 0, len(m.records))
	for _, key := range slices.Sorted(maps.Keys(m.records)) {
		out = append(out, m.records[key])
	}
	return out
}

// Break makes everything under way and everything from now on fail with err,
// until Break(nil).
func (m *Memory) Break(err error) { m.update(func() { m.broken = err }) }

// Restore makes the store hold what it once held, as after a restore from a
// backup: it went back in time.
func (m *Memory) Restore(records []subnet.Record) {
	m.update(func() {
		m.history++
		m.records = map[string]subnet.Record{}
		for _, r := range records {
			m.records[r.Key] = r
		}
	})
}
