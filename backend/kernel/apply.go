package kernel

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

// Apply makes the changes in the order given and returns as many errors, nil
// for what is done. One failure holds up nothing but what needs the object.
// What is to be put and is there already, and what is to be deleted and is
// not there, is done. Once ctx is over, the rest is not tried. No key may be
// there twice.
//
// The more changes come in one call, the less each costs: what the kernel makes
// of one message each goes out many at a time.
func (k *Kernel) Apply(ctx context.Context, changes []backend.Change) []error {
	b := &batch{k: k, devices: map[string]device{}, changes: changes, errs: make([]error, len(changes))}
	deleting := false
	for i, c := range changes {
		// What is deleted goes after what takes its place is known to be there.
		if single := isSingle(c); single || deleting != (c.Want == nil) || len(b.waiting) == batchSize {
			b.flush(ctx)
		}
		deleting = c.Want == nil
		switch err := ctx.Err(); {
		case err != nil:
			b.done(i, err)
		case isSingle(c):
			b.done(i, b.single(ctx, c))
		default:
			b.enqueue(ctx, i)
		}
	}
	b.flush(ctx)
	return b.errs
}

// doing says what is done, for errors.
func doing(c backend.Change) string {
	verb, o := "adding", object(c)
	switch {
	case c.Want == nil:
		verb = "deleting"
	case c.Have != nil:
		verb = "replacing"
	}
	if k := o.Key(); k.Kind == backend.KindLink {
		return verb + " " + k.String()
	}
	return verb + " " + o.String()
}

// advise adds what can be done about an error that the kernel leaves bare.
func advise(c backend.Change, err error) error {
	key := c.Key()
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: the capability CAP_NET_ADMIN is needed in this network namespace", err)
	case errors.Is(err, unix.EACCES) && key.Kind == backend.KindAddress:
		return fmt.Errorf("%w: IPv6 is off on the link: set net.ipv6.conf.%s.disable_ipv6=0", err, key.Name)
	case errors.Is(err, unix.EOPNOTSUPP) && key.Kind == backend.KindAddress:
		return fmt.Errorf("%w: this kernel has no IPv6 (ipv6.disable=1)", err)
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("%w: the link is down; will retry", err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: the link is not there; will retry", err)
	}
	return err
}

// batch is one call of Apply: what it found out about the kernel is not
// trusted any longer.
type batch struct {
	k       *Kernel
	devices map[string]device
	table   map[backend.Key]route // the main table; nil until it is needed

	changes []backend.Change
	errs    []error
	out     messages // that wait to be sent
	waiting []int    // the change that each of them makes
}

// done notes what became of a change.
func (b *batch) done(i int, err error) {
	if err != nil {
		b.errs[i] = fmt.Errorf("%s: %w", doing(b.changes[i]), advise(b.changes[i], err))
	}
}

// device returns the interface called name.
func (b *batch) device(name string) (device, error) {
	if d, ok := b.devices[name]; ok {
		return d, nil
	}
	d, err := b.k.device(byName(name))
	if err != nil {
		return device{}, fmt.Errorf("finding link %q: %w", name, err)
	}
	if d.name != name { // the kernel takes alternative names too
		return device{}, fmt.Errorf("finding link %q: it is an alternative name of %s: %w", name, d.name, unix.ENODEV)
	}
	b.devices[name] = d
	return d, nil
}

// own returns the device of ours called name: nothing but routes is put on
// any other.
func (b *batch) own(name string) (device, error) {
	d, err := b.device(name)
	if err == nil && !d.ours {
		return device{}, fmt.Errorf("link %s is not a VXLAN device of ours: %w", name, unix.ENODEV)
	}
	return d, err
}

// name returns the name of an interface, "" when there is none.
func (b *batch) name(index int) string {
	if index == 0 {
		return ""
	}
	for _, d := range b.devices {
		if d.index == index {
			return d.name
		}
	}
	d, err := b.k.device(byIndex(index))
	if err != nil {
		return ""
	}
	b.devices[d.name] = d
	return d.name
}

// isSingle reports whether a change is not always one message.
func isSingle(c backend.Change) bool {
	switch object(c).(type) {
	case backend.Address, backend.Neighbor, backend.FDB, backend.Route:
		return false
	}
	return true
}

// object returns what is put or deleted.
func object(c backend.Change) backend.Object {
	if c.Want != nil {
		return c.Want
	}
	return c.Have
}

// single makes a change by itself.
func (b *batch) single(ctx context.Context, c backend.Change) error {
	switch o := object(c).(type) {
	case backend.Link:
		if c.Want == nil {
			return unlessGone(b.deleteLink(o.Name))
		}
		return b.putLink(ctx, o)
	case backend.Sysctl:
		if c.Want == nil {
			return nil // what it was before is not known
		}
		return b.k.putSysctl(o)
	}
	return fmt.Errorf("the kernel has no objects of type %T", object(c))
}

// unlessGone returns the error of a deletion, nil when what was to be deleted
// is not there.
func unlessGone(err error) error {
	for _, gone := range []error{unix.ENOENT, unix.ESRCH, unix.ENODEV, unix.ENXIO, unix.EADDRNOTAVAIL} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}
