package subnet_test

import (
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// heap returns how many bytes are alive. Tests that ask run by themselves: not
// in parallel.
func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first one found dead is swept
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// However much happens, memory grows with the records alone. TWILL_LONG=1
// makes a million events of it.
func TestSnapshotStaysSmall(t *testing.T) {
	events := 20_000
	if os.Getenv("TWILL_LONG") != "" {
		events = 1_000_000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const nodes, subnets = 1500, 2000
	s := filled(nodes)
	var revision int64 = nodes
	at := make([]int, nodes) // whose record is under which subnet
	for i := range at {
		at[i] = i
	}
	write := func(node, place int) {
		revision++
		r := peerRecord(place)
		l := peerRecord(node).Lease
		l.Subnets = r.Lease.Subnets
		if node%2 == 0 { // a flannel's
			l.Node, l.MachineID = "", ""
		}
		if random.IntN(3) == 0 {
			l.BackendData = peerRecord(node + nodes*random.IntN(2)).Lease.BackendData
		}
		s.Put(subnet.Record{Key: r.Key, Lease: l, Created: revision, Modified: revision})
		at[node] = place
	}
	churn := func(n int) {
		for range n {
			node := random.IntN(nodes)
			switch random.IntN(8) {
			case 0: // to a subnet that may be another's, told before the old one goes
				old := peerRecord(at[node]).Key
				write(node, random.IntN(subnets))
				s.Delete(old)
			case 1:
				s.Delete(peerRecord(at[node]).Key)
			case 2:
				s.Put(subnet.Record{Key: peerRecord(at[node]).Key, Invalid: "broken", Created: revision})
			default:
				write(node, at[node])
			}
		}
		for place := range subnets {
			s.Delete(peerRecord(place).Key)
		}
		for node := range nodes {
			write(node, node)
		}
	}
	churn(events / 10) // its tables reach their size
	before := heap()
	churn(events)
	after := heap()
	require.Len(t, s.Records(), nodes)
	t.Logf("%.0f bytes before, %.0f after %d events", before, after, events)
	require.InEpsilon(t, before, after, 0.1)
	runtime.KeepAlive(s)
}

// What a daemon of 45 MiB among 20 000 peers has to spare for them.
func TestSnapshotIsSmall(t *testing.T) {
	const n, most = 5000, 500
	before := heap()
	s := filled(n)
	each := (heap() - before) / n
	t.Logf("%.0f bytes for each record", each)
	require.Less(t, each, float64(most))
	runtime.KeepAlive(s)
}
