package iptables

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twill-net/twill/backend/masq"
)

// observed is what is at a place. Rules are as listed, without their chain.
type observed struct {
	exists  bool     // our chain
	rules   []string // of our chain
	policy  string   // of the built-in chain
	hook    []string // of the built-in chain
	end     int      // index in hook of the first rule that ours has to go before, or len(hook)
	visited []string // chains that were looked into for it
}

// change is what leads from the observed rules to the wanted ones. Its zero
// value is no change.
type change struct {
	reasons []string // what differs, for errors
	fill    bool     // make our chain and fill it
	remove  bool     // delete our chain
	unjump  []string // rules of the hook to be deleted
	jump    string   // command that puts the jump in once those are deleted, or empty
}

func (c change) nothing() bool { return len(c.reasons) == 0 }

func (c change) String() string { return strings.Join(c.reasons, ", ") }

func diff(p place, want []masq.Rule, o observed) change {
	var c change
	if len(want) == 0 {
		if o.exists {
			c = change{reasons: []string{"it is not wanted"}, remove: true, unjump: jumps(p, o.hook)}
		}
		return c
	}
	switch {
	case !o.exists:
		c.reasons, c.fill = append(c.reasons, "the chain is missing"), true
	case !sameRules(p, want, o.rules):
		c.reasons, c.fill = append(c.reasons, "the chain has other rules"), true
	}
	have := jumps(p, o.hook)
	switch {
	case len(have) == 0:
		c.reasons = append(c.reasons, "the jump from "+p.hook+" is missing")
	case len(have) > 1 || !slices.Equal(fields(have[0]), p.jump()):
		c.reasons = append(c.reasons, p.hook+" has other jumps to it")
	case slices.Index(o.hook, have[0]) > o.end:
		c.reasons = append(c.reasons, "no packet gets to the jump in "+p.hook)
	default:
		return c
	}
	c.unjump, c.jump = have, "-A "+p.hook
	if o.end < len(o.hook) {
		before := o.end - len(jumps(p, o.hook[:o.end]))
		c.jump = fmt.Sprintf("-I %s %d", p.hook, before+1)
	}
	return c
}

func sameRules(p place, want []masq.Rule, have []string) bool {
	return slices.EqualFunc(want, have, func(w masq.Rule, h string) bool {
		r, ok := parse(p.family, fields(h))
		return ok && r == w
	})
}

// jumps returns those rules of a hook that lead to our chain.
func jumps(p place, hook []string) []string {
	var list []string
	for _, rule := range hook {
		if isJump(p, rule) {
			list = append(list, rule)
		}
	}
	return list
}

func isJump(p place, rule string) bool {
	words := fields(rule)
	for i, w := range words {
		if (w == "-j" || w == "-g") && i+1 < len(words) && words[i+1] == p.chain {
			return true
		}
	}
	return false
}

// script returns the change as input of iptables-restore --noflush, of which
// all up to COMMIT takes force at once. `:CHAIN` makes a chain, or empties it.
// Jumps are deleted by what they are and never by number, since numbers may
// have moved.
func (c change) script(p place, want []masq.Rule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", p.table)
	if c.fill {
		fmt.Fprintf(&b, ":%s - [0:0]\n", p.chain)
		for _, r := range want {
			fmt.Fprintf(&b, "-A %s %s\n", p.chain, line(arguments(r)))
		}
	}
	for _, rule := range c.unjump {
		fmt.Fprintf(&b, "-D %s %s\n", p.hook, rule)
	}
	if c.jump != "" {
		fmt.Fprintf(&b, "%s %s\n", c.jump, line(p.jump()))
	}
	if c.remove {
		fmt.Fprintf(&b, "-F %s\n-X %s\n", p.chain, p.chain)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}
