package guard

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

const requirement = "this needs a kernel with nf_tables for family inet: Linux 5.2 or newer with CONFIG_NF_TABLES_INET"

// Supported returns nil when the kernel can hold both tables; hygiene.ErrNoBridge when
// it can hold that of the VTEP alone, and Observe, Apply and Watch then mean
// that one; and another error, which says what is missing, when it can hold
// neither. It changes nothing.
func (t *Tables) Supported(ctx context.Context) error {
	if err := t.probe(ctx, vtep()); err != nil {
		return err
	}
	t.mu.Lock()
	t.probed = false // a module may have been loaded
	t.mu.Unlock()
	tables, err := t.tables(ctx)
	if err == nil && len(tables) == 1 {
		return hygiene.ErrNoBridge
	}
	return err
}

// probe sends a transaction without its end, which the kernel checks and
// throws away, as for nft --check (nfnetlink_rcv_batch).
func (t *Tables) probe(ctx context.Context, like nfnetlink.Table) error {
	const table = "twill-probe"
	steps := []struct {
		kind int
		fill func(*netlink.AttributeEncoder)
	}{
		{unix.NFT_MSG_NEWTABLE, func(e *netlink.AttributeEncoder) { e.String(unix.NFTA_TABLE_NAME, table) }},
		{unix.NFT_MSG_NEWCHAIN, func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_CHAIN_TABLE, table)
			e.String(unix.NFTA_CHAIN_NAME, "prerouting")
			e.String(unix.NFTA_CHAIN_TYPE, "filter")
			e.Nested(unix.NFTA_CHAIN_HOOK, func(hook *netlink.AttributeEncoder) error {
				hook.Uint32(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_PRE_ROUTING)
				hook.Uint32(unix.NFTA_HOOK_PRIORITY, 0)
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
			return fmt.Errorf("encoding a probe of nf_tables: %w", err)
		}
		batch = append(batch, nfnetlink.Message(like.Family, s.kind, netlink.Acknowledge|netlink.Create, attrs))
	}
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	_, err = conn.SendMessages(batch)
	for range steps {
		if err == nil {
			_, err = conn.Receive()
		}
	}
	if err != nil {
		err = fmt.Errorf("checking whether the kernel takes a table like %s: %w%s", describe(like), err, advice(err))
	}
	return errors.Join(err, conn.Close())
}

// unsupported reports whether an error says that the kernel lacks something.
func unsupported(err error) bool {
	for _, errno := range []unix.Errno{
		unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOENT, unix.EINVAL,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// advice says what to do about an error of the kernel, or nothing.
func advice(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "; this needs CAP_NET_ADMIN, and a table that no other program owns (nft's flag owner)"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT):
		return "; " + requirement
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return "; the host is short of memory or of socket buffer (net.core.wmem_max, net.core.rmem_max)"
	}
	return ""
}
