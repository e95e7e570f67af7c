package firewall_test

import (
	"context"
	"testing"

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
	err = m.Do(func() error {
		report, err := m.host.Sync(ctx, rules)
		changed = report.Changed
		return err
	})
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
