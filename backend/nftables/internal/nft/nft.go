// Package nft is what the adapters of nf_tables have in common on top of
// github.com/google/nftables: chains and rules, rendered or read back, and how
// they are written. Reading is done by backend/internal/nfnetlink; the library
// decodes single expressions only.
//
// It imports neither vishvananda/netlink, etcd, Kubernetes nor a logger.
package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// Chain is a chain with its rules, wanted or read back.
type Chain struct {
	Name  string
	Hook  nfnetlink.Hook // of a base chain
	Rules []Rule
}

// Rule is one rule as the kernel holds it. An expression of a kind that its
// adapter never renders reads back as nil and so equals none of ours.
type Rule struct {
	Exprs    []expr.Any
	Userdata string // the comment, encoded; see Userdata
}

// BaseChain returns a chain whose policy is accept.
func BaseChain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority int32, rules ...Rule) Chain {
	return Chain{name, nfnetlink.Hook{
		Type: string(kind), Number: uint32(*hook), Priority: priority, Policy: uint32(nftables.ChainPolicyAccept),
	}, rules}
}

// Userdata returns a comment as the userdata that nft shows as one (libnftnl,
// NFTNL_UDATA_RULE_COMMENT).
func Userdata(comment string) string {
	if comment == "" {
		return ""
	}
	return string(userdata.AppendString(nil, userdata.TypeComment, comment))
}

// Comment returns a rule's comment.
func (r Rule) Comment() string {
	text, _ := userdata.GetString([]byte(r.Userdata), userdata.TypeComment)
	return text
}

// In returns the rule as the library wants it.
func (r Rule) In(table *nftables.Table, chain *nftables.Chain) *nftables.Rule {
	rule := &nftables.Rule{Table: table, Chain: chain, Exprs: r.Exprs}
	if r.Userdata != "" {
		rule.UserData = []byte(r.Userdata)
	}
	return rule
}

// Put makes the chain, as far as it is not there, and empties it.
func (c Chain) Put(conn *nftables.Conn, table *nftables.Table) *nftables.Chain {
	chain := &nftables.Chain{Name: c.Name, Table: table}
	if c.Hook != (nfnetlink.Hook{}) {
		hook, priority, policy := nftables.ChainHook(c.Hook.Number), nftables.ChainPriority(c.Hook.Priority), nftables.ChainPolicy(c.Hook.Policy)
		chain.Type, chain.Hooknum, chain.Priority, chain.Policy = nftables.ChainType(c.Hook.Type), &hook, &priority, &policy
	}
	conn.AddChain(chain)
	conn.FlushChain(chain)
	return chain
}

// Decoder decodes expressions of known names; see Known. Any other is nil.
type Decoder func(name string) expr.Any

// Known makes an expression to decode into.
func Known(name string) expr.Any {
	switch name {
	case "meta":
		return &expr.Meta{}
	case "payload":
		return &expr.Payload{}
	case "bitwise":
		return &expr.Bitwise{}
	case "cmp":
		return &expr.Cmp{}
	case "immediate":
		return &expr.Verdict{}
	}
	return nil
}

// Decode decodes a rule of a table of a family (unix.NFPROTO_*).
func (d Decoder) Decode(family byte, from nfnetlink.Rule) (Rule, error) {
	r := Rule{Userdata: string(from.Userdata)}
	for _, e := range from.Expressions {
		decoded, err := d.expression(family, e)
		if err != nil {
			return Rule{}, fmt.Errorf("decoding expression %s: %w", e.Name, err)
		}
		r.Exprs = append(r.Exprs, decoded)
	}
	return r, nil
}

func (d Decoder) expression(family byte, from nfnetlink.Expression) (expr.Any, error) {
	e := d(from.Name)
	if e == nil {
		return nil, nil
	}
	if _, ok := e.(*expr.Verdict); ok { // an immediate may load other data
		loaded := &expr.Immediate{}
		if err := expr.Unmarshal(family, from.Data, loaded); err != nil || loaded.Register != unix.NFT_REG_VERDICT {
			return nil, err
		}
	}
	return e, expr.Unmarshal(family, from.Data, e)
}

// ReadChains reads, of the chains named, those that a table has. It asks by
// name: a dump of chains cannot be limited to one table (nf_tables_dump_chains),
// and other tables' can be many.
func (d Decoder) ReadChains(conn *netlink.Conn, table nfnetlink.Table, names []string) (map[string]Chain, error) {
	chains := map[string]Chain{}
	for _, name := range names {
		c, err := nfnetlink.GetChain(conn, table, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("chain %s: %w", name, err)
		}
		chains[name] = Chain{Name: name, Hook: c.Hook}
	}
	rules, err := nfnetlink.ListRules(conn, table, "")
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		c, ok := chains[r.Chain]
		if !ok {
			continue // another chain shows in the table's use
		}
		decoded, err := d.Decode(table.Family, r)
		if err != nil {
			return nil, fmt.Errorf("a rule of chain %s: %w", r.Chain, err)
		}
		c.Rules = append(c.Rules, decoded)
		chains[r.Chain] = c
	}
	return chains, nil
}
