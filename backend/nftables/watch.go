package nftables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchBuffer is the size of the notification socket's receive buffer in
// octets, wide enough for a reload of some ten thousand rules of others.
const watchBuffer = 4 << 20

// Watch calls onChange, on the caller's goroutine, after each transaction that
// touched our table, our own included, until ctx ends; it then returns nil. It
// calls onChange once at the start, when it is listening, for all that
// happened before. Where notifications were lost it subscribes anew and calls
// onChange too, since our table may have been in them.
//
// onChange should only mark the table for a Sync. A Sync that finds nothing to
// do writes nothing, so the echo of our own writes ends there.
func (t *Table) Watch(ctx context.Context, onChange func()) error {
	for {
		err := t.watch(ctx, onChange)
		if ctx.Err() != nil {
			return nil
		}
		// An overrun is told once, by ENOBUFS, and before the messages that
		// still wait; until those are read the kernel drops all others without
		// a word (af_netlink.c, NETLINK_S_CONGESTED). A new socket begins clean.
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
}

// watch is Watch on one socket. It ends with an error or with ctx.
func (t *Table) watch(ctx context.Context, onChange func()) (err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: t.netns})
	if err != nil {
		return fmt.Errorf("opening a netfilter netlink socket: %w%s", err, advice(err))
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetReadBuffer(watchBuffer); err != nil {
		return fmt.Errorf("setting the receive buffer of nf_tables notifications: %w", err)
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("subscribing to nf_tables notifications: %w%s", err, advice(err))
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	onChange()
	for touched := false; ; {
		messages, err := conn.Receive()
		if err != nil {
			return fmt.Errorf("receiving nf_tables notifications: %w", err)
		}
		for _, m := range messages {
			// The new generation's number ends each transaction.
			if ours(m) {
				touched = true
			} else if touched && m.Header.Type == newGeneration {
				touched = false
				onChange()
			}
		}
	}
}

const newGeneration = netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN)

// ours reports whether a notification is about our table. Of all kinds of
// objects the first attribute is the name of their table, and its type is 1
// (linux/netfilter/nf_tables.h: NFTA_TABLE_NAME, NFTA_CHAIN_TABLE,
// NFTA_RULE_TABLE and so on).
func ours(m netlink.Message) bool {
	if len(m.Data) < headerLength || m.Data[0] != unix.NFPROTO_INET {
		return false
	}
	attrs, err := decode(m)
	if err != nil || !attrs.Next() {
		return false
	}
	return attrs.Type() == unix.NFTA_TABLE_NAME && bytes.Equal(attrs.Bytes(), []byte(TableName+"\x00"))
}
