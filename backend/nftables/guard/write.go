package guard

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// maxElements bounds a message: its list of elements has a length of 16 bits,
// and 500 of the largest are 40 kB.
const maxElements = 500

// transaction collects changes, looks at what they meet, and writes them.
type transaction struct {
	tables  []nfnetlink.Table
	add     []element
	del     []element
	altered []hygiene.Pod  // whose elements must be looked up, to be deleted
	guard   *hygiene.Guard // to be written
	unguard bool           // the chains shall go
	kept    bool           // a guard was observed
	have    map[nfnetlink.Table]observed
}

// elementsOf returns the elements that an object is.
func elementsOf(o backend.Object, tables []nfnetlink.Table) []element {
	switch o := o.(type) {
	case hygiene.Permit:
		return []element{permitElement(o)}
	case hygiene.Pod:
		return podElements(o, tables)
	}
	return nil
}

// plan takes a change in.
func (w *transaction) plan(c backend.Change) error {
	for _, o := range []backend.Object{c.Have, c.Want} {
		switch o.(type) {
		case nil, hygiene.Permit, hygiene.Pod, hygiene.Guard:
		default:
			return fmt.Errorf("%s: the guard holds no %s", c, o.Key().Kind)
		}
	}
	switch h := c.Have.(type) {
	case hygiene.Guard:
		w.unguard, w.guard, w.kept = true, nil, h.Condition != hygiene.Broken
	case hygiene.Pod:
		if h.Altered {
			w.altered = append(w.altered, h)
		} else {
			w.del = append(w.del, elementsOf(h, w.tables)...)
		}
	case hygiene.Permit:
		w.del = append(w.del, elementsOf(h, w.tables)...)
	}
	if g, ok := c.Want.(hygiene.Guard); ok {
		w.unguard, w.guard = false, &g
	}
	w.add = append(w.add, elementsOf(c.Want, w.tables)...)
	return nil
}

// look reads what the transaction depends on: the sets that there are, rules
// only if they have to be written.
func (w *transaction) look(conn *netlink.Conn) (err error) {
	w.have = map[nfnetlink.Table]observed{}
	for _, table := range w.tables {
		if w.have[table], err = readSets(conn, table); err != nil {
			return err
		}
	}
	if w.kept && w.guard != nil && !w.have[vtep()].exists() {
		return errors.New("writing the guard: its table has been deleted meanwhile, permits included: observe it again")
	}
	if w.guard == nil && !w.unguard && len(w.newSets(vtep())) > 0 && w.have[vtep()].exists() {
		guard, _, err := observeGuard(conn, w.tables)
		if err != nil {
			return err
		}
		if guard != nil && guard.Condition == hygiene.Whole {
			w.guard = guard
		}
	}
	if len(w.altered) > 0 {
		_, byLink, err := observePods(conn, w.tables)
		if err != nil {
			return err
		}
		for _, p := range w.altered {
			w.del = append(w.del, byLink[p.Link]...)
		}
	}
	return nil
}

// newSets returns the sets that a table lacks.
func (w *transaction) newSets(table nfnetlink.Table) []set {
	var sets []set
	missing := func(s set) bool {
		return !slices.Contains(w.have[table].sets, s) && !slices.Contains(sets, s)
	}
	for _, s := range baseSets(table) {
		if missing(s) {
			sets = append(sets, s)
		}
	}
	for _, e := range w.add {
		if e.set.table == table && missing(e.set) {
			sets = append(sets, e.set)
		}
	}
	return sets
}

// write gives the transaction to the connection.
func (w *transaction) write(c *nftables.Conn) error {
	if w.guard == nil && len(w.add) == 0 && !w.have[vtep()].exists() && !w.have[pods()].exists() {
		return nil // nothing to delete from
	}
	sets := map[set]*nftables.Set{}
	for _, table := range w.tables {
		o := w.have[table]
		if !o.exists() {
			c.AddTable(tableOf(table))
		}
		fresh := w.newSets(table)
		for i, s := range slices.Concat(o.sets, fresh) {
			sets[s] = s.nftSet(uint32(i + 1))
		}
		for _, s := range fresh {
			if err := c.AddSet(sets[s], nil); err != nil {
				return fmt.Errorf("encoding set %s: %w", s.name(), err)
			}
		}
		if w.guard != nil || !o.exists() {
			for _, r := range counters(table) {
				c.AddObj(&nftables.CounterObj{Table: tableOf(table), Name: string(r)})
			}
		}
		w.writeChains(c, table, slices.Concat(o.sets, fresh))
	}
	// To delete what is not there fails, and the whole transaction with it; so
	// it is added first, which does nothing where it is.
	gone := slices.DeleteFunc(w.del, func(e element) bool { return sets[e.set] == nil })
	if err := inMessages(gone, sets, c.SetAddElements); err != nil {
		return err
	}
	if err := inMessages(gone, sets, c.SetDeleteElements); err != nil {
		return err
	}
	return inMessages(w.add, sets, c.SetAddElements)
}

// writeChains writes or deletes the chains of a table. Sets, and what is in
// them, stay as they are.
func (w *transaction) writeChains(c *nftables.Conn, table nfnetlink.Table, sets []set) {
	if w.guard == nil && !w.unguard {
		return
	}
	// The chains are made and emptied before any rule is: rules refer to them.
	chains := render(table, guardOf(w.guard), sets)
	at := make([]*nftables.Chain, len(chains))
	for i, ch := range chains {
		at[i] = ch.Put(c, tableOf(table))
	}
	for i, ch := range chains {
		if w.unguard {
			c.DelChain(at[i])
			continue
		}
		for _, r := range ch.Rules {
			c.AddRule(r.In(tableOf(table), at[i]))
		}
	}
}

func guardOf(g *hygiene.Guard) hygiene.Guard {
	if g == nil {
		return hygiene.Guard{}
	}
	return *g
}

// nftSet returns the set as the library wants it; id is unique in its
// transaction.
func (s set) nftSet(id uint32) *nftables.Set {
	fields := s.fields()
	n := &nftables.Set{
		Table: tableOf(s.table), Name: s.name(), ID: id,
		KeyType: nftables.MustConcatSetType(fields...), Concatenation: len(fields) > 1,
	}
	if s.role == rolePorts {
		n.KeyByteOrder = binaryutil.NativeEndian // or nft shows empty names
	}
	return n
}

// inMessages writes elements set by set, in messages that are not too long.
func inMessages(elements []element, sets map[set]*nftables.Set, write func(*nftables.Set, []nftables.SetElement) error) error {
	bySet := map[set][]nftables.SetElement{}
	for _, e := range elements {
		bySet[e.set] = append(bySet[e.set], nftables.SetElement{Key: []byte(e.key)})
	}
	for s, list := range bySet {
		for chunk := range slices.Chunk(list, maxElements) {
			if err := write(sets[s], chunk); err != nil {
				return fmt.Errorf("encoding elements of set %s: %w", s.name(), err)
			}
		}
	}
	return nil
}
