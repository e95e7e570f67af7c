package iptables

import (
	"context"
	"errors"
	"fmt"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

// ForwardUsed reports, per family, whether others use this variant's chain
// FORWARD, whatever they do there now: a rule in it is not ours, or its policy is
// DROP. It reads over netlink and needs no binary; what legacy has can only be
// told by one, so there it is false. A family which has an error is false.
func (c *Chains) ForwardUsed(ctx context.Context) (subnet.PerFamily[bool], error) {
	var used subnet.PerFamily[bool]
	var failed []error
	for _, p := range places() {
		if p.chain != ForwardChain || c.variant == Legacy {
			continue
		}
		_, chains, err := readChains(ctx, p.family, p.table, p.hook)
		if err != nil {
			failed = append(failed, fmt.Errorf("finding out whether others use it: %w", err))
			continue
		}
		// No base chain is no chain of iptables.
		used[p.family] = chains[0].policy == "DROP"
		for _, r := range chains[0].rules {
			used[p.family] = used[p.family] || chains[0].policy != "" && r.step.chain != p.chain
		}
	}
	return used, errors.Join(failed...)
}

// SyncForward is Sync for forward rules that are not of the rules proper, and
// tells errors by family. With sweep there is to be nothing of ours in table nat;
// without, that table is left alone.
func (c *Chains) SyncForward(ctx context.Context, accepts []masq.Rule, sweep bool) (changed bool, failed subnet.PerFamily[error]) {
	rules := masq.Rules{Forward: accepts}
	for _, p := range places() {
		if p.chain != ForwardChain && !sweep {
			continue
		}
		wrote, err := c.bring(ctx, p, rules)
		changed = changed || wrote
		failed[p.family] = errors.Join(failed[p.family], err)
		if ctx.Err() != nil || locked(err) { // the lock is one for all
			break
		}
	}
	return changed, failed
}

// bring is sync with an error that names the place.
func (c *Chains) bring(ctx context.Context, p place, rules masq.Rules) (changed bool, err error) {
	changed, err = c.sync(ctx, p, p.want(rules, c.commands[p.family].randomFully()))
	if err != nil {
		err = fmt.Errorf("bringing %s (%s) up to date: %w", p, c.variant, err)
	}
	return changed, err
}
