package subnettest

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// View is a WatchLeases under way, folded as a node does it.
type View struct {
	mu      sync.Mutex
	updates []subnet.Update
	records map[string]subnet.Record
	stop    func() error
}

// Watch follows the leases of a store until the test ends.
func Watch(t *testing.T, store Store) *View {
	t.Helper()
	v := &View{records: map[string]subnet.Record{}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- store.WatchLeases(ctx, v.take) }()
	v.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = v.stop() })
	return v
}

// Stop ends the watch and returns what WatchLeases returned.
func (v *View) Stop() error { return v.stop() }

func (v *View) take(u subnet.Update) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.updates = append(v.updates, u)
	if u.Full {
		clear(v.records)
	}
	for _, key := range u.Gone {
		delete(v.records, key)
	}
	for _, r := range u.Put {
		v.records[r.Key] = r
	}
}

// Updates returns all updates so far.
func (v *View) Updates() []subnet.Update {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.updates)
}

// Fulls counts the full lists among the updates after the first.
func (v *View) Fulls() (full, wentBack int) {
	for _, u := range v.Updates()[1:] {
		if u.Full {
			full++
		}
		if u.WentBack {
			wentBack++
		}
	}
	return full, wentBack
}

// Records returns what the updates amount to, by key.
func (v *View) Records() map[string]subnet.Record {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.records)
}

// Await waits until the view is what the store holds.
func (v *View) Await(t *testing.T, b Backend) {
	t.Helper()
	want := map[string]subnet.Record{}
	for _, r := range b.Records(t) {
		want[r.Key] = r
	}
	require.Eventually(t, func() bool { return len(v.Updates()) > 0 && maps.Equal(v.Records(), want) },
		Patience, 5*time.Millisecond, "waiting for %v", want)
}

const flannelValue = `{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}}`

func configWatch(t *testing.T, b Backend) {
	var mu sync.Mutex
	var got []string
	seen := func(n int) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got) == n
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	store := b.Open(t)
	go func() {
		ended <- store.WatchConfig(ctx, func(raw []byte) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, string(bytes.Clone(raw)))
			raw[0] = 'x' // it is the callee's
		})
	}()
	b.SetConfig(t, []byte(wide))
	Eventually(t, "the config is there", seen(1))
	b.SetConfig(t, []byte(dual))
	Eventually(t, "the change is told", seen(2))
	b.SetConfig(t, nil)
	b.SetConfig(t, []byte(dual)) // as it was: no news
	b.SetConfig(t, []byte("{}")) // not for the store to judge
	Eventually(t, "the next one is told", seen(3))
	cancel()
	require.NoError(t, <-ended, "the end of the context is no error")
	require.Equal(t, []string{wide, dual, "{}"}, got)
}

func watchChanges(t *testing.T, b Backend) {
	b.Put(t, "10.5.1.0-24", flannelValue, false)
	b.Put(t, "10.5.2.0-24", `{"PublicIP":"192.168.64.4"}`, true)
	v := Watch(t, b.Open(t))
	v.Await(t, b)
	first := v.Updates()
	require.Len(t, first, 1)
	require.True(t, first[0].Full)
	require.False(t, first[0].WentBack)
	require.Empty(t, first[0].Gone)
	require.False(t, v.Records()["10.5.1.0-24"].Reserved)
	require.True(t, v.Records()["10.5.2.0-24"].Reserved)
	require.Equal(t, "192.168.64.3", v.Records()["10.5.1.0-24"].Lease.ID())

	b.Put(t, "10.5.3.0-24", flannelValue, false)
	v.Await(t, b)
	created := v.Records()["10.5.3.0-24"]
	require.Greater(t, created.Created, v.Records()["10.5.2.0-24"].Created, "the later record is the younger")
	b.Put(t, "10.5.3.0-24", `{"PublicIP":"192.168.64.9","BackendType":"vxlan"}`, false)
	v.Await(t, b)
	require.Equal(t, created.Created, v.Records()["10.5.3.0-24"].Created, "a change keeps the age")
	require.Greater(t, v.Records()["10.5.3.0-24"].Modified, created.Modified)
	b.Put(t, "10.5.2.0-24", `{"PublicIP":"192.168.64.4"}`, false)
	v.Await(t, b)
	require.False(t, v.Records()["10.5.2.0-24"].Reserved)
	b.Delete(t, "10.5.1.0-24")
	v.Await(t, b)
	for _, u := range v.Updates()[1:] {
		require.False(t, u.Full, "changes are told as such")
	}
	require.NoError(t, v.Stop(), "the end of the context is no error")
}

func watchAgain(t *testing.T, b Backend) {
	store := b.Open(t)
	b.Put(t, "10.5.1.0-24", flannelValue, false)
	for range 2 {
		v := Watch(t, store)
		v.Await(t, b)
		require.True(t, v.Updates()[0].Full)
		require.False(t, v.Updates()[0].WentBack)
		require.NoError(t, v.Stop())
		b.Put(t, "10.5.2.0-24", flannelValue, false)
		b.Delete(t, "10.5.1.0-24") // nobody tells of that
	}
}

// A subnet changes hands so fast that both may be told at once.
func watchReuse(t *testing.T, b Backend) {
	v := Watch(t, b.Open(t))
	for _, node := range []string{"a", "b", "a", "c"} {
		b.Delete(t, "10.5.1.0-24")
		b.Put(t, "10.5.1.0-24", `{"PublicIP":"192.168.64.3","BackendType":"vxlan","NodeName":"`+node+`"}`, false)
	}
	v.Await(t, b)
	require.Equal(t, "c", v.Records()["10.5.1.0-24"].Lease.Node)
	b.Put(t, "10.5.2.0-24", flannelValue, false)
	b.Delete(t, "10.5.1.0-24")
	v.Await(t, b)
}

func watchInvalid(t *testing.T, b Backend) {
	values := map[string]string{
		"10.5.1.0-24": "rubbish",
		"10.5.2.0-24": `{"PublicIP":"224.0.0.1","NodeName":"n2","BackendType":"vxlan"}`,
		"10.5.3.1-24": `{"PublicIP":"192.168.64.3","NodeName":"n3"}`,
		"nonsense":    `null`,
		"10.5.4.0-24": flannelValue,
	}
	nodes := map[string]string{"10.5.2.0-24": "n2", "10.5.3.1-24": "n3"}
	b.Put(t, "10.5.1.0-24", values["10.5.1.0-24"], false)
	v := Watch(t, b.Open(t))
	for key, value := range values {
		b.Put(t, key, value, false)
	}
	v.Await(t, b)
	got := v.Records()
	for key, value := range values {
		// The reason is the codec's, the key's before the value's.
		subnets, reason := subnet.DecodeKey(key)
		if _, err := subnet.DecodeValue(subnets, []byte(value)); reason == nil {
			reason = err
		}
		require.Equal(t, nodes[key], got[key].Lease.Node, key)
		if key == "10.5.4.0-24" {
			require.Empty(t, got[key].Invalid)
			continue
		}
		require.EqualError(t, reason, got[key].Invalid, key)
	}
	require.True(t, got["10.5.1.0-24"].Lease.Subnets[subnet.IPv4].IsValid(), "the key says what is taken")
	// What mends a record takes its reason away.
	b.Put(t, "10.5.1.0-24", flannelValue, false)
	v.Await(t, b)
	require.Empty(t, v.Records()["10.5.1.0-24"].Invalid)
}

func watchRenewal(t *testing.T, b Backend) {
	h := Hold(t, b.Open(t), claim(t, wide, "n1", 1))
	h.Next(t)
	v := Watch(t, b.Open(t))
	v.Await(t, b)
	before := len(v.Updates())
	require.NoError(t, h.End(t))
	Hold(t, b.Open(t), claim(t, wide, "n1", 1)).Next(t)
	b.Put(t, "10.5.200.0-24", flannelValue, false)
	v.Await(t, b)
	require.Len(t, v.Updates(), before+1, "the restart of a node is no news to its peers")
}
