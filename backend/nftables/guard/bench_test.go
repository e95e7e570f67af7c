package guard_test

import (
	"maps"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/nftables/guard"
	"github.com/twill-net/twill/subnet"
)

// many is a state of n peers with subnets of both families.
func many(n int) backend.State {
	cfg := subnet.Config{Backend: subnet.Backend{Type: subnet.BackendVXLAN, VXLAN: subnet.VXLAN{VNI: 1, Port: 8472}}}
	for f, p := range []string{"10.0.0.0/8", "fd00::/16"} {
		cfg.Networks[f].Network = prefix(p)
	}
	s := backend.NewState(hygiene.Host(cfg, subnet.Lease{}, false)...)
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

// cpu returns what this process has used, kernel included: much of the time of
// the clock is the machine's.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs f b.N times and reports the processor's time of one.
func measure(b *testing.B, before, f func(i int)) {
	b.Helper()
	b.ReportAllocs()
	var used time.Duration
	for i := range b.N {
		b.StopTimer()
		before(i)
		runtime.GC()
		from := cpu(b)
		b.StartTimer()
		f(i)
		used += cpu(b) - from
	}
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-us/op")
}

// series is measure of many that are short.
func series(b *testing.B, f func(i int)) {
	b.Helper()
	b.ReportAllocs()
	from := cpu(b)
	for i := range b.N {
		f(i)
	}
	b.ReportMetric(float64((cpu(b)-from).Nanoseconds())/1000/float64(b.N), "cpu-us/op")
}

// one is a change of some permit.
func one(i int, del bool) backend.Change {
	c := backend.Change{Want: permit("192.0.2.2", netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24).String())}
	if del {
		c.Have, c.Want = c.Want, nil
	}
	return c
}

// What a change costs does not depend on how many peers there are. The limit
// is a transaction of one element by itself.
func BenchmarkPeers(b *testing.B) {
	for _, n := range []int{1, 5_000, 20_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			ns := newNamespace(b)
			tables, want := ns.tables(), many(n)
			changes := backend.Diff(want, nil)
			observe := func() backend.State {
				have, err := tables.Observe(b.Context())
				require.NoError(b, err)
				return have
			}
			apply(b, tables, changes...)
			b.Run("repair", func(b *testing.B) {
				measure(b, func(int) { ns.Run(b, "nft", "flush", "ruleset") }, func(int) {
					require.Empty(b, observe())
					apply(b, tables, changes...)
				})
			})
			b.Run("observe", func(b *testing.B) {
				measure(b, func(int) {}, func(int) { require.Len(b, observe(), len(want)) })
			})
			b.Run("each", func(b *testing.B) {
				measure(b, func(int) {}, func(int) {
					n := 0
					require.NoError(b, tables.Each(b.Context(), func(backend.Object) { n++ }))
					require.Equal(b, len(want), n)
				})
			})
			b.Run("limit", func(b *testing.B) {
				conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns.FD()})
				require.NoError(b, err)
				defer conn.Close()
				series(b, func(i int) {
					_, err := conn.SendMessages(oneElement(i))
					require.NoError(b, err)
					_, err = conn.Receive()
					require.NoError(b, err)
				})
			})
			b.Run("add", func(b *testing.B) { series(b, func(i int) { apply(b, tables, one(i, false)) }) })
			b.Run("delete", func(b *testing.B) { series(b, func(i int) { apply(b, tables, one(i, true)) }) })
			b.Run("rules", func(b *testing.B) {
				g := want[dual.Key()]
				series(b, func(int) { apply(b, tables, backend.Change{Have: g, Want: g}) })
			})
		})
	}
}

// oneElement is a transaction of one element, as short as can be.
func oneElement(i int) []netlink.Message {
	bracket := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   []byte{unix.NFPROTO_UNSPEC, 0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	return []netlink.Message{bracket(unix.NFNL_MSG_BATCH_BEGIN), {
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM,
			Flags: netlink.Request | netlink.Create | netlink.Acknowledge,
		},
		Data: elementMessage(unix.NFPROTO_INET, guard.VTEPTable, "peers-ipv4", []byte{198, 18, byte(i >> 8), byte(i)}),
	}, bracket(unix.NFNL_MSG_BATCH_END)}
}
