package guard

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// transaction collects changes and writes them: elements, and tables, sets and
// rules as far as they need it.
type transaction struct {
	tables   []nfnetlink.Table
	add, del map[set]*keys
	altered  []hygiene.Pod  // whose elements must be looked up, to be deleted
	guard    *hygiene.Guard // to be written
	unguard  bool           // the chains shall go
	kept     bool           // a guard was observed

	// What look has found:
	have    map[nfnetlink.Table]observed
	rewrite *hygiene.Guard // that is there, and must be written anew for new sets
	stale   []element      // of altered
}

func newTransaction(tables []nfnetlink.Table) *transaction {
	return &transaction{tables: tables, add: map[set]*keys{}, del: map[set]*keys{}}
}

// plan takes a change in.
func (w *transaction) plan(c backend.Change) error {
	for _, o := range []backend.Object{c.Have, c.Want} {
		switch o.(type) {
		case nil, hygiene.Permit, hygiene.Pod, hygiene.Guard:
		default:
			return fmt.Errorf("the guard holds no %s", o.Key().Kind)
		}
	}
	switch h := c.Have.(type) {
	case hygiene.Guard:
		w.unguard, w.guard, w.kept = true, nil, h.Condition != hygiene.Broken
	case hygiene.Pod:
		if h.Altered {
			w.altered = append(w.altered, h)
		} else {
			w.planElements(w.del, h)
		}
	case hygiene.Permit:
		w.planElements(w.del, h)
	}
	if g, ok := c.Want.(hygiene.Guard); ok {
		guard := g // or g would be allocated for each change
		w.unguard, w.guard = false, &guard
	}
	w.planElements(w.add, c.Want)
	return nil
}

// planElements takes in the elements that an object is.
func (w *transaction) planElements(into map[set]*keys, o backend.Object) {
	switch o := o.(type) {
	case hygiene.Permit:
		e := permitElement(o)
		put(into, &e)
	case hygiene.Pod:
		for _, e := range podElements(o, w.tables) {
			put(into, &e)
		}
	}
}

func put(into map[set]*keys, e *element) {
	k := into[e.set]
	if k == nil {
		k = &keys{}
		into[e.set] = k
	}
	k.add(e.octets())
}

// addresses returns the part of the transaction that adds pods' addresses; nil
// if no pod's port is added.
func (w *transaction) addresses() *transaction {
	part, ports := newTransaction(w.tables), false
	for s, k := range w.add {
		switch s.role {
		case rolePorts:
			ports = true
		case rolePods:
			part.add[s] = k
		}
	}
	if !ports || len(part.add) == 0 {
		return nil
	}
	return part
}

// fits reports whether the transaction needs nothing but sets which are known.
func (w *transaction) fits(sets map[set]bool) bool {
	for _, elements := range []map[set]*keys{w.del, w.add} {
		for s := range elements {
			if !sets[s] {
				return false
			}
		}
	}
	return len(w.altered) == 0
}

// look reads what the transaction depends on: the sets that there are, rules
// only if they have to be written. It may be begun anew.
func (w *transaction) look(conn *netlink.Conn) error {
	if err := w.lookForSets(conn); err != nil {
		return err
	}
	w.rewrite, w.stale = nil, nil
	if w.guard == nil && !w.unguard && len(w.newSets(vtep())) > 0 && w.have[vtep()].exists() {
		guard, _, err := observeGuard(conn, w.tables)
		if err != nil {
			return err
		}
		if guard != nil && guard.Condition == hygiene.Whole {
			w.rewrite = guard
		}
	}
	if len(w.altered) == 0 {
		return nil
	}
	_, byLink, err := observePods(conn, w.tables)
	if err != nil {
		return err
	}
	for _, p := range w.altered {
		w.stale = append(w.stale, byLink[p.Link]...)
	}
	return nil
}

// lookForSets reads which tables and sets there are.
func (w *transaction) lookForSets(conn *netlink.Conn) (err error) {
	w.have = map[nfnetlink.Table]observed{}
	for _, table := range w.tables {
		if w.have[table], err = readSets(conn, table); err != nil {
			return err
		}
	}
	return nil
}

// newSets returns the sets that a table lacks for what is to be added.
func (w *transaction) newSets(table nfnetlink.Table) []set {
	var sets []set
	if w.guard == nil && len(w.add) == 0 {
		return nil
	}
	for _, s := range baseSets(table) {
		if !slices.Contains(w.have[table].sets, s) {
			sets = append(sets, s)
		}
	}
	for s := range w.add {
		if s.table == table && !slices.Contains(w.have[table].sets, s) && !slices.Contains(sets, s) {
			sets = append(sets, s)
		}
	}
	return sets
}

// lacks reports whether anything must be made before elements can be added.
func (w *transaction) lacks() bool {
	return slices.ContainsFunc(w.tables, func(t nfnetlink.Table) bool { return len(w.newSets(t)) > 0 })
}

// write gives all but the elements to the connection.
func (w *transaction) write(c *nftables.Conn) error {
	for _, table := range w.tables {
		o := w.have[table]
		if !o.exists() {
			if w.unguard {
				continue // nothing to delete from
			}
			c.AddTable(tableOf(table))
		}
		fresh := w.newSets(table)
		for i, s := range fresh {
			if err := c.AddSet(s.nftSet(uint32(i+1)), nil); err != nil {
				return fmt.Errorf("encoding set %s: %w", s.name(), err)
			}
		}
		if w.rules() != nil || !o.exists() {
			for _, r := range counters(table) {
				c.AddObj(&nftables.CounterObj{Table: tableOf(table), Name: string(r)})
			}
		}
		w.writeChains(c, table, slices.Concat(o.sets, fresh))
	}
	return nil
}

// writeChains writes the chains of a table, and deletes those that are not
// wanted. Sets, and what is in them, stay as they are.
func (w *transaction) writeChains(c *nftables.Conn, table nfnetlink.Table, sets []set) {
	rules := w.rules()
	if rules == nil && !w.unguard {
		return
	}
	// All are made and emptied first: rules refer to them, and what is not there
	// cannot be deleted.
	all := allChains(table)
	at := map[string]*nftables.Chain{}
	for _, ch := range all {
		at[ch.Name] = ch.Put(c, tableOf(table))
	}
	if rules != nil {
		for _, ch := range render(table, *rules, sets) {
			for _, r := range ch.Rules {
				c.AddRule(r.In(tableOf(table), at[ch.Name]))
			}
			delete(at, ch.Name)
		}
	}
	for _, ch := range all {
		if unwanted := at[ch.Name]; unwanted != nil {
			c.DelChain(unwanted)
		}
	}
}

// rules returns the Guard that is written, nil for none.
func (w *transaction) rules() *hygiene.Guard {
	if w.guard != nil {
		return w.guard
	}
	return w.rewrite
}

// nftSet returns the set as the library wants it; id is unique in its table and
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
