package nftables

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/nftables/internal/nft"
)

// observed is what the kernel has under our table's name.
type observed struct {
	nfnetlink.Header
	chains map[string]nft.Chain // of those asked for
}

// ours is our table as netlink names it.
func ours() nfnetlink.Table { return nfnetlink.Table{Family: unix.NFPROTO_INET, Name: TableName} }

// read lists our table and, in it, the chains named.
func (t *Table) read(ctx context.Context, names []string) (observed, error) {
	var o observed
	err := t.session.Read(ctx, func(conn *netlink.Conn) (err error) {
		o = observed{}
		if o.Header, err = nfnetlink.GetTable(conn, ours()); errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err == nil {
			o.chains, err = known.ReadChains(conn, ours(), names)
		}
		return err
	})
	if err != nil {
		return observed{}, fmt.Errorf("reading table inet %s: %w%s", TableName, err, nfnetlink.Advice(err, requirement))
	}
	return o, nil
}

// known decodes the expressions of those that we render.
var known nft.Decoder = func(name string) expr.Any {
	if name == "masq" {
		return &expr.Masq{}
	}
	return nft.Known(name)
}
