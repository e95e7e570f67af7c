package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// Chain names a chain of nf_tables; that of iptables-nft are there too.
type Chain struct {
	Family byte // unix.NFPROTO_*
	Table  string
	Name   string
}

// chainsPatience is how long the kernel may take to say whether chains exist. It
// answers at once, or when the transaction of somebody else is over.
const chainsPatience = 10 // s

// Chains reports which of the chains exist, in their order. A kernel without
// nf_tables has none. It is made for the CNI plugin, which asks for each pod that
// goes: a socket that waits in the system call costs no change of threads.
func (k *Kernel) Chains(ctx context.Context, chains ...Chain) ([]bool, error) {
	there := make([]bool, len(chains))
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("looking for chains of nf_tables: %w", err)
	}
	s, err := k.open(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return there, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for chains of nf_tables: %w", err)
	}
	defer s.close()
	err = s.set(func(fd int) error {
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: chainsPatience})
	})
	if err != nil {
		return nil, fmt.Errorf("setting up a netfilter netlink socket: %w", err)
	}
	for i, c := range chains {
		// One by one: without the right to ask, all that is sent at once is
		// refused by a single answer (nfnetlink_rcv).
		if there[i], err = s.chain(c); err != nil {
			return nil, fmt.Errorf("looking for chain %s in table %s: %w", c.Name, c.Table, err)
		}
	}
	return there, nil
}

// chain reports whether a chain exists.
func (s *socket) chain(c Chain) (bool, error) {
	var m messages
	m.begin(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETCHAIN, unix.NLM_F_ACK, []byte{c.Family, unix.NFNETLINK_V0, 0, 0})
	m.bytes(unix.NFTA_CHAIN_TABLE, append([]byte(c.Table), 0))
	m.bytes(unix.NFTA_CHAIN_NAME, append([]byte(c.Name), 0))
	var refused error
	// What the chain is comes first; that it is there is acknowledged.
	err := s.ask(&m, func(_ int, answer message) {
		if answer.typ == unix.NLMSG_ERROR {
			refused = answer.err()
		}
	})
	if err = cmp.Or(err, refused); noChain(err) {
		return false, nil
	}
	return err == nil, err
}

// noChain reports whether an error says that there is no such chain. EINVAL:
// nfnetlink without the subsystem (net/netfilter/nfnetlink.c); EAFNOSUPPORT: nf_tables
// before 4.17 without the family; ERANGE: longer than a name can be, 31 characters
// before 4.14 (net/netfilter/nf_tables_api.c).
func noChain(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.ERANGE)
}

// deleteAttempts bounds how often a deletion is begun anew because something
// that it names was deleted by another meanwhile.
const deleteAttempts = 10

// DeleteRules deletes in one transaction the rules of a chain whose comments
// (as nft shows them, "" for none) are meant, and then other chains of its
// table, with what is in them. What is not there is no error; unix.EBUSY: another
// rule jumps to one of the chains.
func (k *Kernel) DeleteRules(ctx context.Context, from Chain, meant func(comment string) bool, chains ...Chain) error {
	var err error
	for range deleteAttempts {
		if err = k.deleteRules(ctx, from, meant, chains); !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("deleting rules of chain %s in table %s: %w", from.Name, from.Table, err)
	}
	return nil
}

func (k *Kernel) deleteRules(ctx context.Context, from Chain, meant func(comment string) bool, chains []Chain) error {
	there, err := k.Chains(ctx, append([]Chain{from}, chains...)...)
	if err != nil || !slices.Contains(there, true) {
		return err
	}
	var rules []nfnetlink.Rule
	if there[0] {
		err = nfnetlink.Read(ctx, k.cfg.NetNS, func(conn *netlink.Conn) (err error) {
			rules, err = nfnetlink.ListRules(conn, nfnetlink.Table{Family: from.Family, Name: from.Table}, from.Name)
			return err
		})
		if err != nil {
			return err
		}
	}
	steps, err := deletions(from, rules, meant, chains, there[1:])
	if err != nil || len(steps) == 0 {
		return err
	}
	conn, err := nfnetlink.Dial(ctx, k.cfg.NetNS)
	if err != nil {
		return err
	}
	return errors.Join(nfnetlink.Commit(conn, steps), conn.Close())
}

// deletions returns the parts of DeleteRules's transaction.
func deletions(from Chain, rules []nfnetlink.Rule, meant func(comment string) bool, chains []Chain, there []bool) (steps []netlink.Message, err error) {
	add := func(kind int, attrs func(*netlink.AttributeEncoder)) error {
		raw, err := nfnetlink.Encode(attrs)
		steps = append(steps, nfnetlink.Message(from.Family, kind, 0, raw))
		return err
	}
	for _, r := range rules {
		if !meant(comment(r.Userdata)) {
			continue
		}
		if err := add(unix.NFT_MSG_DELRULE, func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_RULE_TABLE, from.Table)
			e.String(unix.NFTA_RULE_CHAIN, from.Name)
			e.Uint64(unix.NFTA_RULE_HANDLE, r.Handle)
		}); err != nil {
			return nil, err
		}
	}
	for i, c := range chains {
		if !there[i] {
			continue
		}
		if err := add(unix.NFT_MSG_DELCHAIN, func(e *netlink.AttributeEncoder) {
			e.String(unix.NFTA_CHAIN_TABLE, c.Table)
			e.String(unix.NFTA_CHAIN_NAME, c.Name)
		}); err != nil {
			return nil, err
		}
	}
	return steps, nil
}

// comment returns a rule's comment from its userdata: pairs of type and length,
// one octet each, and what that many are (libnftnl, src/udata.c). A comment has type 0
// (NFTNL_UDATA_RULE_COMMENT) and ends in a zero.
func comment(userdata []byte) string {
	for len(userdata) >= 2 {
		kind, rest := userdata[0], userdata[2:]
		n := min(int(userdata[1]), len(rest))
		if kind == 0 {
			return strings.TrimRight(string(rest[:n]), "\x00")
		}
		userdata = rest[n:]
	}
	return ""
}
