package bench

import (
	"fmt"
	"strings"
	"time"
)

// DamageArgs is something to do behind the daemon's back, and how to see that
// it is undone.
type DamageArgs struct {
	Variables string // shell assignments for the two scripts
	Do        string // the damage
	Undone    string // succeeds when it is undone; empty: not asked
	Peers     int    // the ways to so many must be there, too; 0: not asked
	Within    time.Duration
}

// Mended is how long it took, from before the damage.
type Mended struct {
	Milliseconds float64
	Never        bool // not in the time given
}

// Damage does it and waits.
func (p *probe) Damage(a DamageArgs, m *Mended) error {
	script := a.Variables + "\n" + a.Do
	if a.Undone != "" {
		script += fmt.Sprintf("\ntimeout %d sh -c '%s\nuntil { %s; }; do sleep 0.002; done' || echo never", int(a.Within.Seconds()), quote(a.Variables), quote(a.Undone))
	}
	from := now()
	var out string
	if err := p.Run(script, &out); err != nil {
		return err
	}
	m.Never = strings.Contains(out, "never") || a.Peers > 0 && !p.awaitWays(a)
	m.Milliseconds = since(from)
	return nil
}

// awaitWays looks at the kernel, and hears what comes, until the ways are all
// there. A look is taken again from time to time, as not all that is lost is told:
// not often, since at 10 000 entries it takes a core for as long as a repair does.
func (p *probe) awaitWays(a DamageArgs) (met bool) {
	const look = 100 * time.Millisecond
	for until := time.Now().Add(a.Within); time.Now().Before(until); {
		p.observe(p.ctx, p.kernel)
		p.world.want(Expect{Peers: Peers{First: 1, Count: a.Peers}})
		if p.world.await(look).Met {
			return true
		}
	}
	return false
}

func quote(s string) string { return strings.ReplaceAll(s, "'", `'\''`) }
