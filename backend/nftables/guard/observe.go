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
	"github.com/twill-net/twill/backend/nftables/internal/nft"
)

// Observe returns the Permits, the Guard and the Pods that the kernel has. The
// Guard is Altered when the chains and rules are not those that it is rendered
// to, and Broken, without any Permit or Pod, when a table holds what is not
// ours. Without tables the state is empty. It fails where the kernel has no
// nf_tables; see Supported.
func (t *Tables) Observe(ctx context.Context) (backend.State, error) {
	state := make(backend.State, t.expected())
	if err := t.Each(ctx, func(o backend.Object) { state[o.Key()] = o }); err != nil {
		return nil, err
	}
	return state, nil
}

// Generation returns a number that is the same while no table of this network
// namespace changes.
func (t *Tables) Generation(ctx context.Context) (uint32, error) { return t.session.Generation(ctx) }

// Each calls found with all that Observe returns, when all of it has been read:
// for whoever compares, and needs nothing of what is as it must be.
func (t *Tables) Each(ctx context.Context, found func(backend.Object)) error {
	tables, err := t.tables(ctx)
	if err != nil {
		return err
	}
	var s seen
	err = t.stable(ctx, func(conn *netlink.Conn) (err error) {
		s, err = see(conn, tables)
		return err
	})
	if err != nil {
		return fmt.Errorf("reading the guard: %w", err)
	}
	t.observed(s.tables, s.each(tables, found))
	return nil
}

// seen is what was read of the tables, Permits as short as they are in there: a
// reading that is begun anew must not have told of anything.
type seen struct {
	tables  map[nfnetlink.Table]observed
	guard   *hygiene.Guard
	permits []permits
	ofPods  []element
}

// permits are those of one set.
type permits struct {
	set    set
	octets []byte // of one key after the other
}

func see(conn *netlink.Conn, tables []nfnetlink.Table) (s seen, err error) {
	if s.guard, s.tables, err = observeGuard(conn, tables); err != nil || s.broken() {
		return s, err
	}
	for _, o := range s.tables {
		for _, of := range o.sets {
			p := permits{set: of}
			err := readElements(conn, of, func(e *element) {
				if e.ofPod() {
					s.ofPods = append(s.ofPods, *e)
				} else {
					p.octets = append(p.octets, e.octets()...)
				}
			})
			if errors.Is(err, errElement) {
				s.guard = &hygiene.Guard{Condition: hygiene.Broken}
				return s, nil
			}
			if err != nil {
				return s, err
			}
			s.permits = append(s.permits, p)
		}
	}
	return s, nil
}

func (s seen) broken() bool { return s.guard != nil && s.guard.Condition == hygiene.Broken }

// each calls found with each object, and returns how many there are.
func (s seen) each(tables []nfnetlink.Table, found func(backend.Object)) (n int) {
	tell := func(o backend.Object) {
		n++
		found(o)
	}
	if s.guard != nil {
		tell(*s.guard)
	}
	if s.broken() {
		return n
	}
	for _, p := range s.permits {
		e := element{set: p.set}
		size := p.set.keyLen()
		for b := p.octets; len(b) > 0; b = b[size:] {
			copy(e.key[:], b[:size])
			tell(e.permit())
		}
	}
	for _, p := range assemble(s.ofPods, tables) {
		tell(p)
	}
	return n
}

// observeGuard returns the Guard, nil for none, and the tables behind it. It
// lists no elements.
func observeGuard(conn *netlink.Conn, tables []nfnetlink.Table) (*hygiene.Guard, map[nfnetlink.Table]observed, error) {
	have := map[nfnetlink.Table]observed{}
	chains := 0
	broken := false
	for _, table := range tables {
		o, err := readTable(conn, table)
		if err != nil {
			return nil, nil, err
		}
		have[table] = o
		chains += len(o.chains)
		broken = broken || o.broken(table)
	}
	if broken {
		return &hygiene.Guard{Condition: hygiene.Broken}, have, nil
	}
	if chains == 0 {
		return nil, have, nil
	}
	guard, ok := hygiene.Guard{}, false
	if rules := have[vtep()].chains["input"].Rules; len(rules) > 0 {
		guard, ok = parseGuard(rules[0].Comment())
	}
	for table, o := range have {
		ok = ok && o.holds(table, guard)
	}
	if !ok {
		guard = hygiene.Guard{Condition: hygiene.Altered}
	}
	return &guard, have, nil
}

// broken reports whether a table holds anything that is not ours, or not as we
// made it and not to be altered. Then it is to be made anew, permits included.
func (o observed) broken(table nfnetlink.Table) bool {
	if !o.exists() {
		return false
	}
	for _, want := range allChains(table) {
		if have, ok := o.chains[want.Name]; ok && have.Hook != want.Hook {
			return true
		}
	}
	known := len(o.chains) + len(o.sets) + o.counters
	return o.Flags != 0 || o.strange > 0 || int(o.Use) != known
}

// holds reports whether the chains and rules are those of a Guard, with the
// sets that there are.
func (o observed) holds(table nfnetlink.Table, g hygiene.Guard) bool {
	chains := render(table, g, o.sets)
	if len(chains) != len(o.chains) {
		return false
	}
	for _, want := range chains {
		have, ok := o.chains[want.Name]
		if !ok || !slices.Equal(forms(table, want), forms(table, have)) {
			return false
		}
	}
	return true
}

func forms(table nfnetlink.Table, c nft.Chain) []string {
	var list []string
	for _, r := range c.Rules {
		list = append(list, form(r, table.Family))
	}
	return list
}

// observePods returns the Pods that the kernel has, by link.
func observePods(conn *netlink.Conn, tables []nfnetlink.Table) (map[string]hygiene.Pod, map[string][]element, error) {
	var all []element
	for _, table := range tables {
		for _, s := range baseSets(table) {
			if s.role != rolePorts && s.role != rolePods {
				continue
			}
			err := readElements(conn, s, func(e *element) { all = append(all, *e) })
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, nil, err
			}
		}
	}
	byLink := map[string][]element{}
	for _, e := range all {
		byLink[e.link()] = append(byLink[e.link()], e)
	}
	return assemble(all, tables), byLink, nil
}

// Drops returns how many packets were dropped since the tables were made, by
// hygiene.Reason.
func (t *Tables) Drops(ctx context.Context) (map[string]uint64, error) {
	tables, err := t.tables(ctx)
	if err != nil {
		return nil, err
	}
	drops := map[string]uint64{}
	for _, r := range hygiene.Reasons {
		drops[string(r)] = 0
	}
	err = t.session.Do(ctx, func(conn *netlink.Conn) error {
		for _, table := range tables {
			counts, err := readCounters(conn, table)
			if err != nil {
				return err
			}
			for _, r := range counters(table) {
				drops[string(r)] += counts[string(r)]
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, advice(err))
	}
	return drops, nil
}
