package underlay

import (
	"net/netip"
	"time"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// Patience is how long an InternalIP that a cluster leaves out still counts:
// kubelets that start and cloud controllers write a Node's addresses anew,
// and some of them in two steps.
const Patience = 10 * time.Second

// Belief is what to believe of what a cluster says of a node's addresses, one
// word after the other. The zero value has heard none.
type Belief struct {
	internal subnet.PerFamily[netip.Addr]
	doubted  subnet.PerFamily[time.Time] // since when another is said, or none; zero while it is said
}

// Take returns what to believe at a time, of a host, at which the cluster says
// n. An InternalIP that is left out is gone after Patience. One that takes its
// place counts at once, unless it would have the node leave an interface for an
// address that is on none. until is when that is to be looked at again; zero
// for when the cluster says something else or the host changes.
func (b *Belief) Take(n Node, host backend.Host, now time.Time) (believed Node, until time.Time) {
	for f, said := range n.Internal {
		had := b.internal[f]
		doubt := had.IsValid() && said != had && (!said.IsValid() || Holder(host, said) == "" && Holder(host, had) != "")
		if doubt && b.doubted[f].IsZero() {
			b.doubted[f] = now
		}
		gone := b.doubted[f].Add(Patience)
		if !doubt || !now.Before(gone) {
			b.internal[f], b.doubted[f] = said, time.Time{}
			continue
		}
		if until.IsZero() || gone.Before(until) {
			until = gone
		}
	}
	n.Internal = b.internal
	return n, until
}
