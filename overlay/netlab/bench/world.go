package bench

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// now is the monotonic clock, which all processes of the machine share, in
// nanoseconds.
func now() int64 { return clock(unix.CLOCK_MONOTONIC) }

func clock(id int32) int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(id, &ts) // fails for a clock that is not there
	return ts.Nano()
}

// versions is how many versions of a peer are told apart.
const versions = 8

// way is what the kernel of a node has of the way to a peer: versions count
// from 1, 0 is for nothing.
type way struct {
	route    bool
	neighbor uint8           // version of its MAC
	fdb      [versions]uint8 // by the version of the MAC, that of the public IP
}

// Expect names ways that are to be there, or gone. The others may be as they
// are.
type Expect struct {
	Peers Peers
	Gone  bool
}

func (w way) meets(version int, gone bool) bool {
	if gone {
		return !w.route && w.neighbor == 0
	}
	v := uint8(version + 1)
	return w.route && w.neighbor == v && w.fdb[version] == v
}

// world follows the ways to the synthesized peers by notifications.
type world struct {
	mu      sync.Mutex
	ways    []way // by number
	events  map[string]int
	first   int64 // when the first route came, since expect
	expect  Expect
	pending int
	met     chan struct{} // closed when nothing is pending
	metAt   int64

	dumping   bool            // look is under way,
	meanwhile []backend.Event // and this was told since it began
}

func newWorld() *world {
	return &world{ways: make([]way, maxPeers), events: map[string]int{}, met: make(chan struct{})}
}

// want sets what to wait for.
func (w *world) want(e Expect) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expect, w.pending, w.first, w.metAt = e, 0, 0, 0
	w.met, w.events = make(chan struct{}), map[string]int{}
	for _, p := range e.Peers.all() {
		if !w.ways[p.number].meets(p.version, e.Gone) {
			w.pending++
		}
	}
	w.settle()
}

// settle notes that all is as expected. Called with the lock held.
func (w *world) settle() {
	if w.pending == 0 && w.metAt == 0 {
		w.metAt = now()
		close(w.met)
	}
}

// event takes a notification of backend/kernel's Watch.
func (w *world) event(e backend.Event) {
	if e.Key == (backend.Key{}) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events[e.Key.Kind.String()]++
	w.take(e.Key, e.Object)
	if w.dumping {
		w.meanwhile = append(w.meanwhile, e)
	}
}

// look takes a dump in the place of all that is known, but for what is told while
// it is made.
func (w *world) look(dump func() (backend.State, error)) {
	w.mu.Lock()
	w.dumping = true
	w.mu.Unlock()
	s, err := dump()
	if err == nil {
		w.reset(s)
	}
	w.mu.Lock()
	w.dumping, w.meanwhile = false, nil
	w.mu.Unlock()
}

// take notes what is under a key. Called with the lock held.
func (w *world) take(k backend.Key, o backend.Object) {
	number, ok := numberOf(k)
	if !ok {
		return
	}
	e := w.expect
	expected := number >= e.Peers.First && number < e.Peers.First+e.Peers.Count
	before := expected && w.ways[number].meets(e.Peers.Version, e.Gone)
	w.ways[number].take(k, o)
	if k.Kind == backend.KindRoute && o != nil && w.first == 0 {
		w.first = now()
	}
	if !expected {
		return
	}
	switch after := w.ways[number].meets(e.Peers.Version, e.Gone); {
	case before && !after:
		w.pending++
	case after && !before:
		w.pending--
		w.settle()
	}
}

// numberOf returns the synthesized peer that an object leads to.
func numberOf(k backend.Key) (int, bool) {
	switch k.Kind {
	case backend.KindRoute, backend.KindNeighbor:
		a := k.Prefix.Addr()
		if !a.Is4() {
			return 0, false
		}
		b := a.As4()
		return int(b[1])<<8 | int(b[2]), b[0] == 10
	case backend.KindFDB:
		return int(k.MAC[4])<<8 | int(k.MAC[5]), isPeer(k.MAC)
	}
	return 0, false
}

func isPeer(m subnet.MAC) bool { return m[0] == 2 && m[1] == 0xbe && m[2] < versions }

func (w *way) take(k backend.Key, o backend.Object) {
	switch k.Kind {
	case backend.KindRoute:
		w.route = o != nil
	case backend.KindNeighbor:
		w.neighbor = 0
		if n, ok := o.(backend.Neighbor); ok && isPeer(n.MAC) {
			w.neighbor = n.MAC[2] + 1
		}
	case backend.KindFDB:
		w.fdb[k.MAC[2]] = 0
		if f, ok := o.(backend.FDB); ok && f.Dst.Is4() {
			w.fdb[k.MAC[2]] = f.Dst.As4()[1] - 16 + 1
		}
	}
}

// reset takes a dump in the place of all that was known, and what was told
// meanwhile.
func (w *world) reset(s backend.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.ways)
	for k, o := range s {
		if number, ok := numberOf(k); ok {
			w.ways[number].take(k, o)
		}
	}
	for _, e := range w.meanwhile {
		if number, ok := numberOf(e.Key); ok {
			w.ways[number].take(e.Key, e.Object)
		}
	}
	w.pending = 0
	for _, p := range w.expect.Peers.all() {
		if !w.ways[p.number].meets(p.version, w.expect.Gone) {
			w.pending++
		}
	}
	w.settle()
}

// leaked counts the FDB entries to which no neighbour entry leads.
func (w *world) leaked() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, way := range w.ways {
		for version, dst := range way.fdb {
			if dst != 0 && way.neighbor != uint8(version+1) {
				n++
			}
		}
	}
	return n
}

// Seen is what came of an expectation.
type Seen struct {
	Met        bool
	At         int64          // of the event that met it, by the monotonic clock
	FirstRoute int64          // of the first route that came meanwhile
	Missing    int            // ways that are not as expected
	Events     map[string]int // notifications meanwhile, by kind of object
	LeakedFDB  int            // entries that lead nowhere
}

// await waits until the expectation is met.
func (w *world) await(limit time.Duration) Seen {
	w.mu.Lock()
	met := w.met
	w.mu.Unlock()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-met:
	case <-t.C:
	}
	return w.seen()
}

func (w *world) seen() Seen {
	leaked := w.leaked()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Seen{Met: w.pending == 0, At: w.metAt, FirstRoute: w.first, Missing: w.pending, Events: map[string]int{}, LeakedFDB: leaked}
	for kind, n := range w.events {
		s.Events[kind] = n
	}
	return s
}
