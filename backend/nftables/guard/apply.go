package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/nftables/internal/nft"
)

// maxChanges bounds a transaction, so that it fits in a socket buffer.
const maxChanges = 4096

// Apply makes the changes in their order and returns one error for each. They
// are one transaction, or several when there are thousands of them; if one
// fails, it is tried again in halves, so that no entry keeps another out.
// Elements that are there, or are not, already are no error.
//
// The cost is that of the changes, not of what there is, but for a change
// of a Pod that is Altered and a Permit of the first subnet of its length,
// with which all rules are written anew in the same transaction.
//
// A Guard that was observed goes on with the Permits that were there; if the
// table vanished meanwhile, that is an error, since a Guard alone would drop
// all. A Guard that was Broken takes the tables away first: until its change
// comes, everything passes. When a Guard is deleted and nothing is left, the
// tables go too, with their counters.
func (t *Tables) Apply(ctx context.Context, changes []backend.Change) []error {
	errs := make([]error, len(changes))
	tables, err := t.tables(ctx)
	if err == nil && slices.ContainsFunc(changes, wasBroken) {
		err = t.Remove(ctx)
	}
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	for i := 0; i < len(changes); i += maxChanges {
		end := min(i+maxChanges, len(changes))
		t.try(ctx, tables, changes[i:end], errs[i:end])
	}
	t.verify(ctx, tables, changes, errs)
	if slices.ContainsFunc(changes, func(c backend.Change) bool { return c.Want == nil && c.Key().Kind == backend.KindGuard }) {
		t.clear(ctx)
	}
	return errs
}

// clear removes the tables if nothing is left in them that anybody would miss.
// Should that fail, nothing is lost but tidiness.
func (t *Tables) clear(ctx context.Context) {
	if left, err := t.Observe(ctx); err == nil && len(left) == 0 {
		_ = t.Remove(ctx)
	}
}

// wasBroken reports whether a change is of a Guard whose tables must be made
// anew. Observe reported nothing else that was there.
func wasBroken(c backend.Change) bool {
	g, ok := c.Have.(hygiene.Guard)
	return ok && g.Condition == hygiene.Broken
}

// try applies changes as one transaction, or if that fails by halves.
func (t *Tables) try(ctx context.Context, tables []nfnetlink.Table, changes []backend.Change, errs []error) {
	err := t.commit(ctx, tables, changes)
	switch {
	case err == nil:
	case len(changes) == 1 || ctx.Err() != nil || hopeless(err):
		for i := range errs {
			errs[i] = err
		}
	default:
		half := len(changes) / 2
		t.try(ctx, tables, changes[:half], errs[:half])
		t.try(ctx, tables, changes[half:], errs[half:])
	}
}

// hopeless reports whether an error is about no single change, nor about their
// number. A commit that fails is answered once, and the library waits for one
// answer per message.
func hopeless(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOMEM) ||
		errors.Is(err, os.ErrDeadlineExceeded)
}

// commit applies changes as one transaction.
func (t *Tables) commit(ctx context.Context, tables []nfnetlink.Table, changes []backend.Change) error {
	w := transaction{tables: tables}
	for _, c := range changes {
		if err := w.plan(c); err != nil {
			return err
		}
	}
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(w.look(conn), conn.Close()); err != nil {
		return err
	}
	c, err := nft.Open(ctx, t.cfg.NetNS, batchBuffer)
	if err != nil {
		return err
	}
	if err := w.write(c); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("%s: %w%s", w.describe(changes), err, advice(err))
	}
	return t.check(ctx, w)
}

// describe says what a transaction does.
func (w *transaction) describe(changes []backend.Change) string {
	if len(changes) == 1 {
		return changes[0].String()
	}
	return fmt.Sprintf("applying %d changes of the guard", len(changes))
}

// check reads back rules that were written, so that a kernel which shows them
// differently never leads to endless writing.
func (t *Tables) check(ctx context.Context, w transaction) error {
	if w.guard == nil {
		return nil
	}
	var have *hygiene.Guard
	err := t.stable(ctx, func(conn *netlink.Conn) (err error) {
		have, _, err = observeGuard(conn, w.tables)
		return err
	})
	if err != nil {
		return fmt.Errorf("reading back %s: %w", w.guard, err)
	}
	if have == nil || *have != *w.guard {
		return fmt.Errorf("checking %s: the tables differ from what was just written; another program writes to them, or "+
			"this kernel reads rules back in an unknown form (`nft list ruleset` shows it)", w.guard)
	}
	return nil
}

// verify reads back what was added, when it was more than one message: the
// length of one is a 16-bit number, and elements beyond are lost without a
// word. So the last of each message tells.
func (t *Tables) verify(ctx context.Context, tables []nfnetlink.Table, changes []backend.Change, errs []error) {
	bySet := map[set][]int{}
	lastOf := map[set]element{}
	check := func(conn *netlink.Conn, s set) {
		err := find(conn, lastOf[s])
		if errors.Is(err, unix.ENOENT) {
			err = errors.New("it is not there afterwards: another program writes to our tables")
		}
		for _, i := range bySet[s] {
			if err != nil && errs[i] == nil {
				errs[i] = fmt.Errorf("reading back %s: %w", changes[i], err)
			}
		}
		delete(bySet, s)
	}
	if len(changes) <= maxElements {
		return
	}
	conn, err := t.dial(ctx)
	if err != nil {
		return // whoever applied so many will look at all before long
	}
	defer func() { _ = conn.Close() }()
	for i, c := range changes {
		if c.Want == nil || errs[i] != nil {
			continue
		}
		for _, e := range elementsOf(c.Want, tables) {
			bySet[e.set], lastOf[e.set] = append(bySet[e.set], i), e
			if len(bySet[e.set]) == maxElements {
				check(conn, e.set)
			}
		}
		if (i+1)%maxChanges == 0 { // a transaction, and so a message, ends
			for s := range bySet {
				check(conn, s)
			}
		}
	}
	for s := range bySet {
		check(conn, s)
	}
}

// find returns an error, ENOENT, if an element is not there.
func find(conn *netlink.Conn, e element) error {
	attrs, err := nfnetlink.Encode(func(a *netlink.AttributeEncoder) {
		a.String(unix.NFTA_SET_ELEM_LIST_TABLE, e.set.table.Name)
		a.String(unix.NFTA_SET_ELEM_LIST_SET, e.set.name())
		a.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
			list.Nested(unix.NFTA_LIST_ELEM, func(elem *netlink.AttributeEncoder) error {
				elem.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
					key.Bytes(unix.NFTA_DATA_VALUE, []byte(e.key))
					return nil
				})
				return nil
			})
			return nil
		})
	})
	if err != nil {
		return err
	}
	_, err = conn.Execute(nfnetlink.Message(e.set.table.Family, unix.NFT_MSG_GETSETELEM, 0, attrs))
	return err
}
