package iptables

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/subnet"
)

// nftaTableHandle is NFTA_TABLE_HANDLE of linux/netfilter/nf_tables.h, which
// unix lacks.
const nftaTableHandle = 4

// readAttempts bounds how often a reading is begun anew because the ruleset
// changed in the middle of it.
const readAttempts = 10

// kernelChain is a chain of nf_tables. The zero kernelChain is not there.
type kernelChain struct {
	handle uint64
	policy string // of a base chain: ACCEPT or DROP
	rules  []kernelRule
}

// kernelRule is a rule: what tells it from all others, and what it does. A
// rule's handle alone tells nothing, since one that replaces it takes it over
// (nf_tables_newrule).
type kernelRule struct {
	content []byte // expressions and comment as they came, but for counters' values
	step    step
}

// readChains reads a table's handle (0: there is none) and the chains named, all
// of one generation of the ruleset.
func readChains(ctx context.Context, f subnet.Family, table string, names ...string) (uint64, []kernelChain, error) {
	conn, err := nfnetlink.Dial(ctx, 0)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return 0, make([]kernelChain, len(names)), nil // no netfilter netlink: no nf_tables
	}
	if err != nil {
		return 0, nil, err
	}
	handle, chains, err := readStable(conn, families[f], table, names)
	if err = errors.Join(err, conn.Close()); err != nil {
		return 0, nil, fmt.Errorf("reading chains %s of %s table %s over netlink: %w%s",
			strings.Join(names, ", "), programs[f], table, err, netlinkAdvice(err))
	}
	return handle, chains, nil
}

func readStable(conn *netlink.Conn, family byte, table string, names []string) (uint64, []kernelChain, error) {
	before, err := nfnetlink.Generation(conn)
	if errors.Is(err, unix.EINVAL) {
		return 0, make([]kernelChain, len(names)), nil // no nf_tables (nfnetlink.c, nfnetlink_rcv_msg)
	}
	if err != nil {
		return 0, nil, err
	}
	for range readAttempts {
		handle, chains, err := readOnce(conn, family, table, names)
		if err != nil {
			return 0, nil, err
		}
		after, err := nfnetlink.Generation(conn)
		if err != nil {
			return 0, nil, err
		}
		if after == before {
			return handle, chains, nil
		}
		before = after
	}
	return 0, nil, fmt.Errorf("the ruleset changed %d times while it was read; "+
		"find who writes to nftables all the time (`nft monitor`), and try again", readAttempts)
}

func readOnce(conn *netlink.Conn, family byte, table string, names []string) (uint64, []kernelChain, error) {
	chains := make([]kernelChain, len(names))
	handle, err := readTable(conn, family, table)
	if err != nil || handle == 0 {
		return 0, chains, err
	}
	for i, name := range names {
		if chains[i], err = readChain(conn, family, table, name); err != nil {
			return 0, nil, fmt.Errorf("chain %s: %w", name, err)
		}
	}
	return handle, chains, nil
}

// readTable returns a table's handle; no two tables of a namespace ever have the
// same one. It is 0 where there is no such table.
func readTable(conn *netlink.Conn, family byte, table string) (uint64, error) {
	attrs, err := nfnetlink.Get(conn, family, unix.NFT_MSG_GETTABLE, map[uint16]string{unix.NFTA_TABLE_NAME: table})
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var handle uint64
	for attrs.Next() {
		if attrs.Type() == nftaTableHandle {
			handle = attrs.Uint64()
		}
	}
	return handle, attrs.Err()
}

func readChain(conn *netlink.Conn, family byte, table, name string) (kernelChain, error) {
	var c kernelChain
	attrs, err := nfnetlink.Get(conn, family, unix.NFT_MSG_GETCHAIN, map[uint16]string{
		unix.NFTA_CHAIN_TABLE: table, unix.NFTA_CHAIN_NAME: name,
	})
	if errors.Is(err, unix.ENOENT) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_CHAIN_HANDLE:
			c.handle = attrs.Uint64()
		case unix.NFTA_CHAIN_POLICY:
			c.policy = "ACCEPT"
			if attrs.Uint32() == nfDrop {
				c.policy = "DROP"
			}
		}
	}
	if err := attrs.Err(); err != nil {
		return c, err
	}
	messages, err := nfnetlink.Ask(conn, family, unix.NFT_MSG_GETRULE, netlink.Dump, map[uint16]string{
		unix.NFTA_RULE_TABLE: table, unix.NFTA_RULE_CHAIN: name,
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return c, fmt.Errorf("listing its rules: %w", err)
	}
	for _, m := range messages {
		r, err := decodeRule(m)
		if err != nil {
			return c, fmt.Errorf("decoding a rule: %w", err)
		}
		c.rules = append(c.rules, r)
	}
	return c, nil
}

// fingerprint returns what is the same as long as the chains named and their
// rules are: a hash, and never empty.
func fingerprint(ctx context.Context, p place, names []string) (string, error) {
	table, chains, err := readChains(ctx, p.family, p.table, names...)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "table %d\n", table)
	for i, c := range chains {
		fmt.Fprintf(h, "chain %s %d\n", names[i], c.handle)
		for _, r := range c.rules {
			fmt.Fprintf(h, "%x\n", r.content)
		}
	}
	return string(h.Sum(nil)), nil
}

func netlinkAdvice(err error) string {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return "; this needs CAP_NET_ADMIN"
	}
	return ""
}
