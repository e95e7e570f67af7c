package guard

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

// observed is what the kernel has under the name of one of our tables.
type observed struct {
	exists   bool
	flags    uint32
	use      uint32 // chains, sets, objects and flowtables
	chains   map[string]chain
	sets     []set
	strange  int // sets which are not of our making
	counters int // those of ours
}

// readAttempts bounds how often a listing is begun anew because the ruleset
// changed in the middle of it.
const readAttempts = 20

// stable repeats a listing until the ruleset's generation is the same before
// and after it.
func (t *Tables) stable(ctx context.Context, list func(*netlink.Conn) error) (err error) {
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	before, err := nfnetlink.Generation(conn)
	if err != nil {
		return fmt.Errorf("%w%s", err, advice(err))
	}
	for range readAttempts {
		if err := list(conn); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		after, err := nfnetlink.Generation(conn)
		if err != nil {
			return err
		}
		if before == after {
			return nil
		}
		before = after
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return fmt.Errorf("the ruleset changed %d times while it was read; "+
		"find who writes to nftables all the time (`nft monitor`), and try again", readAttempts)
}

// readSets reads which of our sets a table has, and what else can be told
// without a look at chains.
func readSets(conn *netlink.Conn, table nfnetlink.Table) (observed, error) {
	o := observed{chains: map[string]chain{}}
	attrs, err := nfnetlink.Get(conn, table.Family, unix.NFT_MSG_GETTABLE, map[uint16]string{unix.NFTA_TABLE_NAME: table.Name})
	if errors.Is(err, unix.ENOENT) {
		return o, nil
	}
	if err != nil {
		return o, fmt.Errorf("reading table %s: %w", describe(table), err)
	}
	o.exists = true
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_TABLE_FLAGS:
			o.flags = attrs.Uint32()
		case unix.NFTA_TABLE_USE:
			o.use = attrs.Uint32()
		}
	}
	if err := attrs.Err(); err != nil {
		return o, err
	}
	messages, err := nfnetlink.Ask(conn, table.Family, unix.NFT_MSG_GETSET, netlink.Dump, map[uint16]string{unix.NFTA_SET_TABLE: table.Name})
	if err != nil {
		return o, fmt.Errorf("listing the sets of table %s: %w", describe(table), err)
	}
	for _, m := range messages {
		name, keyLen, flags, err := decodeSet(m)
		if err != nil {
			return o, fmt.Errorf("decoding a set of table %s: %w", describe(table), err)
		}
		s, ok := parseSet(table, name)
		switch {
		case flags&unix.NFT_SET_ANONYMOUS != 0:
			// Goes with the rule that it belongs to, and is not counted in use
			// (nf_tables_commit).
		case !ok || keyLen != s.keyLen() || flags&^uint32(nftables.NFT_SET_CONCAT) != 0:
			o.strange++
		default:
			o.sets = append(o.sets, s)
		}
	}
	return o, nil
}

func decodeSet(m netlink.Message) (name string, keyLen int, flags uint32, err error) {
	attrs, err := nfnetlink.Decode(m)
	if err != nil {
		return "", 0, 0, err
	}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_SET_NAME:
			name = attrs.String()
		case unix.NFTA_SET_KEY_LEN:
			keyLen = int(attrs.Uint32())
		case unix.NFTA_SET_FLAGS:
			flags = attrs.Uint32()
		}
	}
	return name, keyLen, flags, attrs.Err()
}

// readTable reads all of a table but the elements of its sets. Chains are asked
// for by name: a dump of them cannot be limited to one table.
func readTable(conn *netlink.Conn, table nfnetlink.Table) (observed, error) {
	o, err := readSets(conn, table)
	if err != nil || !o.exists {
		return o, err
	}
	for _, name := range chainNames(table) {
		c, err := readChain(conn, table, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return o, fmt.Errorf("reading chain %s of table %s: %w", name, describe(table), err)
		}
		o.chains[name] = c
	}
	messages, err := nfnetlink.Ask(conn, table.Family, unix.NFT_MSG_GETRULE, netlink.Dump, map[uint16]string{unix.NFTA_RULE_TABLE: table.Name})
	if err != nil {
		return o, fmt.Errorf("listing the rules of table %s: %w", describe(table), err)
	}
	for _, m := range messages {
		name, r, err := decodeRule(m)
		if err != nil {
			return o, fmt.Errorf("decoding a rule of table %s: %w", describe(table), err)
		}
		if c, ok := o.chains[name]; ok {
			c.rules = append(c.rules, r)
			o.chains[name] = c
		}
	}
	counts, err := readCounters(conn, table)
	for _, r := range counters(table) {
		if _, ok := counts[string(r)]; ok {
			o.counters++
		}
	}
	return o, err
}

// readCounters returns the packets counted by each counter of a table.
func readCounters(conn *netlink.Conn, table nfnetlink.Table) (map[string]uint64, error) {
	messages, err := nfnetlink.Ask(conn, table.Family, unix.NFT_MSG_GETOBJ, netlink.Dump, map[uint16]string{unix.NFTA_OBJ_TABLE: table.Name})
	if err != nil {
		return nil, fmt.Errorf("listing the counters of table %s: %w", describe(table), err)
	}
	counts := map[string]uint64{}
	for _, m := range messages {
		attrs, err := nfnetlink.Decode(m)
		if err != nil {
			return nil, err
		}
		var name string
		var kind uint32
		var packets uint64
		for attrs.Next() {
			switch attrs.Type() {
			case unix.NFTA_OBJ_NAME:
				name = attrs.String()
			case unix.NFTA_OBJ_TYPE:
				kind = attrs.Uint32()
			case unix.NFTA_OBJ_DATA:
				attrs.Nested(func(data *netlink.AttributeDecoder) error {
					for data.Next() {
						if data.Type() == unix.NFTA_COUNTER_PACKETS {
							packets = data.Uint64()
						}
					}
					return nil
				})
			}
		}
		if err := attrs.Err(); err != nil {
			return nil, err
		}
		if kind == unix.NFT_OBJECT_COUNTER {
			counts[name] = packets
		}
	}
	return counts, nil
}

// readChain reads a chain without its rules.
func readChain(conn *netlink.Conn, table nfnetlink.Table, name string) (chain, error) {
	attrs, err := nfnetlink.Get(conn, table.Family, unix.NFT_MSG_GETCHAIN, map[uint16]string{
		unix.NFTA_CHAIN_TABLE: table.Name, unix.NFTA_CHAIN_NAME: name,
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
			c.base = true
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

func decodeRule(m netlink.Message) (chain string, r rule, err error) {
	attrs, err := nfnetlink.Decode(m)
	if err != nil {
		return "", rule{}, err
	}
	family := m.Data[0]
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_RULE_CHAIN:
			chain = attrs.String()
		case unix.NFTA_RULE_USERDATA:
			r.userdata = attrs.Bytes()
		case unix.NFTA_RULE_EXPRESSIONS:
			attrs.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *netlink.AttributeDecoder) error {
						decoded, err := decodeExpr(family, e)
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
func decodeExpr(family byte, attrs *netlink.AttributeDecoder) (expr.Any, error) {
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
	e, ok := map[string]expr.Any{
		"meta": &expr.Meta{}, "payload": &expr.Payload{}, "bitwise": &expr.Bitwise{}, "cmp": &expr.Cmp{},
		"lookup": &expr.Lookup{}, "objref": &expr.Objref{}, "exthdr": &expr.Exthdr{}, "immediate": &expr.Verdict{},
	}[name]
	if !ok {
		return nil, nil
	}
	if loaded := (&expr.Immediate{}); name == "immediate" {
		if err := expr.Unmarshal(family, data, loaded); err != nil || loaded.Register != unix.NFT_REG_VERDICT {
			return nil, err
		}
	}
	return e, expr.Unmarshal(family, data, e)
}
