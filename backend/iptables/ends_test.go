package iptables_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/rulestest"
)

// An allow list that lets some packets return and drops the rest is looked at
// before our accepts, or pods were not subject to it.
func TestJumpBehindAnAllowList(t *testing.T) {
	const jump = `-m comment --comment "twill forward" -j TWILL-FORWARD`
	rules := map[string]string{
		"return":                     `ipt -A DOCKER-USER -i eth9 -j RETURN; ipt -A DOCKER-USER -j DROP`,
		"return, with a comment":     `ipt -A DOCKER-USER -i eth9 -m comment --comment "-g x" -j RETURN; ipt -A DOCKER-USER -j DROP`,
		"goto":                       `ipt -N ok; ipt -A DOCKER-USER -i eth9 -g ok; ipt -A DOCKER-USER -j REJECT`,
		"return in a nested chain":   `ipt -N n; ipt -A DOCKER-USER -j n; ipt -A n -i eth9 -j RETURN; ipt -A n -j DROP`,
		"return of some, then all":   `ipt -A DOCKER-USER -i eth9 -j RETURN; ipt -A DOCKER-USER -j RETURN; ipt -A DOCKER-USER -j DROP`,
		"return, negated, then goto": `ipt -N no; ipt -A no -j DROP; ipt -A DOCKER-USER ! -i eth9 -j RETURN; ipt -A DOCKER-USER -g no`,
	}
	t.Parallel()
	for name, list := range rules {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, c chains) {
				c.sh(t, `ipt -N DOCKER-USER; ipt -A FORWARD -j DOCKER-USER; ipt -A FORWARD -i docker0 -j ACCEPT;`+list)
				drops, err := c.ForwardDrops(t.Context())
				require.NoError(t, err)
				require.Zero(t, drops, "what a list drops is its intent")
				c.sh(t, `ipt -P FORWARD DROP`)
				rulestest.Sync(t, c, rulestest.Dual())
				require.Equal(t, []string{"-j DOCKER-USER", "-i docker0 -j ACCEPT", jump}, c.hook(t, "filter", "FORWARD"))
			})
		})
	}
}

// An allow list in FORWARD itself is followed by nothing that our jump could go
// behind: it goes before the drop of the rest.
func TestJumpInAnAllowList(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		const jump = `-m comment --comment "twill forward" -j TWILL-FORWARD`
		c.sh(t, `ipt -A FORWARD -i eth9 -j RETURN; ipt -A FORWARD -j DROP`)
		drops, err := c.ForwardDrops(t.Context())
		require.NoError(t, err)
		require.NotZero(t, drops)
		rulestest.Sync(t, c, rulestest.Dual())
		require.Equal(t, []string{"-i eth9 -j RETURN", jump, "-j DROP"}, c.hook(t, "filter", "FORWARD"))
	})
}

// kube-proxy's chain returns what it has not marked, and so an administrator's
// SNAT behind it goes before our masquerade.
func TestJumpBehindKubePostrouting(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		c.sh(t, busyHost+`ipt -t nat -A POSTROUTING -o eth1 -j SNAT --to ${own%/*}`)
		rulestest.Sync(t, c, rulestest.Dual())
		require.Equal(t, []string{
			`-m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING`,
			"-o docker0 -j MASQUERADE",
			"-o eth1 -j SNAT --to-source 10.244.1.0",
			`-m comment --comment "twill masquerade" -j TWILL-POSTRTG`,
		}, c.hook(t, "nat", "POSTROUTING"))
	})
}

// What sends every packet to an inline inspection, or accepts it, is not passed
// over: behind it nothing is dropped in need of us.
func TestJumpBehindAnAccept(t *testing.T) {
	const jump = `-m comment --comment "twill forward" -j TWILL-FORWARD`
	tests := map[string]struct {
		rules string
		want  []string
	}{
		"queue":           {`ipt -A FORWARD -j NFQUEUE --queue-num 3`, []string{"-j NFQUEUE --queue-num 3", jump}},
		"queue, bypass":   {`ipt -A FORWARD -j NFQUEUE --queue-num 3 --queue-bypass; ipt -A FORWARD -j DROP`, []string{"-j NFQUEUE --queue-num 3 --queue-bypass", "-j DROP", jump}},
		"queue in chain":  {`ipt -N IPS; ipt -A IPS -j NFQUEUE --queue-num 3; ipt -A FORWARD -j IPS; ipt -P FORWARD DROP`, []string{"-j IPS", jump}},
		"accept":          {`ipt -A FORWARD -i eth9 -j DROP; ipt -A FORWARD -j ACCEPT`, []string{"-i eth9 -j DROP", "-j ACCEPT", jump}},
		"goto, accepting": {`ipt -N IPS; ipt -A IPS -j NFQUEUE --queue-num 3; ipt -A FORWARD -g IPS`, []string{"-g IPS", jump}},
		"goto, policy ACCEPT": {
			`ipt -N c; ipt -A c -i eth9 -j RETURN; ipt -A c -j NFQUEUE --queue-num 3; ipt -A FORWARD -g c`, []string{"-g c", jump},
		},
		"goto, policy DROP": {`ipt -N c; ipt -A FORWARD -g c; ipt -P FORWARD DROP`, []string{jump, "-g c"}},
	}
	t.Parallel()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, c chains) {
				c.sh(t, test.rules)
				rulestest.Sync(t, c, rulestest.Dual())
				require.Equal(t, test.want, c.hook(t, "filter", "FORWARD"))
				require.False(t, rulestest.Sync(t, c, rulestest.Dual()), "it may stay there")
			})
		})
	}
}

// A policy that becomes DROP makes an end of a goto.
func TestJumpMovesWithThePolicy(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		const jump = `-m comment --comment "twill forward" -j TWILL-FORWARD`
		c.sh(t, `ipt -N c; ipt -A FORWARD -g c`)
		rulestest.Sync(t, c, rulestest.Dual())
		require.Equal(t, []string{"-g c", jump}, c.hook(t, "filter", "FORWARD"))
		c.sh(t, `ipt -P FORWARD DROP`)
		require.True(t, rulestest.Sync(t, c, rulestest.Dual()))
		require.Equal(t, []string{jump, "-g c"}, c.hook(t, "filter", "FORWARD"))
	})
}
