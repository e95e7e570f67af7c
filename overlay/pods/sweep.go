package pods

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"time"
)

// Defaults of a Sweeper.
const (
	DefaultMinAge = 10 * time.Minute
	DefaultWait   = 10 * time.Second
)

// Sweeper releases addresses that host-local reserves for pods which are
// gone; see the package for what counts as gone. It is for one goroutine at a
// time. The zero value of a field stands for what is written beside it.
type Sweeper struct {
	// Inventory reads the pods that there are now; it must not remember
	// them from an earlier call.
	Inventory func(context.Context) (Inventory, error)
	MinAge    time.Duration    // of what is released; 0: DefaultMinAge
	Wait      time.Duration    // for host-local's lock on one network; 0: DefaultWait
	Now       func() time.Time // nil: time.Now
	// Leftovers and Results clear away what else is left of a pod that is gone,
	// before its addresses are released: a pod that gets one of them must not
	// get the host ports with it.
	Leftovers Leftovers // nil: nothing beside addresses
	Results   string    // libcni's directory, see DefaultResults; "": it is left alone

	seen map[sighting]*history
}

// sighting is a file with its content.
type sighting struct {
	dir               string
	address           netip.Addr
	container, ifName string
	modified          int64 // Unix time, ns
}

func sightingOf(n Network, r Reservation) sighting {
	return sighting{n.Dir, r.Address, r.Container, r.IfName, r.Modified.UnixNano()}
}

// history is what is known of a file from earlier looks.
type history struct {
	since time.Time // seen first, by the monotonic clock
	// suspects are the veths that may lead to its pod: those unknown when
	// it was first found without one, and unknown ever since. The veth comes
	// before the file, so a later one leads to other pods. nil: not known.
	suspects map[Veth]bool
}

// Swept is what a sweep did.
type Swept struct {
	Released []Reservation
	// Kept is how many reservations look stale and were kept because of
	// Unknown, the veths of which nobody can tell which addresses the pods
	// behind them have; in the order of their names.
	Kept    int
	Unknown []Veth
	// Results are the files of libcni's cache that were removed because their
	// pods are gone and have no reservation.
	Results []string
}

// Sweep releases the stale reservations of the networks. What failed in one
// network does not keep it from the others; released is what has been done in
// any case.
func (s *Sweeper) Sweep(ctx context.Context, networks []Network) (done Swept, err error) {
	s.forget(networks)
	var errs []error
	for _, n := range networks {
		if err := s.sweep(ctx, n, &done); err != nil {
			errs = append(errs, fmt.Errorf("sweeping the reservations of network %s in %s: %w", n.Name, n.Dir, err))
		}
		if err := s.clearResults(ctx, n, &done); err != nil {
			errs = append(errs, fmt.Errorf("sweeping the results of network %s in %s: %w", n.Name, s.Results, err))
		}
	}
	slices.SortFunc(done.Unknown, func(a, b Veth) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Index, b.Index)) })
	done.Unknown = slices.Compact(done.Unknown)
	return done, errors.Join(errs...)
}

func (s *Sweeper) sweep(ctx context.Context, n Network, done *Swept) error {
	root, err := os.OpenRoot(n.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	// Most of the time nothing is stale, and no ADD waits for us to see that.
	found, err := s.look(ctx, root, n)
	defer func() {
		done.Kept += found.kept
		done.Unknown = append(done.Unknown, found.unknown...)
	}()
	if err != nil || len(found.stale) == 0 {
		return err
	}
	wait := s.Wait
	if wait == 0 {
		wait = DefaultWait
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	held, err := lock(waiting, root)
	if err != nil {
		return err
	}
	defer held.Close()
	// Only what is read from here on counts.
	found, err = s.look(ctx, root, n)
	errs := []error{err}
	cleared := map[Attachment]error{}
	for _, r := range found.stale {
		a := Attachment{Network: n.Name, Container: r.Container, IfName: r.IfName}
		a.Last = found.inv.last(a)
		err, known := cleared[a]
		if !known {
			err = s.clear(ctx, a)
			cleared[a] = err
			errs = append(errs, err)
		}
		if err != nil {
			continue
		}
		if err := root.Remove(r.Address.String()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("releasing %s: %w", r.Address, err))
			continue
		}
		done.Released = append(done.Released, r)
	}
	return errors.Join(errs...)
}

// findings are the reservations of a network that are old and that no pod can
// hold, how many others look so, and the veths that may lead to the pods of
// those.
type findings struct {
	stale   []Reservation
	kept    int
	unknown []Veth
	inv     Inventory // by which that was found
}

func (s *Sweeper) look(ctx context.Context, root *os.Root, n Network) (f findings, err error) {
	all, err := readReservations(root, n.Name)
	if err != nil {
		return f, err
	}
	old := s.old(all, n)
	if len(old) == 0 {
		return f, nil
	}
	inv, err := s.Inventory(ctx) // after the files were read, see history
	if err != nil {
		return f, err
	}
	f.inv = inv
	for _, r := range old {
		h := s.seen[sightingOf(n, r)]
		if inv.holds(r, all) {
			h.suspects = nil
			continue
		}
		if suspects := h.suspect(inv.Unknown, n); len(suspects) > 0 {
			f.kept++
			f.unknown = append(f.unknown, suspects...)
			continue
		}
		f.stale = append(f.stale, r)
	}
	slices.SortFunc(f.stale, func(a, b Reservation) int { return a.Address.Compare(b.Address) })
	return f, nil
}

// suspect returns those of the unknown veths that may lead to the pod.
func (h *history) suspect(unknown []Veth, n Network) (suspects []Veth) {
	left := map[Veth]bool{}
	for _, v := range unknown {
		if h.suspects == nil || !n.VethFirst || h.suspects[v] {
			left[v] = true
			suspects = append(suspects, v)
		}
	}
	h.suspects = left
	return suspects
}

// old returns those of the reservations that are older than MinAge. The time
// in the file is enough where the veth comes first; else the reservation must
// have been seen here for that long by the monotonic clock, which neither jumps
// nor runs while the machine is suspended.
func (s *Sweeper) old(all []Reservation, n Network) (old []Reservation) {
	now, minAge := s.now(), s.minAge()
	present := map[sighting]bool{}
	for _, r := range all {
		at := sightingOf(n, r)
		present[at] = true
		if s.seen[at] == nil {
			s.seen[at] = &history{since: now}
		}
		if now.Sub(s.seen[at].since) >= minAge || n.VethFirst && now.Sub(r.Modified) >= minAge {
			old = append(old, r)
		}
	}
	for at := range s.seen {
		if at.dir == n.Dir && !present[at] {
			delete(s.seen, at)
		}
	}
	return old
}

func (s *Sweeper) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

func (s *Sweeper) minAge() time.Duration { return cmp.Or(s.MinAge, DefaultMinAge) }

// forget drops what was seen of networks that are not swept any more.
func (s *Sweeper) forget(networks []Network) {
	if s.seen == nil {
		s.seen = map[sighting]*history{}
	}
	for at := range s.seen {
		if !slices.ContainsFunc(networks, func(n Network) bool { return n.Dir == at.dir }) {
			delete(s.seen, at)
		}
	}
}

// holds reports whether a pod holds r, which is one of all: by its alias, or
// because the address is in use behind a veth without one, or another address
// of the same attachment is.
func (inv Inventory) holds(r Reservation, all []Reservation) bool {
	if slices.ContainsFunc(inv.Pods, r.heldBy) {
		return true
	}
	inUse := func(a netip.Addr) bool { return slices.Contains(inv.InUse, a) }
	return inUse(r.Address) || r.Container != "" && slices.ContainsFunc(all, func(o Reservation) bool {
		return o.Container == r.Container && inUse(o.Address)
	})
}
