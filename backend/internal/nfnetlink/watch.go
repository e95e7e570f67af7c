package nfnetlink

import (
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

// newGeneration ends the notifications of each transaction.
const newGeneration = netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN)

// EndOfTransaction reports whether a notification ends a transaction: what came
// since the one before is in force, all of it.
func EndOfTransaction(m netlink.Message) bool { return m.Header.Type == newGeneration }

// Watch calls each with every nf_tables notification of a network namespace (a
// file descriptor; 0: the calling thread's), on the caller's goroutine, until
// ctx ends; it then returns nil. It calls start when it is listening, and again
// whenever notifications were lost and it listens anew. A message is valid until
// each returns; the PID in its header is the port of the socket that the
// transaction came by.
func Watch(ctx context.Context, netns int, start func(), each func(netlink.Message)) error {
	for {
		err := watch(ctx, netns, start, each)
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
func watch(ctx context.Context, netns int, start func(), each func(netlink.Message)) (err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return fmt.Errorf("opening a netfilter netlink socket: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetReadBuffer(watchBuffer); err != nil {
		return fmt.Errorf("setting the receive buffer of nf_tables notifications: %w", err)
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("subscribing to nf_tables notifications: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	notifications, err := newStream(conn)
	if err != nil {
		return err
	}
	start()
	for {
		err := notifications.next(func(m netlink.Message) error {
			each(m)
			return nil
		})
		if err != nil {
			return fmt.Errorf("receiving nf_tables notifications: %w", err)
		}
	}
}

// Table names an nf_tables table.
type Table struct {
	Family byte // unix.NFPROTO_*
	Name   string
}

// TableOf returns the table that a notification is about. Of all kinds of
// objects the first attribute is the name of their table, and its type is 1
// (linux/netfilter/nf_tables.h: NFTA_TABLE_NAME, NFTA_CHAIN_TABLE,
// NFTA_RULE_TABLE and so on).
func TableOf(m netlink.Message) (Table, bool) {
	attrs, err := Decode(m)
	if err != nil || !attrs.Next() || attrs.Type() != unix.NFTA_TABLE_NAME {
		return Table{}, false
	}
	return Table{Family: m.Data[0], Name: attrs.String()}, true
}
