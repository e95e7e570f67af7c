package nftables

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/twill-net/twill/backend/nftables/internal/nft"
)

// change is what leads from the observed table to the wanted one. Its zero
// value is no change.
type change struct {
	reasons []string    // what differs, for errors
	replace bool        // delete the table first
	chains  []nft.Chain //  to be written whole
}

func (c change) nothing() bool { return len(c.reasons) == 0 }

func (c change) String() string { return strings.Join(c.reasons, ", ") }

// diff compares by chain. Where more differs than the rules of chains, or
// anything is in the table that we did not put there, the table is replaced
// whole.
func diff(want []nft.Chain, have observed) change {
	var c change
	if have.Handle == 0 {
		if len(want) > 0 {
			c = change{reasons: []string{"the table is missing"}, chains: want}
		}
		return c
	}
	if len(want) == 0 {
		return change{reasons: []string{"the table is not wanted"}, replace: true}
	}
	for _, w := range want {
		h, ok := have.chains[w.Name]
		switch {
		case !ok:
			c.reasons = append(c.reasons, "chain "+w.Name+" is missing")
		case w.Hook != h.Hook:
			c.reasons = append(c.reasons, "chain "+w.Name+" has another type, hook, priority or policy")
			c.replace = true
		case !slices.EqualFunc(w.Rules, h.Rules, sameRule):
			c.reasons = append(c.reasons, "chain "+w.Name+" has other rules")
		default:
			continue
		}
		c.chains = append(c.chains, w)
	}
	if have.Flags != 0 {
		c.reasons, c.replace = append(c.reasons, "the table has flags"), true
	}
	if int(have.Use) != len(have.chains) {
		c.reasons, c.replace = append(c.reasons, "the table holds objects that are not ours"), true
	}
	if c.replace {
		c.chains = want
	}
	return c
}

func sameRule(a, b nft.Rule) bool {
	return a.Userdata == b.Userdata && reflect.DeepEqual(a.Exprs, b.Exprs)
}

// write commits the change as one transaction: the kernel switches to the new
// generation of rules at once (nf_tables_commit). Each step holds whatever
// others did since we read: an add of what exists and a flush of what is empty
// are no errors.
func (t *Table) write(ctx context.Context, todo change) error {
	err := t.session.Write(ctx, func(c *nftables.Conn) error {
		table := c.AddTable(inetTable())
		if todo.replace {
			c.DelTable(table)
			if len(todo.chains) > 0 {
				c.AddTable(table)
			}
		}
		for _, w := range todo.chains {
			ch := w.Put(c, table)
			for _, r := range w.Rules {
				c.AddRule(r.In(table, ch))
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing table inet %s (%s): %w%s", TableName, todo, err, advice(err))
	}
	return nil
}
