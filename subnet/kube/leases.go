package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/twill-net/twill/subnet"
)

// entry is a Node, as much of it as makes a lease.
type entry struct {
	name      string
	record    subnet.Record
	announced bool // else there is none
}

// WatchLeases calls on with all leases, and then with what changes, one call
// at a time, until ctx ends; called again, it begins with a full list again. A
// Node is a record, under its name, as soon as a daemon has announced itself
// there. A stream that breaks is resumed where it stood, if the API server
// still knows that place in its history; else all Nodes are listed, with
// WentBack where the history is another one.
//
// Records that cannot be used are passed on with Record.Invalid set. The error
// is always nil.
func (s *Store) WatchLeases(ctx context.Context, on func(subnet.Update)) error {
	known := map[string]subnet.Record{}
	f := &follower[*entry]{
		Store: s, task: taskLeases,
		take: func(n *corev1.Node) *entry {
			e := &entry{name: n.Name}
			e.record, e.announced = s.names.record(n)
			return e
		},
		replace: func(all []*entry, wentBack bool) {
			clear(known)
			u := subnet.Update{Full: true, WentBack: wentBack, Put: make([]subnet.Record, 0, len(all))}
			for _, e := range all {
				if e.announced {
					known[e.name] = e.record
					u.Put = append(u.Put, e.record)
				}
			}
			if wentBack {
				s.log.Warn("The API server went back in time: its etcd was restored from a backup")
			}
			on(u)
		},
		put: func(e *entry) {
			before, was := known[e.name]
			switch {
			case e.announced && was && same(before, e.record), !e.announced && !was:
			case e.announced:
				known[e.name] = e.record
				on(subnet.Update{Put: []subnet.Record{e.record}})
			default:
				delete(known, e.name)
				on(subnet.Update{Gone: []string{e.name}})
			}
		},
		gone: func(name string) {
			if _, was := known[name]; was {
				delete(known, name)
				on(subnet.Update{Gone: []string{name}})
			}
		},
	}
	f.moved = s.see
	f.run(ctx, s.Position())
	return nil
}

// Position returns how far WatchLeases has come, for Resume; "" before its first
// list. It is a resource version.
func (s *Store) Position() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// Resume takes the Position of an earlier run as how far WatchLeases has come:
// its first list then says WentBack if the API server's store is older than
// that. It is to be called before WatchLeases.
func (s *Store) Resume(at string) error {
	if _, err := resourceversion.CompareResourceVersion(at, at); err != nil {
		return fmt.Errorf("taking up position %q in the API server's history: it is not one that Position returned: %w", at, err)
	}
	s.see(at)
	return nil
}

// same reports whether two records of a Node are one lease: a heartbeat writes
// the Node, but changes nothing of it.
func same(a, b subnet.Record) bool {
	a.Modified = b.Modified
	return a == b
}

func (s *Store) see(version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = version
}
