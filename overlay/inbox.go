package overlay

import (
	"sync"
	"time"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
)

// inbox gathers what happened since the reconciler last looked. Nothing in it
// is a queue: each part holds the newest state of something, so that it never
// grows beyond what there is.
type inbox struct {
	wake    chan struct{} // capacity 1
	desired *desired      // to drop the echoes of our own writes

	mu         sync.Mutex
	news       news
	snapshot   *subnet.Snapshot
	inSync     bool                            // the first full list has arrived
	own        *subnet.Held                    // our lease as last told
	told       uint64                          // how often something to be remembered came
	answered   bool                            // the store itself told something: of the leases, or of ours
	configured bool                            // there is a network config, of the store or of a file
	located    bool                            // it told of the node's addresses
	doubtful   map[string]doubt                // by key, what a restored store lacks, or has as another node's
	unsure     time.Time                       // until then the kernel may know ways that neither store nor file does; zero: not
	hostAt     time.Time                       // before which the interfaces are not looked at again
	routesAt   time.Time                       // nor the host's routes
	drifting   struct{ since, last time.Time } // when the drift that is waited for began (zero for none), and went on
	rulesN     uint64                          // how often the rules were told of
	suspects   map[backend.Key]bool            // see Agent.suspect
}

// news is what the reconciler takes out of the inbox.
type news struct {
	config                       []byte       // new raw network config
	configRecalled, heldRecalled bool         // they are as an earlier run knew them
	held                         *subnet.Held // new lease of ours
	lost                         error        // why our lease is not ours any more
	nodes                        map[string]bool
	drift                        map[backend.Key]backend.Object // what the kernel has, where it is not what we want; nil when gone
	resync                       scope                          // look at these as a whole
	node                         *underlay.Node                 // other addresses of the node by what the cluster says, or by the lease that it had
	host                         bool                           // interfaces or addresses of the host changed
	routes                       bool                           // routes of the host changed
	refusals                     bool                           // other records may be refused than before
	rules                        bool                           // the firewall may have changed
	again                        time.Time                      // when there is more to take at the latest; zero: nothing now
	inSync                       bool                           // nodes holds, or held before, all that the store's first full list named
	unsure                       bool                           // the kernel may know ways that are not among them
}

func newInbox(node string, d *desired) *inbox {
	b := &inbox{
		wake: make(chan struct{}, 1), desired: d,
		snapshot: subnet.NewSnapshot(node),
		doubtful: map[string]doubt{},
	}
	// The first pass looks at everything.
	b.news = news{resync: everything, routes: true, rules: true}
	b.poke()
	return b
}

func (b *inbox) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox, but for interfaces and routes whose time has not come.
func (b *inbox) take(now time.Time) news {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.news
	n.inSync, n.unsure = b.inSync, !b.unsure.IsZero()
	b.news = news{}
	for k := range n.drift {
		// What hung on a link that is another one may have gone without a word:
		// the kernel drops the IPv4 routes of one that goes down silently
		// (net/ipv4/fib_frontend.c, fib_disable_ip). One that we make is
		// another one for a moment.
		if k.Kind == backend.KindLink {
			n.resync.kernel = true
		}
	}
	if n.routes && now.Before(b.routesAt) {
		n.routes, b.news.routes, n.again = false, true, b.routesAt
	}
	if n.host && !n.routes && now.Before(b.hostAt) {
		n.host, b.news.host, n.again = false, true, earliest(b.hostAt, n.again)
	}
	return n
}

func (b *inbox) put(edit func(*news)) {
	b.mu.Lock()
	edit(&b.news)
	b.mu.Unlock()
	b.poke()
}

func (b *inbox) config(raw []byte) {
	b.put(func(n *news) { n.config, n.configRecalled, b.told, b.configured = raw, false, b.told+1, true })
}
func (b *inbox) node(a underlay.Node) {
	b.put(func(n *news) {
		n.node, n.routes, b.routesAt, b.located = &a, true, time.Time{}, true
	})
}
func (b *inbox) held(h subnet.Held) {
	b.put(func(n *news) {
		n.held, n.heldRecalled, n.lost, b.own, b.told, b.answered = &h, false, nil, &h, b.told+1, true
	})
}
func (b *inbox) lost(why error) { b.put(func(n *news) { n.lost, b.own = why, nil }) }
func (b *inbox) rules()         { b.put(func(n *news) { n.rules, b.rulesN = true, b.rulesN+1 }) }
