package iptables

import (
	"context"
	"errors"
	"fmt"

	"github.com/twill-net/twill/subnet"
)

// read reads our chain and its hook. Without a chain of ours there is no jump
// to it either; so if none is wanted, the hook is not read.
func (c *Chains) read(ctx context.Context, p place, wanted bool) (observed, error) {
	var o observed
	cmd := c.commands[p.family]
	if !cmd.installed() && wanted {
		return o, c.missing(p.family)
	}
	exists, err := c.mayExist(ctx, p)
	if err != nil {
		return o, err
	}
	if exists && !cmd.installed() {
		if c.variant == Legacy {
			return o, nil // the table is another's: who has no binary wrote nothing
		}
		return o, c.missing(p.family)
	}
	if exists {
		if _, o.rules, o.exists, err = cmd.chain(ctx, p.table, p.chain); err != nil {
			return o, err
		}
	}
	if !o.exists && !wanted {
		return o, nil
	}
	if o.policy, o.hook, _, err = cmd.chain(ctx, p.table, p.hook); err != nil {
		return o, err
	}
	o.end, o.visited, err = end(p, o.policy, o.hook, c.reader(ctx, p))
	return o, err
}

// mayExist reports whether it makes sense to list our chain: asked for a chain
// that is not there, iptables-nft says that it were incompatible, and
// iptables-legacy makes the table first (x_tables.c, xt_find_table_lock).
func (c *Chains) mayExist(ctx context.Context, p place) (bool, error) {
	if c.variant == Legacy {
		return legacyTable(p.family, p.table)
	}
	_, chains, err := readChains(ctx, p.family, p.table, p.chain)
	return err == nil && chains[0].handle != 0, err
}

// reader returns a function that reads any chain of p's table.
func (c *Chains) reader(ctx context.Context, p place) func(string) ([]step, error) {
	return func(chain string) ([]step, error) {
		_, steps, err := c.steps(ctx, p, chain)
		return steps, err
	}
}

// steps reads a chain: its policy, if it is a built-in one, and what its rules
// do to every packet.
func (c *Chains) steps(ctx context.Context, p place, chain string) (policy string, steps []step, err error) {
	if c.variant == Legacy {
		policy, rules, _, err := c.commands[p.family].chain(ctx, p.table, chain)
		return policy, listed(rules), err
	}
	_, chains, err := readChains(ctx, p.family, p.table, chain)
	if err != nil {
		return "", nil, err
	}
	for _, r := range chains[0].rules {
		steps = append(steps, r.step)
	}
	return chains[0].policy, steps, nil
}

// ForwardDrops reports, per family, whether a forwarded packet of which no rule
// says otherwise is dropped by this variant's chain FORWARD: its policy is DROP
// (Docker, ufw), or it ends in an unconditional DROP or REJECT, itself or in a
// chain that it jumps to (firewalld, ufw). Our own chain does not count, nor a
// chain that lets some packets return before it drops the rest: an administrator's
// list in DOCKER-USER is meant.
//
// Where the rules proper are in nftables, that is where the forward rules are
// needed as well: a Sync with Forward rules only.
//
// It changes nothing. In the nf_tables variant it runs no process and needs no
// binary; in the legacy one it needs iptables-legacy if there is a legacy table
// filter, and otherwise runs nothing. It waits for the xtables lock once, a
// second at most, and ends with ctx. A family which has an error, or was not
// looked at because of one, is false.
func (c *Chains) ForwardDrops(ctx context.Context) (subnet.PerFamily[bool], error) {
	var drops subnet.PerFamily[bool]
	var failed []error
	for _, p := range places() {
		if p.chain != ForwardChain {
			continue
		}
		var err error
		if drops[p.family], err = c.drops(ctx, p); err != nil {
			failed = append(failed, fmt.Errorf("finding out whether chain FORWARD of %s (%s) drops: %w",
				programs[p.family], c.variant, err))
		}
		if ctx.Err() != nil || locked(err) { // the lock is one for all
			break
		}
	}
	return drops, errors.Join(failed...)
}

func (c *Chains) drops(ctx context.Context, p place) (bool, error) {
	if c.variant == Legacy {
		if exists, err := legacyTable(p.family, p.table); err != nil || !exists {
			return false, err
		}
		if !c.commands[p.family].installed() {
			return false, c.missing(p.family)
		}
	}
	policy, steps, err := c.steps(ctx, p, p.hook)
	if err != nil {
		return false, err
	}
	w := walk{read: c.reader(ctx, p), skip: p.chain}
	_, f, err := w.hook(policy, steps)
	return err == nil && f == drops, err
}
