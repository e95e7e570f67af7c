package subnet_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// peerRecord returns the i-th of many dual-stack records as a store makes
// them: each of its strings is its own.
func peerRecord(i int) subnet.Record {
	var four [4]byte
	four[0], four[1], four[2], four[3] = 10, byte(128+i>>16), byte(i>>8), byte(i)
	l := subnet.Lease{
		Node: fmt.Sprintf("node-%d", i), MachineID: fmt.Sprintf("%032x", i),
		Subnets: subnet.PerFamily[netip.Prefix]{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 0, 0, 1, byte(i >> 8), byte(i)}), 64),
		},
		PublicIPs:   subnet.PerFamily[netip.Addr]{netip.AddrFrom4(four)},
		BackendType: string([]byte("vxlan")),
		BackendData: subnet.PerFamily[string]{
			fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:%02x:%02x:%02x"}`, i>>16, i>>8&255, i&255),
		},
	}
	return subnet.Record{Key: subnet.EncodeKey(l.Subnets), Lease: l, Created: int64(i), Modified: int64(i)}
}

func vtepClaim(l subnet.Lease) ([]string, error) {
	return []string{"VTEP MAC " + l.BackendData[subnet.IPv4]}, nil
}

func filled(n int) *subnet.Snapshot {
	s := subnet.NewSnapshot("self")
	s.SetOwn(subnet.Lease{}, vtepClaim)
	list := make([]subnet.Record, n)
	for i := range list {
		list[i] = peerRecord(i)
	}
	s.Replace(list)
	return s
}

// What one change costs must not depend on the number of peers, nor on a lease
// that overlaps them all.
func BenchmarkPut(b *testing.B) {
	wide := peerRecord(70_000)
	wide.Lease.Subnets = subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []struct {
		name string
		n    int
		wide bool
	}{{"peers=10", 10, false}, {"peers=20000", 20_000, false}, {"peers=20000,one-overlaps-all", 20_000, true}} {
		b.Run(c.name, func(b *testing.B) {
			n := c.n
			s := filled(n)
			if c.wide {
				s.Put(wide)
			}
			r := peerRecord(n / 2)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Lease.MachineID = []string{"a", "b"}[i%2] // a change each time
				s.Put(r)
			}
		})
	}
}

func BenchmarkReplace(b *testing.B) {
	list := make([]subnet.Record, 20_000)
	for i := range list {
		list[i] = peerRecord(i)
	}
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			s := subnet.NewSnapshot("self")
			s.Replace(list)
			s.SetOwn(subnet.Lease{}, vtepClaim)
		}
	})
	b.Run("same", func(b *testing.B) {
		s := filled(20_000)
		for b.Loop() {
			s.Replace(list)
		}
	})
}

func BenchmarkMemory(b *testing.B) {
	const n = 20_000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := filled(n)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/record")
		runtime.KeepAlive(s)
	}
}

// What a store does with each of 20 000 keys, and the last good state with
// each record.
func BenchmarkCodec(b *testing.B) {
	r := peerRecord(12345)
	value, err := subnet.EncodeValue(r.Lease)
	require.NoError(b, err)
	b.Run("key", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = subnet.DecodeKey("10.128.17.0-24")
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = subnet.DecodeValue(r.Lease.Subnets, value)
		}
	})
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = subnet.EncodeValue(r.Lease)
		}
	})
}
