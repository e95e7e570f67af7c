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
	var handle uint64
	var chains []kernelChain
	present := false
	err := nfnetlink.Read(ctx, 0, func(conn *netlink.Conn) (err error) {
		present = true
		handle, chains, err = readOnce(conn, nfnetlink.Table{Family: families[f], Name: table}, names)
		return err
	})
	if !present && nfnetlink.Absent(err) {
		return 0, make([]kernelChain, len(names)), nil
	}
	if err != nil {
		advice := ""
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			advice = "; this needs CAP_NET_ADMIN"
		}
		return 0, nil, fmt.Errorf("reading chains %s of %s table %s over netlink: %w%s",
			strings.Join(names, ", "), programs[f], table, err, advice)
	}
	return handle, chains, nil
}

func readOnce(conn *netlink.Conn, table nfnetlink.Table, names []string) (uint64, []kernelChain, error) {
	chains := make([]kernelChain, len(names))
	header, err := nfnetlink.GetTable(conn, table)
	if errors.Is(err, unix.ENOENT) {
		return 0, chains, nil
	}
	if err != nil {
		return 0, nil, err
	}
	for i, name := range names {
		if chains[i], err = readChain(conn, table, name); err != nil {
			return 0, nil, fmt.Errorf("chain %s: %w", name, err)
		}
	}
	return header.Handle, chains, nil
}

func readChain(conn *netlink.Conn, table nfnetlink.Table, name string) (kernelChain, error) {
	header, err := nfnetlink.GetChain(conn, table, name)
	if errors.Is(err, unix.ENOENT) {
		return kernelChain{}, nil
	}
	if err != nil {
		return kernelChain{}, err
	}
	c := kernelChain{handle: header.Handle}
	if header.Hook != (nfnetlink.Hook{}) {
		c.policy = "ACCEPT"
		if header.Hook.Policy == nfDrop {
			c.policy = "DROP"
		}
	}
	rules, err := nfnetlink.ListRules(conn, table, name)
	if err != nil {
		return c, err
	}
	for _, r := range rules {
		decoded, err := decodeRule(r)
		if err != nil {
			return c, fmt.Errorf("decoding a rule: %w", err)
		}
		c.rules = append(c.rules, decoded)
	}
	return c, nil
}

// fingerprint returns what is the same as long as the chains named, their
// policies and their rules are: a hash, and never empty.
func fingerprint(ctx context.Context, p place, names []string) (string, error) {
	table, chains, err := readChains(ctx, p.family, p.table, names...)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "table %d\n", table)
	for i, c := range chains {
		fmt.Fprintf(h, "chain %s %d %s\n", names[i], c.handle, c.policy)
		for _, r := range c.rules {
			fmt.Fprintf(h, "%x\n", r.content)
		}
	}
	return string(h.Sum(nil)), nil
}
