package guard

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// Watch calls tell for each change of our tables that was not made by t itself,
// until ctx is over, which is no error. The first event has Resync set: nothing from there on is missed,
// whatever was before must be observed. Further ones with Resync tell that
// notifications were lost, that a table or a set is gone, or that something is
// in a table which is not ours.
//
// A Permit is told with its Key, and with the Object while it is there. After a
// transaction that touched chains, rules or a Pod, these are read and told as
// they are then. Tell must return soon.
//
// What t writes is in force when Apply returns, so that nobody needs to be told:
// at 20 000 peers that is 40 000 notifications and more.
func (t *Tables) Watch(ctx context.Context, tell func(backend.Event)) error {
	tables, err := t.tables(ctx)
	if err != nil {
		return err
	}
	w := watcher{t: t, tables: tables, tell: tell}
	err = nfnetlink.Watch(ctx, t.cfg.NetNS, w.reset, func(m netlink.Message) { w.message(ctx, m) })
	if err != nil {
		return fmt.Errorf("watching the tables of the guard: %w%s", err, advice(err))
	}
	return nil
}

// watcher collects what a transaction did.
type watcher struct {
	t      *Tables
	tables []nfnetlink.Table
	tell   func(backend.Event)

	rules bool            // chains or rules changed
	links map[string]bool // Pods that changed
	lost  bool
}

func (w *watcher) reset() {
	*w = watcher{t: w.t, tables: w.tables, tell: w.tell}
	w.tell(backend.Event{Resync: true})
}

func (w *watcher) message(ctx context.Context, m netlink.Message) {
	if w.t.session.Sent(m) {
		return
	}
	if nfnetlink.EndOfTransaction(m) {
		w.settle(ctx)
		return
	}
	if table, ok := nfnetlink.TableOf(m); !ok || table != vtep() && table != pods() {
		return
	}
	switch kind := int(m.Header.Type) &^ (unix.NFNL_SUBSYS_NFTABLES << 8); kind {
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		w.elements(m, kind == unix.NFT_MSG_NEWSETELEM)
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELSET:
		w.lost = true
	default:
		w.rules = true
	}
}

func (w *watcher) elements(m netlink.Message, there bool) {
	err := decodeElements(m, func(e *element) {
		if e.ofPod() {
			if w.links == nil {
				w.links = map[string]bool{}
			}
			w.links[e.link()] = true
			return
		}
		p := e.permit()
		event := backend.Event{Key: p.Key()}
		if there {
			event.Object = p
		}
		w.tell(event)
	})
	if err != nil {
		w.rules = true // not ours: the table will be found broken
		w.lost = true
	}
}

// settle tells what the transaction left.
func (w *watcher) settle(ctx context.Context) {
	rules, links, lost := w.rules, w.links, w.lost
	w.rules, w.links, w.lost = false, nil, false
	if lost {
		w.tell(backend.Event{Resync: true})
		return
	}
	if !rules && len(links) == 0 {
		return
	}
	var guard *hygiene.Guard
	var have map[string]hygiene.Pod
	err := w.t.stable(ctx, func(conn *netlink.Conn) (err error) {
		if rules {
			if guard, _, err = observeGuard(conn, w.tables); err != nil {
				return err
			}
		}
		if len(links) > 0 {
			have, _, err = observePods(conn, w.tables)
		}
		return err
	})
	if err != nil || guard != nil && guard.Condition == hygiene.Broken {
		if err == nil || !errors.Is(err, context.Canceled) {
			w.tell(backend.Event{Resync: true})
		}
		return
	}
	if rules {
		event := backend.Event{Key: hygiene.Guard{}.Key()}
		if guard != nil {
			event.Object = *guard
		}
		w.tell(event)
	}
	for link := range links {
		event := backend.Event{Key: hygiene.Pod{Link: link}.Key()}
		if p, ok := have[link]; ok {
			event.Object = p
		}
		w.tell(event)
	}
}
