package nftables

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// Watch calls onChange, on the caller's goroutine, after each transaction that
// touched our table, our own included, until ctx ends; it then returns nil. It
// calls onChange once at the start, when it is listening, for all that
// happened before. Where notifications were lost it subscribes anew and calls
// onChange too, since our table may have been in them.
//
// onChange should only mark the table for a Sync. A Sync that finds nothing to
// do writes nothing, so the echo of our own writes ends there.
func (t *Table) Watch(ctx context.Context, onChange func()) error {
	ours := nfnetlink.Table{Family: unix.NFPROTO_INET, Name: TableName}
	err := nfnetlink.WatchTables(ctx, t.netns, func(x nfnetlink.Table) bool { return x == ours }, onChange)
	if err != nil {
		return fmt.Errorf("watching table inet %s: %w%s", TableName, err, advice(err))
	}
	return nil
}
