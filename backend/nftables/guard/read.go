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
	"github.com/twill-net/twill/backend/nftables/internal/nft"
)

// observed is what the kernel has under the name of one of our tables.
type observed struct {
	nfnetlink.Header
	chains   map[string]nft.Chain
	sets     []set
	strange  int // sets which are not of our making
	counters int // those of ours
}

func (o observed) exists() bool { return o.Handle != 0 }

// stable repeats a reading until nothing changed in the middle of it.
func (t *Tables) stable(ctx context.Context, read func(*netlink.Conn) error) error {
	if err := t.session.Read(ctx, read); err != nil {
		return fmt.Errorf("%w%s", err, advice(err))
	}
	return nil
}

// readSets reads which of our sets a table has, and what else can be told
// without a look at chains.
func readSets(conn *netlink.Conn, table nfnetlink.Table) (observed, error) {
	header, err := nfnetlink.GetTable(conn, table)
	if errors.Is(err, unix.ENOENT) {
		return observed{}, nil
	}
	o := observed{Header: header}
	if err != nil {
		return o, fmt.Errorf("reading table %s: %w", describe(table), err)
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

// readTable reads all of a table but the elements of its sets.
func readTable(conn *netlink.Conn, table nfnetlink.Table) (observed, error) {
	o, err := readSets(conn, table)
	if err != nil || !o.exists() {
		return o, err
	}
	if o.chains, err = known.ReadChains(conn, table, chainNames(table)); err != nil {
		return o, fmt.Errorf("reading table %s: %w", describe(table), err)
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

// known decodes the expressions of those that we render.
var known nft.Decoder = func(name string) expr.Any {
	switch name {
	case "lookup":
		return &expr.Lookup{}
	case "objref":
		return &expr.Objref{}
	case "exthdr":
		return &expr.Exthdr{}
	}
	return nft.Known(name)
}
