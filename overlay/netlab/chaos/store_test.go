package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

func storeActions() []action {
	return []action{
		{name: "store killed", weight: 6, plan: func(w *world, r *rand.Rand) fault {
			return fault{uses: []string{store}, hold: between(r, 0, 5*time.Second), do: w.killStore, undo: w.restartStore}
		}},
		{name: "store paused", weight: 5, plan: func(w *world, r *rand.Rand) fault {
			return fault{uses: []string{store}, hold: between(r, 0, 6*time.Second),
				do:   func(context.Context) error { return w.Store.Signal(syscall.SIGSTOP) },
				undo: func(context.Context) error { return w.Store.Signal(syscall.SIGCONT) }}
		}},
		{name: "store compacted", weight: 4, plan: func(w *world, _ *rand.Rand) fault {
			return fault{uses: []string{store}, do: w.compact}
		}},
		{name: "store compacted while a daemon is behind", weight: 3, plan: func(w *world, r *rand.Rand) fault {
			m, number := w.one(r), first+r.IntN(numbers)
			outer := paused(0, m)
			outer.uses = append(outer.uses, store)
			return meanwhile(outer, fault{what: "storm around " + numbered(number), do: func(ctx context.Context) error {
				if err := w.killStore(ctx); err != nil { // ends the watch of the daemon, which does not see it
					return err
				}
				if err := w.restartStore(ctx); err != nil {
					return err
				}
				for range 3 {
					if err := w.put(ctx, numbered(number), peer(number)); err != nil {
						return err
					}
					if err := w.delete(ctx, numbered(number)); err != nil {
						return err
					}
				}
				return w.compact(ctx)
			}})
		}},
		{name: "store backed up", weight: 4, plan: func(w *world, _ *rand.Rand) fault {
			chosen := func() { w.saved, w.moved = true, map[*member]bool{} }
			return fault{uses: []string{store}, chosen: chosen, do: func(ctx context.Context) error {
				_ = os.Remove(w.snapshot())
				_, err := w.Lan.Exec(ctx, "twill", "store", "backup", "--etcd-endpoints="+w.EtcdEndpoints()[0], w.snapshot())
				return err
			}}
		}},
		{name: "store restored from an older snapshot", weight: 5, when: func(w *world) bool { return w.saved }, plan: restored},
		{name: "store loses its data", weight: 2, plan: func(w *world, r *rand.Rand) fault {
			return fault{uses: []string{store}, hold: between(r, 0, 2*time.Second),
				do: func(ctx context.Context) error {
					return w.replaceData(ctx, func(context.Context) error { return os.RemoveAll(w.dataDir()) })
				}}
		}},
		{name: "network config spoilt", weight: 2, plan: func(w *world, r *rand.Rand) fault {
			bad := []string{`{"Network":"10.244.0.0/16"`, ``, `{"Network":"10.99.0.0/16"}`, `{"Netwrok":"10.244.0.0/16"}`,
				strings.Replace(netConf, "vxlan", "alloc", 1)}[r.IntN(5)]
			put := func(conf string) func(context.Context) error {
				return func(ctx context.Context) error { _, err := w.etcd.Put(ctx, netlab.ConfigKey, conf); return err }
			}
			// A daemon that starts with it cannot do anything with it.
			return fault{what: fmt.Sprintf("%.40q", bad), uses: append(names(w.members...), store), hold: between(r, 0, 2*time.Second),
				do: put(bad), undo: put(netConf)}
		}},
	}
}

func (w *world) snapshot() string { return filepath.Join(w.dir(), "older.db") }

func (w *world) killStore(ctx context.Context) error { return w.Store.Kill(ctx) }

func (w *world) restartStore(ctx context.Context) error {
	if err := w.Store.Restart(); err != nil {
		return err
	}
	if err := w.connect(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return poll(ctx, 20*time.Millisecond, func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := w.etcd.Get(ctx, netlab.ConfigKey)
		return err
	})
}

// compact makes etcd forget all that was before now.
func (w *world) compact(ctx context.Context) error {
	resp, err := w.etcd.Get(ctx, netlab.ConfigKey)
	if err != nil {
		return err
	}
	_, err = w.etcd.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) { // nothing was written since the last time
		return fmt.Errorf("compacting: %w", err)
	}
	return nil
}

// restored goes back to the snapshot. A node that has got another lease since
// may have to change it again.
func restored(w *world, r *rand.Rand) fault {
	bump := []string{"1000000000", "0"}[r.IntN(2)]
	moved := slices.SortedFunc(maps.Keys(w.moved), func(a, b *member) int { return a.index - b.index })
	return fault{what: "bump " + bump + ", moved since " + fmt.Sprint(names(moved...)), uses: append(names(w.members...), store), touches: wholly(moved...),
		do: func(ctx context.Context) error {
			return w.replaceData(ctx, func(ctx context.Context) error {
				if err := os.RemoveAll(w.dataDir()); err != nil {
					return err
				}
				_, err := w.Lan.Exec(ctx, "twill", "store", "restore", "--data-dir="+w.dataDir(), "--bump-revision="+bump, w.snapshot())
				return err
			})
		},
		after: func(ctx context.Context) error { return w.followLeases(ctx, moved) }}
}

// replaceData changes the store's data while it is down. The nodes that are in
// the store only announce themselves again, as real ones do.
func (w *world) replaceData(ctx context.Context, change func(context.Context) error) error {
	records, err := netlabtest.Records(ctx, w.etcd)
	if err != nil {
		return err
	}
	if err := w.killStore(ctx); err != nil {
		return err
	}
	w.replaced = time.Now()
	if err := change(ctx); err != nil {
		return err
	}
	if err := w.restartStore(ctx); err != nil {
		return err
	}
	if _, err := w.etcd.Put(ctx, netlab.ConfigKey, netConf); err != nil {
		return err
	}
	has := map[string]string{} // keys of the nodes that are in the store only
	for _, r := range records {
		if strings.HasPrefix(r.NodeName, "peer") {
			has[r.NodeName] = r.Key
			if err := w.put(ctx, r.Key, r); err != nil {
				return err
			}
		}
	}
	// A node that announces itself deletes what it had before.
	now, err := netlabtest.Records(ctx, w.etcd)
	if err != nil {
		return err
	}
	for _, r := range now {
		if key, ok := has[r.NodeName]; ok && key != r.Key {
			if _, err := w.etcd.Delete(ctx, netlabtest.Leases+r.Key); err != nil {
				return err
			}
		}
	}
	return nil
}

// followLeases makes the pods of nodes anew that have another subnet than
// their pods. Until then such a node is not well.
func (w *world) followLeases(ctx context.Context, ms []*member) error {
	for _, m := range ms {
		if !m.up {
			continue
		}
		s, err := m.status(ctx)
		if err != nil {
			return err
		}
		if len(s.Stranded) > 0 {
			if err := w.renewPods(ctx, m); err != nil {
				return err
			}
		}
	}
	return nil
}
