package firewall

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

// early is what there is to know about accepts in FORWARD of iptables-nft that
// are there before it drops.
type early struct {
	used   time.Time // others used FORWARD then
	misses int       // tries, one after the other, that failed
	not    time.Time // until then only where it drops, since tries have failed
}

// A table that iptables-nft cannot read (somebody wrote it with nft) has a few
// tries, since failures may come of others who write at the same time; then it
// is left alone for some time, as long as it does not drop.
const (
	earlyTries = 4
	earlyAgain = 10 * time.Minute
)

// placement is what came of placing accepts in a variant of iptables.
type placement struct {
	changed bool
	placed  []masq.Rule
	again   bool  // try it again, though nothing is blocked
	err     error // of what is needed
}

// place puts the accepts into FORWARD of a variant of iptables, for the families
// that need it, and with sweep takes out what else of ours is in that variant.
func (f *Firewall) place(ctx context.Context, v iptables.Variant, accepts []masq.Rule, sweep bool) placement {
	var drops, used subnet.PerFamily[bool]
	if len(accepts) > 0 {
		var err1, err2 error
		drops, err1 = f.chains[v].ForwardDrops(ctx)
		used, err2 = f.chains[v].ForwardUsed(ctx)
		if err := errors.Join(err1, err2); err != nil {
			return placement{err: err} // what is there stays, as long as nobody knows
		}
	}
	var want subnet.PerFamily[bool]
	for family, has := range f.has(v) {
		early := v == iptables.NFT && f.early[family].wanted(used[family], f.cfg.Linger)
		// Without a binary that reads it, FORWARD of iptables-nft is a chain
		// like others', see nftables.Foreign.
		want[family] = has && (drops[family] || early)
	}
	placed := slices.DeleteFunc(slices.Clone(accepts), func(r masq.Rule) bool { return !want[r.Family] })
	if len(placed) == 0 && v == iptables.Legacy && time.Since(f.swept) < sweepAgain {
		return placement{}
	}
	p := placement{placed: placed}
	var failed subnet.PerFamily[error]
	p.changed, failed = f.chains[v].SyncForward(ctx, placed, sweep)
	for family, err := range failed {
		if v == iptables.NFT && want[family] && !drops[family] && f.early[family].missed(err) {
			p.again = true
		} else {
			p.err = errors.Join(p.err, err)
		}
		if err != nil {
			p.placed = slices.DeleteFunc(p.placed, func(r masq.Rule) bool { return int(r.Family) == family })
		}
	}
	if v == iptables.Legacy {
		f.swept = time.Time{}
		if len(placed) == 0 && sweep && p.err == nil {
			f.swept = time.Now()
		}
	}
	return p
}

// wanted reports whether accepts are to be there though nothing drops.
func (e *early) wanted(used bool, linger time.Duration) bool {
	now := time.Now()
	if used {
		e.used = now
	}
	// Who has just made it unused may be about to make it drop.
	return now.Sub(e.used) < linger && !now.Before(e.not)
}

// missed notes what came of a try, and reports whether it failed.
func (e *early) missed(err error) bool {
	if err == nil {
		e.misses = 0
		return false
	}
	if e.misses++; e.misses >= earlyTries {
		e.misses, e.not = 0, time.Now().Add(earlyAgain)
	}
	return true
}
