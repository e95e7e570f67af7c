package etcd_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

func manyKey(i int) string { return fmt.Sprintf("10.%d.%d.0-24", 128+i>>8, i&255) }

func manyValue(i int) string {
	return fmt.Sprintf(`{"PublicIP":"172.16.%d.%d","PublicIPv6":null,"BackendType":"vxlan",`+
		`"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"},"NodeName":"node-%d","MachineID":"%032x"}`, i>>8, i&255, i>>8, i&255, i, i)
}

// The list is paged, and of one revision.
func TestManyLeases(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{})
	fill(t, b, 9000)
	v := subnettest.Watch(t, b.open(t))
	v.Await(t, b)
	require.Len(t, v.Records(), 9000)
	require.Len(t, v.Updates(), 1)
}

// fill writes leases of n nodes.
func fill(t testing.TB, b backend, n int) {
	t.Helper()
	const perTxn = 100
	for i := 0; i < n; {
		var ops []clientv3.Op
		for range perTxn {
			if i < n {
				ops = append(ops, clientv3.OpPut(b.key(manyKey(i)), manyValue(i)))
			}
			i++
		}
		_, err := b.client.Txn(t.Context()).Then(ops...).Commit()
		require.NoError(t, err)
	}
}

// BenchmarkList compares the first full list with the one range read that is
// its limit.
func BenchmarkList(b *testing.B) {
	server := etcdtest.Start(b, etcdtest.Options{})
	be := backend{server: server, client: server.Client(b), prefix: "/x"}
	for _, n := range []int{100, 20_000} {
		fill(b, be, n)
		b.Run(fmt.Sprintf("range read/peers=%d", n), func(b *testing.B) {
			for b.Loop() {
				_, err := be.client.Get(b.Context(), be.key(""), clientv3.WithPrefix())
				require.NoError(b, err)
			}
		})
		b.Run(fmt.Sprintf("WatchLeases/peers=%d", n), func(b *testing.B) {
			s := be.openFor(b)
			b.ReportAllocs()
			for b.Loop() {
				ctx, cancel := context.WithCancel(b.Context())
				require.NoError(b, s.WatchLeases(ctx, func(u subnet.Update) {
					require.Len(b, u.Put, n)
					cancel()
				}))
			}
		})
	}
}

// BenchmarkEvent is from a peer's write to the update, with its limit.
func BenchmarkEvent(b *testing.B) {
	server := etcdtest.Start(b, etcdtest.Options{})
	be := backend{server: server, client: server.Client(b), prefix: "/x"}
	put := func(b *testing.B, i int) {
		_, err := be.client.Put(b.Context(), be.key("10.5.1.0-24"), manyValue(i))
		require.NoError(b, err)
	}
	b.Run("clientv3", func(b *testing.B) {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		events := be.client.Watch(ctx, be.key(""), clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-events
		for i := 0; b.Loop(); i++ {
			put(b, i)
			<-events
		}
	})
	b.Run("WatchLeases", func(b *testing.B) {
		ctx, cancel := context.WithCancel(b.Context())
		s := be.openFor(b)
		updates := make(chan subnet.Update)
		done := make(chan error, 1)
		go func() {
			done <- s.WatchLeases(ctx, func(u subnet.Update) {
				select {
				case updates <- u:
				case <-ctx.Done():
				}
			})
		}()
		<-updates
		for i := 0; b.Loop(); i++ {
			put(b, i)
			select {
			case <-updates:
			case <-time.After(subnettest.Patience):
				b.Fatal("no update")
			}
		}
		cancel()
		require.NoError(b, <-done)
	})
}
