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
	tables, err := t.tables(ctx)
	if err != nil {
		return nil, err
	}
	var state backend.State
	var have map[nfnetlink.Table]observed
	err = t.stable(ctx, func(conn *netlink.Conn) (err error) {
		state = make(backend.State, t.expected())
		have, err = observe(conn, tables, state)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the guard: %w", err)
	}
	t.observed(have, len(state))
	return state, nil
}

// observe adds to the state what the tables hold, and returns the tables.
func observe(conn *netlink.Conn, tables []nfnetlink.Table, state backend.State) (map[nfnetlink.Table]observed, error) {
	guard, have, err := observeGuard(conn, tables)
	if err != nil {
		return nil, err
	}
	put := func(o backend.Object) { state[o.Key()] = o }
	broken := func() (map[nfnetlink.Table]observed, error) {
		clear(state)
		put(hygiene.Guard{Condition: hygiene.Broken})
		return have, nil
	}
	if guard != nil {
		if guard.Condition == hygiene.Broken {
			return broken()
		}
		put(*guard)
	}
	var ofPods []element
	for _, o := range have {
		for _, s := range o.sets {
			err := readElements(conn, s, func(e *element) {
				if e.ofPod() {
					ofPods = append(ofPods, *e)
				} else {
					put(e.permit())
				}
			})
			if errors.Is(err, errElement) {
				return broken()
			}
			if err != nil {
				return nil, err
			}
		}
	}
	for _, p := range assemble(ofPods, tables) {
		put(p)
	}
	return have, nil
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
	for _, want := range render(table, hygiene.Guard{}, nil) {
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
	for _, want := range render(table, g, o.sets) {
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
