package nftables

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/nftables/internal/nft"
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
	nft.Rule
	handle uint64
	drops  bool // every packet
}

// list reads the base chains that packets pass when they are forwarded, but for
// our own.
func (f *Foreign) list(ctx context.Context) (chains []foreignChain, err error) {
	err = f.session.Read(ctx, func(conn *netlink.Conn) error {
		chains, err = listForeign(conn)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, nfnetlink.Advice(err, requirement))
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
		table, err := nfnetlink.GetTable(conn, c.table())
		if err != nil {
			return nil, err
		}
		c.owned = table.Flags&nfnetlink.Owned != 0
		if c.rules, err = foreignRules(conn, c.Chain, c.Name); err != nil {
			return nil, err
		}
		c.drops = table.Flags&nfnetlink.Dormant == 0 && (c.policy == nftables.ChainPolicyDrop ||
			slices.ContainsFunc(c.rules, func(r foreignRule) bool { return r.drops }))
		chains = append(chains, c)
	}
	slices.SortFunc(chains, func(a, b foreignChain) int { return strings.Compare(a.String(), b.String()) })
	return chains, nil
}

// decodeForward decodes a message about a chain, and reports whether it is a
// base chain that concerns us.
func decodeForward(m netlink.Message) (c foreignChain, base bool, err error) {
	d, err := nfnetlink.DecodeChain(m)
	if err != nil {
		return c, false, err
	}
	c.Chain = Chain{Family: d.Table.Family, Table: d.Table.Name, Name: d.Name}
	c.policy = nftables.ChainPolicy(d.Hook.Policy)
	base = d.Hook.Type == string(nftables.ChainTypeFilter) && d.Hook.Number == unix.NF_INET_FORWARD &&
		familyNames[c.Family] != "" && !c.ours()
	return c, base, nil
}

// tableRules lists all rules of a chain's table.
func (f *Foreign) tableRules(ctx context.Context, c Chain) (rules []foreignRule, err error) {
	err = f.session.Read(ctx, func(conn *netlink.Conn) error {
		rules, err = foreignRules(conn, c, "")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, nfnetlink.Advice(err, requirement))
	}
	return rules, nil
}

// foreignRules lists the rules of a chain of c's table; with no name, of all.
func foreignRules(conn *netlink.Conn, c Chain, name string) ([]foreignRule, error) {
	list, err := nfnetlink.ListRules(conn, c.table(), name)
	if err != nil {
		return nil, err
	}
	var rules []foreignRule
	for _, l := range list {
		r := foreignRule{handle: l.Handle}
		// What we cannot decode is of no interest here: it is not ours.
		r.Rule, _ = known.Decode(c.Family, l)
		r.drops = dropsAll(l.Expressions, r.Exprs)
		rules = append(rules, r)
	}
	return rules, nil
}

// dropsAll reports whether expressions drop or reject every packet: nothing
// before the verdict can end the rule.
func dropsAll(list []nfnetlink.Expression, exprs []expr.Any) bool {
	for i, e := range list {
		switch e.Name {
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
	if t == ours() {
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
