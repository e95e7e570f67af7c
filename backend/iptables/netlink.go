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

// What unix lacks of linux/netfilter/nf_tables.h, nf_tables_compat.h and
// linux/netfilter.h.
const (
	nftaTableHandle = 4
	nftaTargetName  = 1 // of an xtables target in nf_tables
	nftaMatchName   = 1 // of an xtables match in nf_tables

	nfDrop   = 0
	nfAccept = 1
	nfQueue  = 3
)

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

func decodeRule(m netlink.Message) (kernelRule, error) {
	var r kernelRule
	attrs, err := nfnetlink.Decode(m)
	if err != nil {
		return r, err
	}
	conditional := false
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_RULE_HANDLE, unix.NFTA_RULE_COMPAT, unix.NFTA_RULE_USERDATA:
			r.content = append(r.content, attrs.Bytes()...)
		case unix.NFTA_RULE_EXPRESSIONS:
			attrs.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *netlink.AttributeDecoder) error {
						conditional = !decodeExpr(e, &r) || conditional
						return nil
					})
				}
				return nil
			})
		}
	}
	if conditional {
		r.step = step{}
	}
	return r, attrs.Err()
}

// decodeExpr notes in r what an expression is and what it does to each packet.
// It returns false if it may stop the rule, or is not known.
func decodeExpr(attrs *netlink.AttributeDecoder, r *kernelRule) bool {
	var name string
	unconditional := false
	for attrs.Next() { // the name comes first (nf_tables_fill_expr_info)
		switch attrs.Type() {
		case unix.NFTA_EXPR_NAME:
			name = attrs.String()
			r.content = append(r.content, name...)
			switch name {
			case "counter", "log":
				unconditional = true
			case "reject":
				r.step.fate, unconditional = drops, true
			case "masq", "nat", "redir":
				r.step.fate, unconditional = accepts, true
			}
		case unix.NFTA_EXPR_DATA:
			if name != "counter" {
				r.content = append(r.content, attrs.Bytes()...)
			}
			attrs.Nested(func(data *netlink.AttributeDecoder) error {
				switch name {
				case "immediate":
					unconditional = decodeVerdict(data, &r.step)
				case "match":
					unconditional = decodeName(data, nftaMatchName) == "comment"
				case "target":
					r.step.fate, unconditional = fateOf(decodeName(data, nftaTargetName)), true
				}
				return nil
			})
		}
	}
	return unconditional
}

// decodeName returns the attribute attr, a string.
func decodeName(attrs *netlink.AttributeDecoder, attr uint16) (name string) {
	for attrs.Next() {
		if attrs.Type() == attr {
			name = attrs.String()
		}
	}
	return name
}

// decodeVerdict decodes an immediate expression, which also loads other data.
func decodeVerdict(attrs *netlink.AttributeDecoder, s *step) bool {
	for attrs.Next() {
		if attrs.Type() != unix.NFTA_IMMEDIATE_DATA {
			continue
		}
		attrs.Nested(func(data *netlink.AttributeDecoder) error {
			for data.Next() {
				if data.Type() != unix.NFTA_DATA_VERDICT {
					continue
				}
				data.Nested(func(verdict *netlink.AttributeDecoder) error {
					for verdict.Next() {
						switch verdict.Type() {
						case unix.NFTA_VERDICT_CODE:
							switch int32(verdict.Uint32()) {
							case nfDrop:
								s.fate = drops
							case nfAccept, nfQueue:
								s.fate = accepts
							case unix.NFT_RETURN, unix.NFT_GOTO:
								s.leaves = true
							}
						case unix.NFTA_VERDICT_CHAIN:
							s.chain = verdict.String()
						}
					}
					return nil
				})
			}
			return nil
		})
	}
	return true
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
