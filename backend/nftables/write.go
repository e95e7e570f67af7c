package nftables

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// change is what leads from the observed table to the wanted one. Its zero
// value is no change.
type change struct {
	reasons []string // what differs, for errors
	replace bool     // delete the table first
	chains  []chain  // to be written whole
}

func (c change) nothing() bool { return len(c.reasons) == 0 }

func (c change) String() string { return strings.Join(c.reasons, ", ") }

// diff compares by chain. Where more differs than the rules of chains, or
// anything is in the table that we did not put there, the table is replaced
// whole.
func diff(want []chain, have observed) change {
	var c change
	if !have.exists {
		if len(want) > 0 {
			c = change{reasons: []string{"the table is missing"}, chains: want}
		}
		return c
	}
	if len(want) == 0 {
		return change{reasons: []string{"the table is not wanted"}, replace: true}
	}
	for _, w := range want {
		h, ok := have.chains[w.name]
		switch {
		case !ok:
			c.reasons = append(c.reasons, "chain "+w.name+" is missing")
		case !sameHook(w, h):
			c.reasons = append(c.reasons, "chain "+w.name+" has another type, hook, priority or policy")
			c.replace = true
		case !slices.EqualFunc(w.rules, h.rules, sameRule):
			c.reasons = append(c.reasons, "chain "+w.name+" has other rules")
		default:
			continue
		}
		c.chains = append(c.chains, w)
	}
	if have.dormant {
		c.reasons, c.replace = append(c.reasons, "the table has flags"), true
	}
	if int(have.use) != len(have.chains) {
		c.reasons, c.replace = append(c.reasons, "the table holds objects that are not ours"), true
	}
	if c.replace {
		c.chains = want
	}
	return c
}

func sameHook(a, b chain) bool {
	return a.kind == b.kind && a.hook == b.hook && a.priority == b.priority && a.policy == b.policy
}

func sameRule(a, b rule) bool {
	return a.userdata == b.userdata && reflect.DeepEqual(a.exprs, b.exprs)
}

// write commits the change as one transaction: the kernel switches to the new
// generation of rules at once (nf_tables_commit). Each step holds whatever
// others did since we read: an add of what exists and a flush of what is empty
// are no errors.
func (t *Table) write(ctx context.Context, todo change) error {
	c, err := t.conn(ctx)
	if err != nil {
		return err
	}
	table := c.AddTable(inetTable())
	if todo.replace {
		c.DelTable(table)
		if len(todo.chains) > 0 {
			c.AddTable(table)
		}
	}
	for _, w := range todo.chains {
		ch := c.AddChain(&nftables.Chain{
			Name: w.name, Table: table, Type: nftables.ChainType(w.kind),
			Hooknum: &w.hook, Priority: &w.priority, Policy: &w.policy,
		})
		c.FlushChain(ch)
		for _, r := range w.rules {
			rule := &nftables.Rule{Table: table, Chain: ch, Exprs: r.exprs}
			if r.userdata != "" {
				rule.UserData = []byte(r.userdata)
			}
			c.AddRule(rule)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("writing table inet %s (%s): %w%s", TableName, todo, err, advice(err))
	}
	return nil
}
