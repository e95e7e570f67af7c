package kernel

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// Chain names a chain of nf_tables; that of iptables-nft are there too.
type Chain struct {
	Family byte // unix.NFPROTO_*
	Table  string
	Name   string
}

// Chains reports which of the chains exist, in their order. A kernel without
// nf_tables has none.
func (k *Kernel) Chains(ctx context.Context, chains ...Chain) ([]bool, error) {
	conn, err := nfnetlink.Dial(ctx, k.cfg.NetNS)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return make([]bool, len(chains)), nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for chains of nf_tables: %w", err)
	}
	defer conn.Close()
	there := make([]bool, len(chains))
	for i, c := range chains {
		_, err := nfnetlink.Get(conn, c.Family, unix.NFT_MSG_GETCHAIN, map[uint16]string{
			unix.NFTA_CHAIN_TABLE: c.Table, unix.NFTA_CHAIN_NAME: c.Name,
		})
		// EINVAL: nfnetlink without the subsystem (net/netfilter/nfnetlink.c).
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return nil, fmt.Errorf("looking for chain %s in table %s: %w", c.Name, c.Table, err)
		}
		there[i] = err == nil
	}
	return there, nil
}
