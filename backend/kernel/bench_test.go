package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// ways returns what leads to so many peers; generation is what changes about them.
func ways(peers, generation int) backend.State {
	s := make(backend.State, 3*peers)
	for i := range peers {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		mac := subnet.MAC{2, 2, 0, 0, byte(i >> 8), byte(i)}
		put(s, backend.Neighbor{Link: "twill.1", IP: p.Addr(), MAC: mac})
		put(s, backend.FDB{Link: "twill.1", MAC: mac, Dst: netip.AddrFrom4([4]byte{198, byte(18 + generation), byte(i >> 8), byte(i)})})
		put(s, backend.Route{
			Dst: p, Link: "twill.1", Via: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(generation)}), OnLink: true,
			Metric: backend.RouteMetric(p),
		})
	}
	return s
}

// cpu returns what this process has used: user and system.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// What our own calls cost: CPU time per object, in all threads, with everything
// that the garbage collector does for it.
func BenchmarkKernel(b *testing.B) {
	for _, peers := range []int{1, 1000, 20000} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			spent := map[string]time.Duration{}
			for b.Loop() {
				inFreshNetns(func() { measure(b, peers, spent) })
				inFreshNetns(func() { measureEchoes(b, peers, spent) })
			}
			for name, s := range spent {
				b.ReportMetric(float64(s.Nanoseconds())/float64(b.N)/float64(3*peers), name+"-ns/object")
			}
		})
	}
}

// timed adds what f costs.
func timed(b *testing.B, spent map[string]time.Duration, name string, f func() error) {
	runtime.GC()
	from := cpu()
	err := f()
	spent[name] += cpu() - from
	assert.NoError(b, err, name) // not require: it would end a thread that is not the test's
}

func measure(b *testing.B, peers int, spent map[string]time.Duration) {
	k, _, err := withDevice(b.Context())
	if !assert.NoError(b, err) {
		return
	}
	defer unix.Close(int(k.netns))
	defer k.Close()
	first, second := ways(peers, 0), ways(peers, 1)
	add, change, remove := leading(first, nil), leading(second, first), leading(nil, second)
	timed(b, spent, "add", func() error { return k.applyAll(b.Context(), add) })
	timed(b, spent, "observe", func() error {
		have, err := k.Observe(b.Context(), nil)
		assert.Len(b, have, 3*peers+1)
		return err
	})
	timed(b, spent, "change", func() error { return k.applyAll(b.Context(), change) })
	timed(b, spent, "delete", func() error { return k.applyAll(b.Context(), remove) })
}

func measureEchoes(b *testing.B, peers int, spent map[string]time.Duration) {
	k, _, err := withDevice(b.Context())
	if !assert.NoError(b, err) {
		return
	}
	defer unix.Close(int(k.netns))
	defer k.Close()
	want := ways(peers, 0)
	add := leading(want, nil)
	timed(b, spent, "add-watched", func() error {
		return k.echoes(b.Context(), want, func() error { return k.applyAll(b.Context(), add) })
	})
}

// leading returns the changes that lead to want, on the device that is there.
func leading(want, have backend.State) []backend.Change {
	return slices.DeleteFunc(backend.Diff(want, have), func(c backend.Change) bool { return c.Key().Kind < backend.KindNeighbor })
}

func (k *Kernel) applyAll(ctx context.Context, changes []backend.Change) error {
	return errors.Join(k.Apply(ctx, changes)...)
}

// echoes calls write while a Watch runs, and waits until it has told of all.
func (k *Kernel) echoes(ctx context.Context, want backend.State, write func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	var told atomic.Int64
	started, all, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		first := true
		ended <- k.Watch(ctx, func(e backend.Event) {
			if first {
				first = false
				close(started)
			}
			// Of the others we are not told.
			if f, ok := e.Object.(backend.FDB); ok && want[e.Key] == f && told.Add(1) == int64(len(want)/3) {
				close(all)
			}
		})
	}()
	<-started
	err := write()
	if err == nil {
		select {
		case <-all:
		case <-time.After(time.Minute):
			err = fmt.Errorf("%d of %d echoes came", told.Load(), len(want)/3)
		}
	}
	cancel()
	if e := <-ended; err == nil {
		err = e
	}
	return err
}

// What Observe takes, and leaves to the garbage collector.
func BenchmarkObserve(b *testing.B) {
	inFreshNetns(func() {
		k, _, err := withDevice(b.Context())
		if !assert.NoError(b, err) {
			return
		}
		defer unix.Close(int(k.netns))
		defer k.Close()
		assert.NoError(b, k.applyAll(b.Context(), leading(ways(20000, 0), nil)))
		b.ReportAllocs()
		from := cpu()
		for b.Loop() {
			_, err := k.Observe(b.Context(), nil)
			assert.NoError(b, err)
		}
		b.ReportMetric(float64((cpu()-from).Microseconds())/float64(b.N), "cpu-us/op")
	})
}

// One peer that comes and goes among others: a call of Apply each.
func BenchmarkOnePeer(b *testing.B) {
	inFreshNetns(func() {
		k, _, err := withDevice(b.Context())
		if !assert.NoError(b, err) {
			return
		}
		defer unix.Close(int(k.netns))
		defer k.Close()
		assert.NoError(b, k.applyAll(b.Context(), leading(ways(1000, 0), nil)))
		all, but := ways(1001, 0), ways(1000, 0)
		come, leave := leading(all, but), leading(but, all)
		from := cpu()
		for b.Loop() {
			assert.NoError(b, k.applyAll(b.Context(), come))
			assert.NoError(b, k.applyAll(b.Context(), leave))
		}
		b.ReportMetric(float64((cpu()-from).Nanoseconds())/float64(b.N)/2, "cpu-ns/peer")
	})
}

// What reading, comparing and writing take after a device with 5 000 peers went
// down or away.
func BenchmarkRepair(b *testing.B) {
	for name, damage := range map[string]string{"down": "ip link set twill.1 down", "deleted": "ip link del twill.1"} {
		b.Run(name, func(b *testing.B) {
			inFreshNetns(func() { repair(b, damage) })
		})
	}
}

func repair(b *testing.B, damage string) {
	k, _, err := withDevice(b.Context())
	if !assert.NoError(b, err) {
		return
	}
	defer unix.Close(int(k.netns))
	defer k.Close()
	assert.NoError(b, k.applyAll(b.Context(), leading(ways(5000, 0), nil)))
	want, err := k.Observe(b.Context(), nil)
	assert.NoError(b, err)
	var spent time.Duration
	for b.Loop() {
		b.StopTimer()
		out, err := exec.Command("sh", "-c", damage).CombinedOutput()
		assert.NoError(b, err, string(out))
		b.StartTimer()
		from := cpu()
		have, err := k.Observe(b.Context(), nil)
		assert.NoError(b, err)
		assert.NoError(b, k.applyAll(b.Context(), backend.Diff(want, have)))
		spent += cpu() - from
	}
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N)/1000, "cpu-ms/op")
}
