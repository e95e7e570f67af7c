package nftables

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// foreignChain is another program's base chain of hook forward.
type foreignChain struct {
	Chain
	policy nftables.ChainPolicy
	owned  bool // its table has the flag owner
	drops  bool // what none of its rules accepts is dropped
	rules  []foreignRule
}

// foreignRule is a rule, with what we do not know of it left out.
type foreignRule struct {
	rule
	handle uint64
	drops  bool // every packet
}

// Flags of a table; linux/netfilter/nf_tables.h, enum nft_table_flags.
const (
	tableDormant = 1
	tableOwner   = 2
)

// list reads the base chains that packets pass when they are forwarded, but for
// our own.
func (f *Foreign) list(ctx context.Context) ([]foreignChain, error) {
	conn, err := New(InNetNS(f.netns)).dial(ctx)
	if err != nil {
		return nil, err
	}
	chains, err := stable(conn, func() ([]foreignChain, error) { return listForeign(conn) })
	if err := errors.Join(err, conn.Close()); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range chains {
		f.bases[c.Chain] = true
	}
	return chains, nil
}

// listForeign asks for all chains, as the kernel knows no other question
// (nf_tables_dump_chains), and for the rules of those that matter.
func listForeign(conn *netlink.Conn) ([]foreignChain, error) {
	messages, err := nfnetlink.Ask(conn, unix.NFPROTO_UNSPEC, unix.NFT_MSG_GETCHAIN, netlink.Dump, nil)
	if err != nil {
		return nil, err
	}
	var chains []foreignChain
	for _, m := range messages {
		c, base, err := decodeForward(m)
		if err != nil {
			return nil, err
		}
		if !base {
			continue
		}
		flags, err := tableFlags(conn, c.Chain)
		if err != nil {
			return nil, err
		}
		c.owned = flags&tableOwner != 0
		if c.rules, err = foreignRules(conn, c.Chain, c.Name); err != nil {
			return nil, err
		}
		c.drops = flags&tableDormant == 0 && (c.policy == nftables.ChainPolicyDrop ||
			slices.ContainsFunc(c.rules, func(r foreignRule) bool { return r.drops }))
		chains = append(chains, c)
	}
	slices.SortFunc(chains, func(a, b foreignChain) int { return strings.Compare(a.String(), b.String()) })
	return chains, nil
}

// decodeForward decodes a message about a chain, and reports whether it is a
// base chain that concerns us.
func decodeForward(m netlink.Message) (c foreignChain, base bool, err error) {
	attrs, err := nfnetlink.Decode(m)
	if err != nil {
		return c, false, err
	}
	c.Family, c.policy = m.Data[0], nftables.ChainPolicyAccept
	kind := ""
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_CHAIN_TABLE:
			c.Table = attrs.String()
		case unix.NFTA_CHAIN_NAME:
			c.Name = attrs.String()
		case unix.NFTA_CHAIN_TYPE:
			kind = attrs.String()
		case unix.NFTA_CHAIN_POLICY:
			c.policy = nftables.ChainPolicy(attrs.Uint32())
		case unix.NFTA_CHAIN_HOOK:
			attrs.Nested(func(hook *netlink.AttributeDecoder) error {
				for hook.Next() {
					if hook.Type() == unix.NFTA_HOOK_HOOKNUM {
						base = hook.Uint32() == unix.NF_INET_FORWARD
					}
				}
				return nil
			})
		}
	}
	base = base && kind == string(nftables.ChainTypeFilter) && familyNames[c.Family] != "" && !c.ours()
	return c, base, attrs.Err()
}

func tableFlags(conn *netlink.Conn, c Chain) (flags uint32, err error) {
	attrs, err := nfnetlink.Get(conn, c.Family, unix.NFT_MSG_GETTABLE, map[uint16]string{unix.NFTA_TABLE_NAME: c.Table})
	if err != nil {
		return 0, err
	}
	for attrs.Next() {
		if attrs.Type() == unix.NFTA_TABLE_FLAGS {
			flags = attrs.Uint32()
		}
	}
	return flags, attrs.Err()
}

// tableRules lists all rules of a chain's table.
func (f *Foreign) tableRules(ctx context.Context, c Chain) ([]foreignRule, error) {
	conn, err := New(InNetNS(f.netns)).dial(ctx)
	if err != nil {
		return nil, err
	}
	rules, err := stable(conn, func() ([]foreignRule, error) { return foreignRules(conn, c, "") })
	return rules, errors.Join(err, conn.Close())
}

// foreignRules lists the rules of a chain of c's table; with no name, of all.
func foreignRules(conn *netlink.Conn, c Chain, name string) ([]foreignRule, error) {
	names := map[uint16]string{unix.NFTA_RULE_TABLE: c.Table}
	if name != "" {
		names[unix.NFTA_RULE_CHAIN] = name
	}
	messages, err := nfnetlink.Ask(conn, c.Family, unix.NFT_MSG_GETRULE, netlink.Dump, names)
	if err != nil {
		return nil, err
	}
	var rules []foreignRule
	for _, m := range messages {
		chain, r, err := decodeForeignRule(m)
		if err != nil {
			return nil, err
		}
		if name == "" || chain == name {
			rules = append(rules, r)
		}
	}
	return rules, nil
}

func decodeForeignRule(m netlink.Message) (chain string, r foreignRule, err error) {
	// What we cannot decode is of no interest here: it is not ours.
	if chain, r.rule, err = decodeRule(m); err != nil {
		r.rule = rule{}
	}
	attrs, err := nfnetlink.Decode(m)
	if err != nil {
		return chain, r, err
	}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_RULE_CHAIN:
			chain = attrs.String()
		case unix.NFTA_RULE_HANDLE:
			r.handle = attrs.Uint64()
		case unix.NFTA_RULE_EXPRESSIONS:
			var names []string
			attrs.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *netlink.AttributeDecoder) error {
						for e.Next() {
							if e.Type() == unix.NFTA_EXPR_NAME {
								names = append(names, e.String())
							}
						}
						return nil
					})
				}
				return nil
			})
			r.drops = dropsAll(names, r.exprs)
		}
	}
	return chain, r, attrs.Err()
}

// dropsAll reports whether expressions drop or reject every packet: nothing
// before the verdict can end the rule.
func dropsAll(names []string, exprs []expr.Any) bool {
	for i, name := range names {
		switch name {
		case "counter", "log":
		case "reject":
			return true
		case "immediate":
			if i >= len(exprs) {
				return false
			}
			v, ok := exprs[i].(*expr.Verdict)
			return ok && v.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return false
}

// Watch calls onChange, on the caller's goroutine, after each transaction that
// touched what may concern Sync, until ctx ends; it then returns nil. It calls
// onChange once at the start, when it is listening, and again whenever
// notifications were lost.
//
// That is: our own table, base chains of hook forward and their own rules, and
// the chains that match also names. What others write into their other chains,
// all day perhaps (kube-proxy), is none of it.
func (f *Foreign) Watch(ctx context.Context, also func(Chain) bool, onChange func()) error {
	touched := false
	start := func() {
		touched = false
		onChange() // the Sync that follows learns which chains are there already
	}
	return nfnetlink.Watch(ctx, f.netns, start, func(m netlink.Message) {
		if touched && nfnetlink.EndOfTransaction(m) {
			touched = false
			onChange()
		} else if !touched {
			touched = f.concerns(m, also)
		}
	})
}

// concerns reports whether a notification is about what Watch is for.
func (f *Foreign) concerns(m netlink.Message, also func(Chain) bool) bool {
	t, ok := nfnetlink.TableOf(m)
	if !ok {
		return false
	}
	if t.Family == unix.NFPROTO_INET && t.Name == TableName {
		return true
	}
	c := Chain{Family: t.Family, Table: t.Name}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		known, base, err := decodeForward(m)
		if err != nil {
			return false
		}
		c = known.Chain
		if m.Header.Type&0xff == unix.NFT_MSG_DELCHAIN {
			defer delete(f.bases, c)
		} else if base {
			f.bases[c] = true
		}
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		attrs, err := nfnetlink.Decode(m)
		if err != nil {
			return false
		}
		for attrs.Next() {
			if attrs.Type() == unix.NFTA_RULE_CHAIN {
				c.Name = attrs.String()
			}
		}
	case unix.NFT_MSG_NEWTABLE: // its flags: dormant switches its chains off
		for b := range f.bases {
			if b.Family == c.Family && b.Table == c.Table {
				return true
			}
		}
	}
	return c.Name != "" && (f.bases[c] || also(c))
}
