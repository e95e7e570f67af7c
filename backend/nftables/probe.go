package nftables

import (
	"context"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/masq"
)

const requirement = "this needs a kernel with nf_tables, NAT and masquerade for family inet: Linux 5.2 or newer with " +
	"CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT and CONFIG_NFT_MASQ (modules nft_chain_nat and nft_masq)"

// Present reports whether the kernel has nf_tables at all: whether there is
// something to read, and to be told of.
func (t *Table) Present(ctx context.Context) bool {
	return !nfnetlink.Absent(t.session.Read(ctx, func(*netlink.Conn) error { return nil }))
}

// Supported returns nil when the kernel can hold our rules, and otherwise an
// error that says what is missing. It changes nothing.
func (t *Table) Supported(ctx context.Context) error {
	table := nfnetlink.Table{Family: unix.NFPROTO_INET, Name: TableName + "-probe"}
	masquerade, err := expr.Marshal(unix.NFPROTO_INET, &expr.Masq{FullyRandom: true})
	if err != nil {
		return fmt.Errorf("encoding a masquerade expression: %w", err)
	}
	chain := nfnetlink.Chain{
		Table: table, Name: "postrouting",
		Hook: nfnetlink.Hook{Type: string(nftables.ChainTypeNAT), Number: unix.NF_INET_POST_ROUTING, Priority: masq.PrioritySourceNAT},
	}
	err = nfnetlink.Probe(ctx, t.netns,
		nfnetlink.StepTable("a table of family inet", table),
		nfnetlink.StepChain("a NAT chain", chain),
		nfnetlink.Step{What: "a masquerade rule", Family: table.Family, Kind: unix.NFT_MSG_NEWRULE, Fill: func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_RULE_TABLE, table.Name)
			e.String(unix.NFTA_RULE_CHAIN, chain.Name)
			e.Nested(unix.NFTA_RULE_EXPRESSIONS, func(list *netlink.AttributeEncoder) error {
				list.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, masquerade)
				return nil
			})
		}},
	)
	if err != nil {
		return fmt.Errorf("%w%s", err, advice(err))
	}
	return nil
}
