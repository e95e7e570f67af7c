package nftables

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// observed is what the kernel has under our table's name.
type observed struct {
	exists  bool
	dormant bool             // `flags dormant`, or any other flag: the chains are not, or not simply, in force
	use     uint32           // how many chains, sets, objects and flowtables are in the table
	chains  map[string]chain // of those asked for
}

// readAttempts bounds how often a listing is begun anew because the ruleset
// changed in the middle of it.
const readAttempts = 10

// read lists our table and, in it, the chains named. It asks by name: a dump
// of chains cannot be limited to one table (nf_tables_dump_chains), and other
// tables' can be many.
func (t *Table) read(ctx context.Context, names []string) (observed, error) {
	conn, err := t.dial(ctx)
	if err != nil {
		return observed{}, err
	}
	o, err := stable(conn, func() (observed, error) { return readOnce(conn, names) })
	if err = errors.Join(err, conn.Close()); err != nil {
		return observed{}, fmt.Errorf("reading table inet %s: %w", TableName, err)
	}
	return o, nil
}

// stable repeats a listing until the ruleset's generation is the same before
// and after it.
func stable[T any](conn *netlink.Conn, list func() (T, error)) (T, error) {
	var none T
	before, err := nfnetlink.Generation(conn)
	if err != nil {
		return none, fmt.Errorf("%w%s", err, advice(err))
	}
	for range readAttempts {
		o, err := list()
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return none, err
		}
		after, errGeneration := nfnetlink.Generation(conn)
		if errGeneration != nil {
			return none, errGeneration
		}
		if before == after {
			return o, err
		}
		before = after // what was listed first may be gone by now, hence ENOENT
	}
	return none, fmt.Errorf("the ruleset changed %d times while it was read; "+
		"find who writes to nftables all the time (`nft monitor`), and try again", readAttempts)
}

func readOnce(conn *netlink.Conn, names []string) (observed, error) {
	o := observed{chains: map[string]chain{}}
	attrs, err := nfnetlink.Get(conn, unix.NFPROTO_INET, unix.NFT_MSG_GETTABLE, map[uint16]string{unix.NFTA_TABLE_NAME: TableName})
	if errors.Is(err, unix.ENOENT) {
		return o, nil
	}
	if err != nil {
		return o, err
	}
	o.exists = true
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_TABLE_FLAGS:
			o.dormant = attrs.Uint32() != 0
		case unix.NFTA_TABLE_USE:
			o.use = attrs.Uint32()
		}
	}
	if err := attrs.Err(); err != nil {
		return o, err
	}
	for _, name := range names {
		c, err := readChain(conn, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return o, fmt.Errorf("chain %s: %w", name, err)
		}
		o.chains[name] = c
	}
	err = readRules(conn, &o)
	return o, err
}

// readChain reads a chain without its rules.
func readChain(conn *netlink.Conn, name string) (chain, error) {
	attrs, err := nfnetlink.Get(conn, unix.NFPROTO_INET, unix.NFT_MSG_GETCHAIN, map[uint16]string{
		unix.NFTA_CHAIN_TABLE: TableName, unix.NFTA_CHAIN_NAME: name,
	})
	if err != nil {
		return chain{}, err
	}
	c := chain{name: name}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_CHAIN_TYPE:
			c.kind = attrs.String()
		case unix.NFTA_CHAIN_POLICY:
			c.policy = nftables.ChainPolicy(attrs.Uint32())
		case unix.NFTA_CHAIN_HOOK:
			attrs.Nested(func(hook *netlink.AttributeDecoder) error {
				for hook.Next() {
					switch hook.Type() {
					case unix.NFTA_HOOK_HOOKNUM:
						c.hook = nftables.ChainHook(hook.Uint32())
					case unix.NFTA_HOOK_PRIORITY:
						c.priority = nftables.ChainPriority(int32(hook.Uint32()))
					}
				}
				return nil
			})
		}
	}
	return c, attrs.Err()
}

// readRules lists the rules of our table into the chains of o.
func readRules(conn *netlink.Conn, o *observed) error {
	messages, err := nfnetlink.Ask(conn, unix.NFPROTO_INET, unix.NFT_MSG_GETRULE, netlink.Dump, map[uint16]string{unix.NFTA_RULE_TABLE: TableName})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("listing its rules: %w", err)
	}
	for _, m := range messages {
		name, r, err := decodeRule(m)
		if err != nil {
			return fmt.Errorf("decoding a rule: %w", err)
		}
		if c, ok := o.chains[name]; ok { // another chain shows in o.use
			c.rules = append(c.rules, r)
			o.chains[name] = c
		}
	}
	return nil
}

func decodeRule(m netlink.Message) (chain string, r rule, err error) {
	attrs, err := nfnetlink.Decode(m)
	if err != nil {
		return "", rule{}, err
	}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_RULE_CHAIN:
			chain = attrs.String()
		case unix.NFTA_RULE_USERDATA:
			r.userdata = string(attrs.Bytes())
		case unix.NFTA_RULE_EXPRESSIONS:
			attrs.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *netlink.AttributeDecoder) error {
						decoded, err := decodeExpr(e)
						r.exprs = append(r.exprs, decoded)
						return err
					})
				}
				return nil
			})
		}
	}
	return chain, r, attrs.Err()
}

// decodeExpr decodes an expression of those that we render. Any other is nil.
func decodeExpr(attrs *netlink.AttributeDecoder) (expr.Any, error) {
	var name string
	var data []byte
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_EXPR_NAME:
			name = attrs.String()
		case unix.NFTA_EXPR_DATA:
			data = attrs.Bytes()
		}
	}
	var e expr.Any
	switch name {
	case "meta":
		e = &expr.Meta{}
	case "payload":
		e = &expr.Payload{}
	case "bitwise":
		e = &expr.Bitwise{}
	case "cmp":
		e = &expr.Cmp{}
	case "masq":
		e = &expr.Masq{}
	case "immediate":
		loaded := &expr.Immediate{}
		if err := expr.Unmarshal(unix.NFPROTO_INET, data, loaded); err != nil || loaded.Register != unix.NFT_REG_VERDICT {
			return nil, err
		}
		e = &expr.Verdict{}
	default:
		return nil, nil
	}
	return e, expr.Unmarshal(unix.NFPROTO_INET, data, e)
}
