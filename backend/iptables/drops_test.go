package iptables_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

func TestForwardDrops(t *testing.T) {
	tests := map[string]struct {
		rules string
		want  bool
	}{
		"nothing":                   {``, false},
		"other tables only":         {`ipt -t nat -A POSTROUTING -j ACCEPT`, false},
		"policy ACCEPT":             {`ipt -A INPUT -j DROP; ipt -P INPUT DROP; ipt -A FORWARD -i lo -j ACCEPT`, false},
		"policy DROP":               {`ipt -P FORWARD DROP`, true},
		"accepted before policy":    {`ipt -P FORWARD DROP; ipt -A FORWARD -j ACCEPT`, false},
		"drop at the end":           {`ipt -A FORWARD -i lo -j ACCEPT; ipt -A FORWARD -j DROP`, true},
		"drop with a comment":       {`ipt -A FORWARD -m comment --comment "a \"b\" -i lo" -j DROP`, true},
		"drop of something":         {`ipt -A FORWARD -i lo -j DROP; ipt -A FORWARD -p udp -j DROP; ipt -A FORWARD -m mark --mark 1 -j DROP`, false},
		"drop after an accept":      {`ipt -A FORWARD -j ACCEPT; ipt -A FORWARD -j DROP`, false},
		"reject":                    {`ipt -A FORWARD -j REJECT --reject-with $reject`, true},
		"log, then reject":          {`ipt -A FORWARD -j LOG --log-prefix "no -i lo "; ipt -A FORWARD -j REJECT`, true},
		"in a chain":                {`ipt -N c; ipt -A FORWARD -j c; ipt -A c -j REJECT`, true},
		"in a chain of a chain":     {`ipt -N c; ipt -N d; ipt -A FORWARD -j c; ipt -A c -j d; ipt -A d -j DROP`, true},
		"in a chain, conditionally": {`ipt -N c; ipt -A FORWARD -i lo -j c; ipt -A c -j DROP`, false},
		"a chain that returns":      {`ipt -N c; ipt -A FORWARD -j c; ipt -A c -j RETURN; ipt -A c -j DROP`, false},
		"a chain that accepts":      {`ipt -N c; ipt -A FORWARD -j c; ipt -A c -j ACCEPT; ipt -A FORWARD -j DROP`, false},
		"a goto skips the rest":     {`ipt -N c; ipt -A FORWARD -g c; ipt -A c -i lo -j DROP; ipt -A FORWARD -j DROP`, false},
		"a goto to a drop":          {`ipt -N c; ipt -A FORWARD -g c; ipt -A c -j DROP`, true},
		"return, then policy":       {`ipt -A FORWARD -j RETURN; ipt -A FORWARD -j ACCEPT; ipt -P FORWARD DROP`, true},
		"a chain seen twice":        {`ipt -N c; ipt -A c -i lo -j DROP; ipt -A FORWARD -j c; ipt -A FORWARD -j c; ipt -A FORWARD -j DROP`, true},
	}
	t.Parallel()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, c chains) {
				c.sh(t, test.rules)
				drops, err := c.ForwardDrops(t.Context())
				require.NoError(t, err)
				require.Equal(t, subnet.PerFamily[bool]{test.want, test.want}, drops)
			})
		})
	}
}

// Each family has its own.
func TestForwardDropsPerFamily(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		c.sh(t, `[ $p = iptables ] || ipt -P FORWARD DROP`)
		drops, err := c.ForwardDrops(t.Context())
		require.NoError(t, err)
		require.Equal(t, subnet.PerFamily[bool]{subnet.IPv6: true}, drops)
	})
}
