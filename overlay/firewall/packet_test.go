package firewall_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/rulestest"
)

// inMode is a host whose rules are in another mode after each Sync.
type inMode struct {
	host
	modes []masq.Renderer
	syncs int
}

func (m *inMode) Sync(ctx context.Context, rules masq.Rules) (changed bool, err error) {
	rules.Renderer = m.modes[m.syncs%len(m.modes)]
	m.syncs++
	// While another test's iptables-legacy has the lock, and is long without the
	// processor perhaps, the accepts cannot be placed there: a daemon tries again.
	locked := true
	for until := time.Now().Add(time.Minute); locked && err == nil && time.Now().Before(until); {
		err = m.Do(func() error {
			report, err := m.host.Sync(ctx, rules)
			changed = changed || report.Changed
			locked = slices.ContainsFunc(report.Blocked, func(b masq.Blocked) bool { return strings.Contains(b.Reason, "xtables lock") })
			return err
		})
	}
	return changed, err
}

func (m *inMode) Remove(ctx context.Context) error {
	return m.Do(func() error { return m.host.Remove(ctx) })
}

// Packets are treated as package masq says while the mode is another after
// every change of the rules, and each connection keeps what it began with; all
// that though everything on the host drops what is forwarded.
func TestPacketsWhileSwitching(t *testing.T) {
	t.Parallel()
	rulestest.Packets(t, func(t *testing.T, node rulestest.Namespace) rulestest.Firewall {
		m := &inMode{host: newHost(node, masq.AnyRenderer), modes: []masq.Renderer{masq.NFTables, masq.IPTables}}
		m.sh(t, `for v in nft legacy; do for p in ip ip6; do ${p}tables-$v -P FORWARD DROP; done; done
			nft 'add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }'`)
		return m
	})
}
