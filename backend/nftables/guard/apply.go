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
)

// maxChanges bounds a transaction, so that its notifications fit in the buffers
// of those who listen.
const maxChanges = 4096

// Apply makes the changes in their order and returns one error for each.
// Permits and Pods that follow each other are one transaction, or several when
// there are thousands of them; if one fails, it is tried again in halves, so
// that no entry keeps another out. A Guard is one by itself. Elements that are
// there, or are not, already are no error.
//
// The cost is that of the changes, not of what there is: nothing is read. What
// the transaction needs and others have deleted is made anew when it is missed.
// Exceptions are a change of a Pod that is Altered, which is looked up, and a
// Permit of the first subnet of its length, with which all rules are written
// anew.
//
// A Guard goes with the Permits that were observed, or applied since. If the
// table that held them has vanished meanwhile, that is an error, since a Guard
// alone would drop all. A Guard that was Broken takes the tables away first:
// until its change comes, everything passes. When a Guard is deleted and nothing
// is left, the tables go too, with their counters.
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
	// A packet keeps to the rules of the generation that it has met first, but
	// looks into the sets of the newest (nft_do_chain and nft_genmask_cur in
	// net/netfilter). If elements went before the rules or with them, one under
	// way would find no permit, and be dropped. It is waited for.
	first := slices.IndexFunc(changes, unguards)
	if first >= 0 {
		t.try(ctx, tables, changes[first:first+1], errs[first:first+1])
		underWay()
	}
	t.inOrder(ctx, tables, changes[:max(0, first)], errs[:max(0, first)])
	t.inOrder(ctx, tables, changes[first+1:], errs[first+1:])
	if first >= 0 {
		t.clear(ctx)
	}
	return errs
}

// underWay waits until the packets that the kernel works on at this moment are
// done with: membarrier(2) waits for a grace period of RCU, some 10 ms, and
// packets pass the rules within one. Where it is forbidden nothing is lost but
// that certainty.
func underWay() { _, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0) }

// membarrierGlobal is MEMBARRIER_CMD_GLOBAL of linux/membarrier.h.
const membarrierGlobal = 1

// unguards reports whether a change deletes a Guard.
func unguards(c backend.Change) bool { return c.Want == nil && isGuard(c) }

// inOrder applies changes as transactions.
func (t *Tables) inOrder(ctx context.Context, tables []nfnetlink.Table, changes []backend.Change, errs []error) {
	for i := 0; i < len(changes); {
		n := transactionLength(changes[i:])
		if k := slices.IndexFunc(errs[:i], func(err error) bool { return err != nil }); k >= 0 && begins(changes[i]) {
			errs[i] = fmt.Errorf("not before all that it looks into is there: %w", errs[k])
		} else {
			t.try(ctx, tables, changes[i:i+n], errs[i:i+n])
		}
		i += n
	}
}

// begins reports whether a change puts a Guard where none is at work.
func begins(c backend.Change) bool {
	_, has := c.Want.(hygiene.Guard)
	return has && (c.Have == nil || wasBroken(c))
}

// transactionLength returns how many of the first changes are one transaction.
func transactionLength(changes []backend.Change) int {
	n := slices.IndexFunc(changes, isGuard)
	switch {
	case n == 0:
		return 1
	case n < 0:
		n = len(changes)
	}
	return min(n, maxChanges)
}

func isGuard(c backend.Change) bool {
	_, had := c.Have.(hygiene.Guard)
	_, has := c.Want.(hygiene.Guard)
	return had || has
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
// number.
func hopeless(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOMEM) ||
		errors.Is(err, os.ErrDeadlineExceeded)
}

// commit applies changes as one transaction.
func (t *Tables) commit(ctx context.Context, tables []nfnetlink.Table, changes []backend.Change) (err error) {
	w := newTransaction(tables)
	for _, c := range changes {
		if err := w.plan(c); err != nil {
			return err
		}
	}
	if w.guard != nil || w.unguard {
		err = t.commitGuard(ctx, w)
	} else {
		err = t.commitElements(ctx, w)
	}
	if err != nil {
		return fmt.Errorf("%s: %w%s", describeChanges(changes), err, advice(err))
	}
	return nil
}

// describeChanges says what a transaction does.
func describeChanges(changes []backend.Change) string {
	if len(changes) == 1 {
		return changes[0].String()
	}
	return fmt.Sprintf("applying %d changes of the guard", len(changes))
}

// commitElements adds and deletes elements. It goes by what is known of the
// sets, and looks if that is not enough or out of date.
func (t *Tables) commitElements(ctx context.Context, w *transaction) error {
	if sets := t.known(); w.fits(sets) {
		if err := t.send(ctx, w, sets); !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	if err := t.stable(ctx, w.look); err != nil {
		return err
	}
	t.looked(w.have)
	for _, e := range w.stale {
		put(w.del, &e)
	}
	if w.lacks() {
		if err := t.make(ctx, w); err != nil {
			return err
		}
	}
	return t.send(ctx, w, setsOf(w.have))
}

// send commits the elements of sets that there are. Rules look for a pod's
// address before its port, so that a packet which is between the two when both
// come would find the port, having missed the address, and be dropped. So the
// addresses come a transaction earlier.
func (t *Tables) send(ctx context.Context, w *transaction, sets map[set]bool) error {
	if early := w.addresses(); early != nil {
		if err := t.commitMessages(ctx, early, sets); err != nil {
			return err
		}
	}
	return t.commitMessages(ctx, w, sets)
}

func (t *Tables) commitMessages(ctx context.Context, w *transaction, sets map[set]bool) error {
	messages, err := w.messages(sets)
	if err != nil || len(messages) == 0 {
		return err
	}
	return t.session.Do(ctx, func(conn *netlink.Conn) error { return nfnetlink.Commit(conn, messages) })
}

// commitGuard writes or deletes all chains.
func (t *Tables) commitGuard(ctx context.Context, w *transaction) error {
	if err := t.stable(ctx, w.look); err != nil {
		return err
	}
	same := t.looked(w.have)
	if w.guard != nil && (!same || w.kept && !w.have[vtep()].exists()) {
		return errors.New("its table has been deleted meanwhile, permits included: observe it again")
	}
	return t.make(ctx, w)
}

// make writes tables, sets and rules, and reads them back: rules, so that a
// kernel which shows them differently never leads to endless writing.
func (t *Tables) make(ctx context.Context, w *transaction) error {
	if err := t.session.Write(ctx, w.write); err != nil {
		return err
	}
	var guard *hygiene.Guard
	err := t.stable(ctx, func(conn *netlink.Conn) (err error) {
		if w.rules() == nil {
			return w.lookForSets(conn)
		}
		guard, w.have, err = observeGuard(conn, w.tables)
		return err
	})
	if err != nil {
		return fmt.Errorf("reading it back: %w", err)
	}
	t.made(w.have)
	if rules := w.rules(); rules != nil && (guard == nil || *guard != *rules) {
		return errors.New("the tables differ from what was just written; another program writes to them, or " +
			"this kernel reads rules back in an unknown form (`nft list ruleset` shows it)")
	}
	return nil
}
