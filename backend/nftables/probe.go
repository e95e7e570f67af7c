package nftables

import (
	"context"
	"errors"
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
	conn, err := t.dial(ctx)
	if err == nil {
		_, err = nfnetlink.Generation(conn)
		err = errors.Join(err, conn.Close())
	}
	// No netfilter netlink, and no nf_tables in it (nfnetlink_rcv_msg).
	return !errors.Is(err, unix.EPROTONOSUPPORT) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP)
}

// Supported returns nil when the kernel can hold our rules, and otherwise an
// error that says what is missing. It changes nothing: it sends a transaction
// without its end, which the kernel checks and throws away, as for nft --check
// (nfnetlink_rcv_batch, NFNL_ABORT_VALIDATE).
func (t *Table) Supported(ctx context.Context) error {
	const table, chain = TableName + "-probe", "postrouting"
	masquerade, err := expr.Marshal(unix.NFPROTO_INET, &expr.Masq{FullyRandom: true})
	if err != nil {
		return fmt.Errorf("encoding a masquerade expression: %w", err)
	}
	steps := []struct {
		what string
		kind int
		fill func(*netlink.AttributeEncoder)
	}{
		{"a table of family inet", unix.NFT_MSG_NEWTABLE, func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_TABLE_NAME, table)
		}},
		{"a NAT chain", unix.NFT_MSG_NEWCHAIN, func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_CHAIN_TABLE, table)
			e.String(unix.NFTA_CHAIN_NAME, chain)
			e.String(unix.NFTA_CHAIN_TYPE, string(nftables.ChainTypeNAT))
			e.Nested(unix.NFTA_CHAIN_HOOK, func(hook *netlink.AttributeEncoder) error {
				hook.Uint32(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_POST_ROUTING)
				hook.Uint32(unix.NFTA_HOOK_PRIORITY, masq.PrioritySourceNAT)
				return nil
			})
		}},
		{"a masquerade rule", unix.NFT_MSG_NEWRULE, func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_RULE_TABLE, table)
			e.String(unix.NFTA_RULE_CHAIN, chain)
			e.Nested(unix.NFTA_RULE_EXPRESSIONS, func(list *netlink.AttributeEncoder) error {
				list.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, masquerade)
				return nil
			})
		}},
	}
	batch := []netlink.Message{{
		Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request},
		Data:   []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
	}}
	for _, s := range steps {
		attrs, err := nfnetlink.Encode(s.fill)
		if err != nil {
			return fmt.Errorf("encoding %s: %w", s.what, err)
		}
		batch = append(batch, nfnetlink.Message(unix.NFPROTO_INET, s.kind, netlink.Acknowledge|netlink.Create, attrs))
	}
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	_, err = conn.SendMessages(batch)
	for i := 0; err == nil && i < len(steps); i++ {
		if _, err = conn.Receive(); err != nil {
			err = fmt.Errorf("checking whether the kernel takes %s: %w%s", steps[i].what, err, advice(err))
		}
	}
	return errors.Join(err, conn.Close())
}
