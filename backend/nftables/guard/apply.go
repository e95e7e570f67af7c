package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/internal/nfnetlink"
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
// comes, everything passes.
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

// hopeless reports whether an error is about no single change.
func hopeless(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOMEM) ||
		errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EMSGSIZE)
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
	err = w.look(conn)
	if err = errors.Join(err, conn.Close()); err != nil {
		return err
	}
	c, err := t.conn(ctx)
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
// length of one is a 16-bit number, and elements too many are lost without a
// word.
func (t *Tables) verify(ctx context.Context, tables []nfnetlink.Table, changes []backend.Change, errs []error) {
	want := map[element]int{}
	sets := map[set]bool{}
	for i, c := range changes {
		if c.Want == nil || errs[i] != nil {
			continue
		}
		for _, e := range elementsOf(c.Want, tables) {
			want[e], sets[e.set] = i, true
		}
	}
	if len(want) <= maxElements {
		return
	}
	err := t.stable(ctx, func(conn *netlink.Conn) error {
		missing := want
		for s := range sets {
			elements, err := readElements(conn, s)
			if err != nil {
				return err
			}
			for _, e := range elements {
				delete(missing, e)
			}
		}
		return nil
	})
	for _, i := range want {
		errs[i] = errors.Join(err, fmt.Errorf("%s: it is not there afterwards; another program writes to our tables", changes[i]))
	}
}
