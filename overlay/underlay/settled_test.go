package underlay_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
)

// TestSelectSettles draws hosts and asks twice: a host that does not change
// must not get another underlay, or a node would announce itself for ever. Any
// choice is one that can be told to peers.
func TestSelectSettles(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	chosen := 0
	for range 5000 {
		var lines, ways []string
		for n := range 1 + r.IntN(4) {
			name := fmt.Sprintf("%s%d", pick("eth", "eth", "eth", "twill."), n)
			line := name + " " + pick("", "", "", "down", "kind=bridge", "kind=vxlan", "master=eth0")
			for a := range r.IntN(5) {
				line += fmt.Sprintf(" "+pick("192.0.2.1%d%d/24", "2001:db8::%d:%d/64", "fe80::%d:%d/64!"), n, a)
				line += pick("", "", "", "!")
				if line[len(line)-2:] == "!!" {
					line = line[:len(line)-1]
				}
			}
			lines = append(lines, line)
			if r.IntN(2) == 0 {
				ways = append(ways, fmt.Sprintf("%s dev %s metric %d", pick("default", "default6"), name, r.IntN(3)))
			}
		}
		host := backend.Host{Interfaces: interfaces(lines...), Routes: routes(ways...)}
		o := underlay.Options{Ours: ours}
		switch r.IntN(4) {
		case 0:
			o.Interfaces = []string{pick("eth0", "eth1", "192.0.2.111"), pick("eth2", "2001:db8::2:0")}
		case 1:
			o.Patterns = patterns(pick("eth", "^192", ":1$|2$"))
		}
		before := backend.Underlay{Interface: pick("", "eth0", "eth1"), Addresses: addresses(pick("192.0.2.111", "192.0.2.2"), pick("2001:db8::1:1", "2001:db8::1"))}
		first, err := o.Select(host, noRoute, before)
		if err != nil {
			continue
		}
		chosen++
		again, err := o.Select(host, noRoute, first)
		require.NoError(t, err, "%q %q %+v", lines, ways, o)
		require.Equal(t, first, again, "%q %q %+v", lines, ways, o)

		on, ok := host.Interface(first.Interface)
		require.True(t, ok)
		require.True(t, on.Up && !on.Loopback && !ours(on.Name), "%+v", on)
		require.NotEqual(t, subnet.PerFamily[netip.Addr]{}, first.Addresses)
		for f, a := range first.Addresses {
			if a.IsValid() {
				require.Equal(t, subnet.Family(f), subnet.FamilyOf(a))
				require.False(t, a.IsLinkLocalUnicast(), "%s of %q", a, lines)
			}
		}
	}
	t.Logf("%d choices", chosen)
	require.Greater(t, chosen, 1000)
}

// Whether the uplink takes router advertisements is what it did before we
// forwarded, unless somebody switched them off.
func TestTakesRouterAdvertisements(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		accept   int
		forwards bool
		before   backend.Underlay
		want     bool
	}{
		{"takes them", 1, false, backend.Underlay{}, true},
		{"takes them although it forwards", 2, true, backend.Underlay{}, true},
		{"forwards, and so does not", 1, true, backend.Underlay{}, false},
		{"did before we forwarded", 1, true, backend.Underlay{Interface: "eth0", TakesRA: true}, true},
		{"another interface did", 1, true, backend.Underlay{Interface: "eth1", TakesRA: true}, false},
		{"switched off since", 0, true, backend.Underlay{Interface: "eth0", TakesRA: true}, false},
	} {
		host := backend.Host{Interfaces: []backend.Interface{{
			Name: "eth0", Up: true, MTU: 1500, AcceptRA: c.accept, ForwardsIP6: c.forwards,
			Addresses: []backend.InterfaceAddress{{Prefix: netip.MustParsePrefix("2001:db8::1/64"), Usable: true}},
		}}}
		u, err := underlay.Options{Interfaces: []string{"eth0"}}.Select(host, nil, c.before)
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, u.TakesRA, c.name)
	}
}
