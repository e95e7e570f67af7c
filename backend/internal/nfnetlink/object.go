package nfnetlink

import (
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftaTableHandle is NFTA_TABLE_HANDLE of linux/netfilter/nf_tables.h, which
// unix lacks.
const nftaTableHandle = 4

// Header is what a table says of itself.
type Header struct {
	Handle uint64 // no two tables of a network namespace ever have the same; not 0
	Flags  uint32 // Dormant and others
	Use    uint32 // how many chains, sets, objects and flowtables are in it
}

// Flags of a table; linux/netfilter/nf_tables.h, enum nft_table_flags.
const (
	Dormant = 1
	Owned   = 2
)

// GetTable reads a table. Where there is none, the error is ENOENT.
func GetTable(conn *netlink.Conn, t Table) (Header, error) {
	attrs, err := Get(conn, t.Family, unix.NFT_MSG_GETTABLE, map[uint16]string{unix.NFTA_TABLE_NAME: t.Name})
	if err != nil {
		return Header{}, err
	}
	var h Header
	for attrs.Next() {
		switch attrs.Type() {
		case nftaTableHandle:
			h.Handle = attrs.Uint64()
		case unix.NFTA_TABLE_FLAGS:
			h.Flags = attrs.Uint32()
		case unix.NFTA_TABLE_USE:
			h.Use = attrs.Uint32()
		}
	}
	return h, attrs.Err()
}

// Chain is a chain without its rules.
type Chain struct {
	Table  Table
	Name   string
	Handle uint64 // not 0
	Hook   Hook
}

// Hook is where and how a base chain sees packets. That of a regular chain is
// zero.
type Hook struct {
	Type     string // filter, nat, route
	Number   uint32 // unix.NF_INET_*
	Priority int32
	Policy   uint32 // 0: drop, 1: accept; linux/netfilter.h
}

// GetChain reads a chain. Where there is none, the error is ENOENT.
func GetChain(conn *netlink.Conn, t Table, name string) (Chain, error) {
	reply, err := Ask(conn, t.Family, unix.NFT_MSG_GETCHAIN, 0, map[uint16]string{
		unix.NFTA_CHAIN_TABLE: t.Name, unix.NFTA_CHAIN_NAME: name,
	})
	if err != nil {
		return Chain{}, err
	}
	if len(reply) != 1 {
		return Chain{}, fmt.Errorf("%d answers instead of one", len(reply))
	}
	return DecodeChain(reply[0])
}

// DecodeChain decodes a message about a chain.
func DecodeChain(m netlink.Message) (Chain, error) {
	attrs, err := Decode(m)
	if err != nil {
		return Chain{}, err
	}
	c := Chain{Table: Table{Family: m.Data[0]}}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_CHAIN_TABLE:
			c.Table.Name = attrs.String()
		case unix.NFTA_CHAIN_NAME:
			c.Name = attrs.String()
		case unix.NFTA_CHAIN_HANDLE:
			c.Handle = attrs.Uint64()
		case unix.NFTA_CHAIN_TYPE:
			c.Hook.Type = attrs.String()
		case unix.NFTA_CHAIN_POLICY:
			c.Hook.Policy = attrs.Uint32()
		case unix.NFTA_CHAIN_HOOK:
			attrs.Nested(func(hook *netlink.AttributeDecoder) error {
				for hook.Next() {
					switch hook.Type() {
					case unix.NFTA_HOOK_HOOKNUM:
						c.Hook.Number = hook.Uint32()
					case unix.NFTA_HOOK_PRIORITY:
						c.Hook.Priority = int32(hook.Uint32())
					}
				}
				return nil
			})
		}
	}
	return c, attrs.Err()
}

// Rule is a rule as the kernel has it.
type Rule struct {
	Chain       string
	Handle      uint64
	Expressions []Expression
	Userdata    []byte // the comment, encoded as libnftnl does
}

// Expression is a part of a rule: its name, such as "cmp", and its attributes.
type Expression struct {
	Name string
	Data []byte // see Attributes
}

// ListRules lists the rules of a chain; with no name, of all chains of a table.
func ListRules(conn *netlink.Conn, t Table, chain string) ([]Rule, error) {
	names := map[uint16]string{unix.NFTA_RULE_TABLE: t.Name}
	if chain != "" {
		names[unix.NFTA_RULE_CHAIN] = chain
	}
	messages, err := Ask(conn, t.Family, unix.NFT_MSG_GETRULE, netlink.Dump, names)
	if err != nil {
		return nil, fmt.Errorf("listing rules: %w", err)
	}
	var rules []Rule
	for _, m := range messages {
		r, err := DecodeRule(m)
		if err != nil {
			return nil, fmt.Errorf("decoding a rule: %w", err)
		}
		if chain == "" || r.Chain == chain {
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// DecodeRule decodes a message about a rule.
func DecodeRule(m netlink.Message) (Rule, error) {
	attrs, err := Decode(m)
	if err != nil {
		return Rule{}, err
	}
	var r Rule
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_RULE_CHAIN:
			r.Chain = attrs.String()
		case unix.NFTA_RULE_HANDLE:
			r.Handle = attrs.Uint64()
		case unix.NFTA_RULE_USERDATA:
			r.Userdata = attrs.Bytes()
		case unix.NFTA_RULE_EXPRESSIONS:
			attrs.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *netlink.AttributeDecoder) error {
						r.Expressions = append(r.Expressions, decodeExpression(e))
						return nil
					})
				}
				return nil
			})
		}
	}
	return r, attrs.Err()
}

func decodeExpression(attrs *netlink.AttributeDecoder) Expression {
	var e Expression
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_EXPR_NAME:
			e.Name = attrs.String()
		case unix.NFTA_EXPR_DATA:
			e.Data = attrs.Bytes()
		}
	}
	return e
}
