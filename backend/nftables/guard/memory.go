package guard

import "github.com/twill-net/twill/backend/internal/nfnetlink"

// memory is what is known of the tables without a look at them: nothing per
// peer. It may be outdated at any time, as others write too; what is built on it
// fails then, with ENOENT, and is done again after a look.
type memory struct {
	sets    map[set]bool // that there are; nil when not known
	size    int          // objects that were last observed
	settled bool         // table is known
	// The handle of the VTEP's table which holds all that was observed, and all
	// that was written since; 0 when there was none. Another table of that name
	// was made after somebody deleted this one, and holds only what was written
	// after that.
	table uint64
}

// observed notes the tables as somebody saw them who goes by what was in them.
func (t *Tables) observed(have map[nfnetlink.Table]observed, size int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.memory = memory{sets: setsOf(have), size: size, settled: true, table: have[vtep()].Handle}
}

// looked notes the tables as they were found when something was to be written,
// and reports whether the VTEP's is the one that holds everything.
func (t *Tables) looked(have map[nfnetlink.Table]observed) (same bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	handle := have[vtep()].Handle
	if !t.settled {
		t.settled, t.table = true, handle
	}
	t.sets = setsOf(have)
	return t.table == handle
}

// made notes the tables as they are after some were made. One in the place of
// none holds everything.
func (t *Tables) made(have map[nfnetlink.Table]observed) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sets = setsOf(have)
	if t.settled && t.table == 0 {
		t.table = have[vtep()].Handle
	}
}

// known returns which sets there are, nil when that is not known.
func (t *Tables) known() map[set]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sets
}

// expected returns about how many objects there are to be observed.
func (t *Tables) expected() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.size
}

func setsOf(have map[nfnetlink.Table]observed) map[set]bool {
	sets := map[set]bool{}
	for _, o := range have {
		for _, s := range o.sets {
			sets[s] = true
		}
	}
	return sets
}
