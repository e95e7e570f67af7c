package firewall

import (
	"context"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/nftables"
)

// Watch tells when somebody may have touched what concerns our rules, once at
// the start, and every Resync while iptables-legacy has tables on this host,
// until ctx ends. It may tell from several goroutines.
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
	g.Go(func() error {
		f.resync(ctx, tell)
		return nil
	})
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

// resync tells every Resync while iptables-legacy has tables here.
func (f *Firewall) resync(ctx context.Context, tell func()) {
	for {
		var due <-chan time.Time
		if f.legacy.Load() {
			due = time.After(f.cfg.Resync)
		}
		select {
		case <-ctx.Done():
			return
		case <-f.turned:
		case <-due:
			tell()
		}
	}
}

// noteLegacy notes whether iptables-legacy has tables here. The kernel makes
// them when they are first asked for (ip_tables.c, iptable_filter.c), and lists
// them per network namespace; by way of the thread, since /proc/net is that of
// the process.
func (f *Firewall) noteLegacy() {
	used := false
	for _, file := range []string{"ip_tables_names", "ip6_tables_names"} {
		names, err := os.ReadFile("/proc/thread-self/net/" + file)
		used = used || err == nil && len(strings.TrimSpace(string(names))) > 0
	}
	if f.legacy.Swap(used) != used {
		select {
		case f.turned <- struct{}{}:
		default:
		}
	}
}
