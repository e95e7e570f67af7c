package etcd

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

// Who lists while another does gets the same list; if the other fails, his own.
func TestListTogether(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Options{})
	cfg := DefaultConfig()
	cfg.Endpoints, cfg.DialTimeout = []string{server.Endpoint}, subnettest.Patience
	s, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	_, err = server.Client(t).Put(t.Context(), s.leases+"10.5.1.0-24", "{}")
	require.NoError(t, err)

	type result struct {
		list listing
		err  error
	}
	join := func(ctx context.Context) (*flight, chan result) {
		f := &flight{done: make(chan struct{})}
		s.flight = f
		got := make(chan result, 1)
		go func() {
			list, err := s.listTogether(ctx)
			got <- result{list, err}
		}()
		return f, got
	}
	f, got := join(t.Context())
	f.list.records = []subnet.Record{{Key: "his"}}
	close(f.done)
	r := <-got
	require.NoError(t, r.err)
	require.Equal(t, f.list, r.list)

	f, got = join(t.Context())
	f.err = errors.New("his time was up")
	close(f.done)
	r = <-got
	require.NoError(t, r.err)
	require.Len(t, r.list.records, 1)
	require.Equal(t, "10.5.1.0-24", r.list.records[0].Key)

	ctx, cancel := context.WithCancel(t.Context())
	_, got = join(ctx)
	cancel()
	require.ErrorIs(t, (<-got).err, context.Canceled)

	s.flight = nil
	list, err := s.listTogether(t.Context())
	require.NoError(t, err)
	require.Len(t, list.records, 1)
	require.Nil(t, s.flight)
}
