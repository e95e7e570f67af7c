package iptables_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/subnet"
)

func TestDetect(t *testing.T) {
	const (
		nft    = "echo 'iptables v1.8.10 (nf_tables)'"
		legacy = "echo 'iptables v1.8.10 (legacy)'"
		old    = "echo 'iptables v1.4.21'"
		broken = "echo 'no such library' >&2; exit 127"
	)
	type has [len(iptables.Variants)]subnet.PerFamily[bool]
	all := subnet.PerFamily[bool]{true, true}
	tests := map[string]struct {
		binaries map[string]string // without their -restore, which says the same unless named
		own      iptables.Variant
		none     bool
		has      has
		error    string
	}{
		"Debian":      {map[string]string{"iptables": nft, "ip6tables": nft, "iptables-legacy": legacy, "ip6tables-legacy": legacy}, iptables.NFT, false, has{all, all}, ""},
		"switched":    {map[string]string{"iptables": legacy, "ip6tables": legacy, "iptables-nft": nft, "ip6tables-nft": nft}, iptables.Legacy, false, has{all, all}, ""},
		"old":         {map[string]string{"iptables": old, "ip6tables": old}, iptables.Legacy, false, has{iptables.Legacy: all}, ""},
		"no IPv6":     {map[string]string{"iptables": nft}, iptables.NFT, false, has{{subnet.IPv4: true}}, ""},
		"no IPv4":     {map[string]string{"ip6tables": legacy}, iptables.Legacy, false, has{iptables.Legacy: {subnet.IPv6: true}}, ""},
		"mixed":       {map[string]string{"iptables": nft, "ip6tables": legacy}, iptables.NFT, false, has{{subnet.IPv4: true}, {subnet.IPv6: true}}, ""},
		"suffix only": {map[string]string{"iptables-legacy": legacy, "ip6tables-legacy": legacy}, iptables.Legacy, false, has{iptables.Legacy: all}, ""},
		"both suffixes": {
			map[string]string{"iptables-legacy": legacy, "ip6tables-nft": nft}, iptables.NFT, false,
			has{{subnet.IPv6: true}, {subnet.IPv4: true}}, "",
		},
		"nothing": {nil, 0, true, has{}, ""},
		"broken": {
			map[string]string{"iptables": broken, "ip6tables": nft}, iptables.NFT, false, has{{subnet.IPv6: true}},
			"iptables --version: exit status 127: no such library",
		},
		"restore of the other": {
			map[string]string{"iptables": nft, "iptables-restore": legacy, "ip6tables": nft}, iptables.NFT, false, has{{subnet.IPv6: true}},
			"iptables is v1.8.10 (nf_tables) but ",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for name, body := range test.binaries {
				script(t, dir, name, body)
				if _, ok := test.binaries[name+"-restore"]; !ok {
					script(t, dir, name+"-restore", body)
				}
			}
			h, err := detectIn(t, dir)
			if test.error == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.error)
			}
			own, ok := h.Own()
			require.Equal(t, !test.none, ok)
			require.Equal(t, test.own, own)
			var found has
			for _, v := range iptables.Variants {
				for _, f := range subnet.Families {
					found[v][f] = h.Has(v, f)
				}
			}
			require.Equal(t, test.has, found, h)
		})
	}
}

// A command without its -restore is of no use.
func TestDetectWithoutRestore(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "iptables", "echo 'iptables v1.8.10 (nf_tables)'")
	h, err := detectIn(t, dir)
	require.NoError(t, err)
	_, ok := h.Own()
	require.False(t, ok)
	require.Equal(t, "no iptables", h.String())
}
