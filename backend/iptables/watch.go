package iptables

import (
	"context"
	"fmt"
	"slices"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/subnet"
)

// Watch calls tell, on the caller's goroutine, after each change of a table in
// which we have chains (filter and nat of both families), whoever made it, until
// ctx ends; it then returns nil. It calls tell once at the start, when it is
// listening, and again whenever notifications were lost.
//
// tell should only mark the chains for a Sync, which ends there when nothing of
// ours changed, without running a process.
//
// Legacy tables send no notifications (see Variant.Notifies): tell is called at
// the start only.
func (c *Chains) Watch(ctx context.Context, tell func()) error {
	if !c.variant.Notifies() {
		tell()
		<-ctx.Done()
		return nil
	}
	var ours []nfnetlink.Table
	for _, p := range places() {
		ours = append(ours, nfnetlink.Table{Family: families[p.family], Name: p.table})
	}
	err := nfnetlink.WatchTables(ctx, 0, func(t nfnetlink.Table) bool { return slices.Contains(ours, t) }, tell)
	if err != nil {
		return fmt.Errorf("watching the tables of %s and %s (%s): %w%s",
			programs[subnet.IPv4], programs[subnet.IPv6], c.variant, err, netlinkAdvice(err))
	}
	return nil
}
