package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// Numbers of nodes that there are in the store only. They go into their
// addresses, clear of the nodes' own.
const (
	first   = 130
	numbers = 40
)

func leaseActions() []action {
	return []action{
		{name: "lease deleted", weight: 4, plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			return fault{what: m.Name, uses: append(names(m), store), touches: waysOf(m),
				do: func(ctx context.Context) error { return w.delete(ctx, m.record.Key) }}
		}},
		{name: "lease expired", weight: 4, plan: func(w *world, r *rand.Rand) fault {
			return w.expired(w.one(r))
		}},
		{name: "lease expired while the daemon is paused", weight: 3, plan: func(w *world, r *rand.Rand) fault {
			m := w.one(r)
			outer := paused(between(r, 0, 2*time.Second), m)
			outer.uses = append(outer.uses, store)
			return meanwhile(outer, w.expired(m))
		}},
		{name: "lease stolen", weight: 4, plan: stolen},
		{name: "peers come, change and go", weight: 6, plan: storm},
		{name: "subnet used again", weight: 4, plan: func(w *world, r *rand.Rand) fault {
			a, b, at := first+r.IntN(numbers), first+numbers+r.IntN(numbers), numbered(first+r.IntN(numbers))
			back := r.IntN(2) == 0
			return fault{what: fmt.Sprintf("%s: peer%d, peer%d, %v", at, a, b, back), uses: []string{store}, do: func(ctx context.Context) error {
				if err := w.clear(ctx, a, b); err != nil {
					return err
				}
				for _, number := range []int{a, b} {
					if err := w.put(ctx, at, peer(number)); err != nil {
						return err
					}
				}
				if !back {
					return nil
				}
				return errors.Join(w.delete(ctx, at), w.put(ctx, at, peer(a)))
			}}
		}},
		{name: "malformed lease", weight: 6, when: atLeast(2), plan: malformed},
	}
}

// expired ends the etcd lease that a node's key hangs on.
func (w *world) expired(m *member) fault {
	return fault{what: m.Name, uses: append(names(m), store), touches: waysOf(m), do: func(ctx context.Context) error {
		_, err := w.etcd.Revoke(ctx, m.record.LeaseID)
		return err
	}}
}

// stolen has another node's name in a node's key for a while: it takes another
// subnet, and its pods must be made anew.
func stolen(w *world, r *rand.Rand) fault {
	m := w.one(r)
	chosen := func() { w.moved[m] = true }
	return fault{what: m.Name, uses: append(names(m), store), touches: wholly(m), chosen: chosen, do: func(ctx context.Context) error {
		was := m.record
		if err := w.put(ctx, was.Key, peer(first+2*numbers)); err != nil {
			return err
		}
		within, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		err := poll(within, 20*time.Millisecond, func() error {
			s, err := m.status(within)
			if err == nil && (!s.Ready || s.Lease.Subnets[0] == was.Subnets[0].String()) {
				return fmt.Errorf("it has no other lease:\n%s", s.Text())
			}
			return err
		})
		if err != nil {
			return err
		}
		return errors.Join(w.renewPods(ctx, m), w.delete(ctx, was.Key))
	}}
}

// storm lets nodes that are in the store only come, change and leave.
func storm(w *world, r *rand.Rand) fault {
	type change struct {
		number, moved int
		leaves        bool
	}
	var changes []change
	for range 5 + r.IntN(30) {
		changes = append(changes, change{first + r.IntN(numbers), r.IntN(2), r.IntN(3) == 0})
	}
	return fault{what: fmt.Sprintf("%d changes", len(changes)), uses: []string{store}, do: func(ctx context.Context) error {
		for _, c := range changes {
			p := peer(c.number)
			p.BackendData.VtepMAC = fmt.Sprintf("02:00:00:%02x:04:%02x", c.moved, c.number)
			err := w.clear(ctx, c.number)
			if !c.leaves && err == nil {
				err = w.put(ctx, numbered(c.number), p)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}}
}

// malformed writes a record that must not count, and hurts nobody.
func malformed(w *world, r *rand.Rand) fault {
	m, number := w.one(r), first+2*numbers+1
	edit := func(change func(*netlabtest.Record)) func() any {
		return func() any { p := peer(number); change(&p); return p }
	}
	text := func(s string) func() any { return func() any { return s } }
	plain := edit(func(*netlabtest.Record) {})
	v6 := "&" + strings.SplitN(numbered(number), "&", 2)[1]
	kinds := []struct {
		name  string
		key   func() string // the usual one when nil
		value func() any
	}{
		{"bad JSON", nil, text(`{"PublicIP":"192.168.77.250"`)},
		{"a list", nil, text(`["PublicIP"]`)},
		{"nothing", nil, text(``)},
		{"null", nil, text(`null`)},
		{"long", nil, text(`{"PublicIP":"` + strings.Repeat("1", 100000) + `"}`)},
		{"a public IP that is none", nil, edit(func(p *netlabtest.Record) { p.PublicIP = "192.168.77.256" })},
		{"a node's public IP", nil, edit(func(p *netlabtest.Record) { p.PublicIP = m.record.PublicIP })},
		{"a node's MAC", nil, edit(func(p *netlabtest.Record) { p.BackendData.VtepMAC = m.record.MAC(subnet.IPv4) })},
		{"a multicast MAC", nil, edit(func(p *netlabtest.Record) { p.BackendData.VtepMAC = "01:00:5e:00:00:01" })},
		{"another VNI", nil, edit(func(p *netlabtest.Record) { p.BackendData.VNI = 9 })},
		{"no backend data", nil, edit(func(p *netlabtest.Record) { p.BackendData, p.BackendV6Data = nil, nil })},
		{"a node's IPv4 subnet", func() string { return strings.Replace(m.record.Subnets[0].String(), "/", "-", 1) + v6 }, plain},
		{"half of a node's subnet", func() string { return strings.Replace(m.record.Subnets[0].String(), "/24", "-25", 1) + v6 }, plain},
		{"the whole network", func() string { return "10.244.0.0-16" + v6 }, plain},
		{"out of the network", func() string { return "10.99.0.0-24" + v6 }, plain},
		{"no subnet", func() string { return "non-sense" + v6 }, plain},
	}
	k := kinds[r.IntN(len(kinds))]
	key := func() string {
		if k.key == nil {
			return numbered(number)
		}
		return k.key()
	}
	var written string
	return fault{what: k.name + " (" + m.Name + ")", uses: append(names(w.members...), store), do: func(ctx context.Context) error {
		written = key()
		if err := w.put(ctx, written, k.value()); err != nil {
			return err
		}
		within, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return w.each(within, w.in(), func(ctx context.Context, n *member) error {
			return poll(ctx, 20*time.Millisecond, func() error {
				s, err := n.status(ctx)
				if err == nil && len(s.Refused) != 1 {
					return fmt.Errorf("it refuses %d records:\n%s", len(s.Refused), s.Text())
				}
				return err
			})
		})
	}, undo: func(ctx context.Context) error { return w.delete(ctx, written) }}
}

// peer returns the record of a node that there is only in the store.
func peer(number int) netlabtest.Record {
	v6 := fmt.Sprintf("fd77::%x", number)
	return netlabtest.Record{
		NodeName: fmt.Sprintf("peer%d", number), MachineID: fmt.Sprintf("%032x", number),
		PublicIP: fmt.Sprintf("192.168.77.%d", number), PublicIPv6: &v6, BackendType: "vxlan",
		BackendData:   &netlabtest.VTEP{VNI: 1, VtepMAC: fmt.Sprintf("02:00:00:00:04:%02x", number)},
		BackendV6Data: &netlabtest.VTEP{VNI: 1, VtepMAC: fmt.Sprintf("02:00:00:00:06:%02x", number)},
	}
}

// numbered returns the key under which peer(number) stands.
func numbered(number int) string {
	return fmt.Sprintf("10.244.%d.0-24&fd00:244:0:%x::-64", number, number)
}

func (w *world) put(ctx context.Context, key string, value any) error {
	text, ok := value.(string)
	if !ok {
		b, err := json.Marshal(value)
		if err != nil {
			return err
		}
		text = string(b)
	}
	_, err := w.etcd.Put(ctx, netlabtest.Leases+key, text)
	return err
}

func (w *world) delete(ctx context.Context, key string) error {
	_, err := w.etcd.Delete(ctx, netlabtest.Leases+key)
	return err
}

// clear takes peers out of the store, wherever they are.
func (w *world) clear(ctx context.Context, peers ...int) error {
	records, err := netlabtest.Records(ctx, w.etcd)
	if err != nil {
		return err
	}
	for _, r := range records {
		for _, number := range peers {
			if r.NodeName == peer(number).NodeName {
				if err := w.delete(ctx, r.Key); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
