package firewall

import (
	"context"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/backend/nftables"
)

// Watch tells when somebody may have touched what concerns our rules, once at
// the start, every Resync while iptables-legacy has tables on this host, within
// a Resync of its first one where its binaries are, and when a Sync that could
// not place all accepts should be tried again, until ctx ends. It may tell from
// several goroutines, and works in the network namespace of the calling thread.
func (f *Firewall) Watch(ctx context.Context, tell func()) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if !f.table.Present(ctx) {
			tell()
			<-ctx.Done()
			return nil
		}
		return f.foreign.Watch(ctx, ofIPTables, tell)
	})
	f.resync(ctx, tell)
	return g.Wait()
}

// ofIPTables reports whether a chain of iptables-nft bears on ours: those that
// ours hang on, ours, and in table filter any that FORWARD may jump to and that
// may come to drop everything. Kube-proxy's, rewritten all day, never do.
func ofIPTables(c nftables.Chain) bool {
	if c.Family != unix.NFPROTO_IPV4 && c.Family != unix.NFPROTO_IPV6 {
		return false
	}
	switch c.Table {
	case "nat":
		return c.Name == "POSTROUTING" || strings.HasPrefix(c.Name, "TWILL-")
	case "filter":
		return c.Name != "INPUT" && c.Name != "OUTPUT" && !strings.HasPrefix(c.Name, "KUBE-")
	}
	return false
}

// resync tells every Resync while iptables-legacy has tables here, and, later
// and later, after a Sync that others got in the way of, perhaps: their last
// change may have been told before it failed. Where iptables-legacy has none it
// looks whether that is still so, which runs nothing.
func (f *Firewall) resync(ctx context.Context, tell func()) {
	var again <-chan time.Time // one try after each Sync
	for {
		var due <-chan time.Time
		if f.legacy.Load() || f.mayLegacy.Load() {
			due = time.After(f.cfg.Resync)
		}
		select {
		case <-ctx.Done():
			return
		case <-f.turned:
			again = nil
			if n := f.failed.Load(); n > 0 {
				again = time.After(min(retryMost, retryFirst<<min(n-1, 10)))
			}
		case <-due:
			if f.legacy.Load() || iptables.LegacyUsed() {
				tell()
			}
		case <-again:
			tell()
		}
	}
}

// Waits after a Sync that could not place all accepts.
const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 30 * time.Second
)

// noteFailed counts the Syncs that could not place all accepts.
func (f *Firewall) noteFailed(failed bool) {
	before := f.failed.Load()
	if failed {
		f.failed.Add(1)
	} else {
		f.failed.Store(0)
	}
	if failed || before > 0 {
		f.turn()
	}
}

func (f *Firewall) turn() {
	select {
	case f.turned <- struct{}{}:
	default:
	}
}

// noteLegacy notes whether iptables-legacy has tables here.
func (f *Firewall) noteLegacy() {
	if used := iptables.LegacyUsed(); f.legacy.Swap(used) != used {
		f.turn()
	}
}
