package guard_test

import (
	"maps"
	"net/netip"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/subnet"
)

// many is a state of n peers with subnets of both families.
func many(n int) backend.State {
	cfg := subnet.Config{Backend: subnet.Backend{Type: subnet.BackendVXLAN, VXLAN: subnet.VXLAN{VNI: 1, Port: 8472}}}
	for f, p := range []string{"10.0.0.0/8", "fd00::/16"} {
		cfg.Networks[f].Network = prefix(p)
	}
	s := backend.NewState(hygiene.Host(cfg, subnet.Lease{})...)
	for i := range n {
		hi, lo := byte(i>>8), byte(i)
		maps.Copy(s, backend.NewState(hygiene.Peer(cfg, subnet.Lease{}, subnet.Lease{
			PublicIPs: subnet.PerFamily[netip.Addr]{
				netip.AddrFrom4([4]byte{172, 16, hi, lo}), netip.AddrFrom16([16]byte{0x20, 1, 14: hi, 15: lo}),
			},
			Subnets: subnet.PerFamily[netip.Prefix]{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, hi, lo, 0}), 24),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 6: hi, 7: lo}), 64),
			},
		})...))
	}
	return s
}

// What a change costs does not depend on how many peers there are.
func BenchmarkPeers(b *testing.B) {
	for _, n := range []int{1, 20_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			ns := newNamespace(b)
			tables, want := ns.tables(), many(n)
			apply := func(b *testing.B, changes ...backend.Change) {
				for _, err := range tables.Apply(b.Context(), changes) {
					require.NoError(b, err)
				}
			}
			apply(b, backend.Diff(want, nil)...)
			b.Run("all", func(b *testing.B) {
				for range b.N {
					b.StopTimer()
					require.NoError(b, tables.Remove(b.Context()))
					b.StartTimer()
					apply(b, backend.Diff(want, ns.observe(b))...)
				}
			})
			b.Run("observe", func(b *testing.B) {
				for range b.N {
					require.Len(b, ns.observe(b), len(want))
				}
			})
			// To delete waits for a grace period of RCU, when the socket is closed
			// (nft_rcv_nl_event).
			for name, del := range map[string]bool{"add": false, "delete": true} {
				b.Run(name, func(b *testing.B) {
					for i := range b.N {
						c := backend.Change{Want: permit("192.0.2.2", netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24).String())}
						if del {
							c.Have, c.Want = c.Want, nil
						}
						apply(b, c)
					}
				})
			}
			b.Run("rules", func(b *testing.B) {
				g := want[dual.Key()]
				for range b.N {
					apply(b, backend.Change{Have: g, Want: g})
				}
			})
		})
	}
}
