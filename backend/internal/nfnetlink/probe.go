package nfnetlink

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Step is a part of a transaction that only asks whether the kernel takes it.
type Step struct {
	What   string // for errors: a NAT chain
	Family byte   // unix.NFPROTO_*
	Kind   int    // unix.NFT_MSG_NEW*
	Fill   func(*netlink.AttributeEncoder)
}

// StepTable is a step that makes a table.
func StepTable(what string, t Table) Step {
	return Step{what, t.Family, unix.NFT_MSG_NEWTABLE, func(e *netlink.AttributeEncoder) { e.String(unix.NFTA_TABLE_NAME, t.Name) }}
}

// StepChain is a step that makes a base chain.
func StepChain(what string, c Chain) Step {
	return Step{what, c.Table.Family, unix.NFT_MSG_NEWCHAIN, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_CHAIN_TABLE, c.Table.Name)
		e.String(unix.NFTA_CHAIN_NAME, c.Name)
		e.String(unix.NFTA_CHAIN_TYPE, c.Hook.Type)
		e.Nested(unix.NFTA_CHAIN_HOOK, func(hook *netlink.AttributeEncoder) error {
			hook.Uint32(unix.NFTA_HOOK_HOOKNUM, c.Hook.Number)
			hook.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.Hook.Priority))
			return nil
		})
	}}
}

// Probe returns nil when the kernel takes steps in one transaction, and
// otherwise an error about the first that it does not take. It changes nothing:
// it sends a transaction without its end, which the kernel checks and throws
// away, as for nft --check (nfnetlink_rcv_batch, NFNL_ABORT_VALIDATE). That takes
// a grace period of RCU, some 10 ms, however many steps there are.
func Probe(ctx context.Context, netns int, steps ...Step) error {
	batch := []netlink.Message{bracket(unix.NFNL_MSG_BATCH_BEGIN)}
	for _, s := range steps {
		attrs, err := Encode(s.Fill)
		if err != nil {
			return fmt.Errorf("encoding %s: %w", s.What, err)
		}
		batch = append(batch, Message(s.Family, s.Kind, netlink.Acknowledge|netlink.Create, attrs))
	}
	conn, err := Dial(ctx, netns)
	if err != nil {
		return err
	}
	_, err = conn.SendMessages(batch)
	for i := 0; err == nil && i < len(steps); i++ {
		if _, err = conn.Receive(); err != nil {
			err = fmt.Errorf("checking whether the kernel takes %s: %w", steps[i].What, err)
		}
	}
	return errors.Join(err, conn.Close())
}
