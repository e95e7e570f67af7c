package subnettest_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/subnettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	t.Parallel()
	subnettest.Contract(t, func(*testing.T) subnettest.Backend { return memory{subnettest.NewMemory()} })
}

type memory struct{ *subnettest.Memory }

func (m memory) Open(*testing.T) subnettest.Store { return m.Memory.Open() }

func (m memory) SetConfig(_ *testing.T, raw []byte) { m.Memory.SetConfig(raw) }

func (m memory) Put(_ *testing.T, key, value string, reserved bool) {
	r := subnet.DecodeRecord(key, []byte(value))
	r.Reserved = reserved
	m.Memory.Put(r)
}

func (m memory) Delete(_ *testing.T, key string) { m.Memory.Delete(key) }

func (m memory) Records(*testing.T) []subnet.Record { return m.Memory.Records() }

func TestFaults(t *testing.T) {
	t.Parallel()
	m := memory{subnettest.NewMemory()}
	m.Put(t, "10.5.1.0-24", `{"NodeName":"a"}`, false)
	old := m.Records(t)
	store := m.Open(t)
	v := subnettest.Watch(t, store)
	v.Await(t, m)
	m.Put(t, "10.5.2.0-24", `{"NodeName":"b"}`, false)
	v.Await(t, m)
	m.Restore(old)
	v.Await(t, m)
	last := v.Updates()[len(v.Updates())-1]
	require.True(t, last.Full)
	require.True(t, last.WentBack)

	down := errors.New("down")
	m.Break(down)
	require.ErrorIs(t, v.Stop(), down, "what is under way fails")
	require.ErrorIs(t, store.WatchConfig(t.Context(), nil), down)
	require.ErrorIs(t, store.Release(t.Context()), down)
	m.Break(nil)
	require.NoError(t, store.Release(t.Context()))
	require.NoError(t, store.Close())
}
