package bench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

func objects(p peer) []backend.Object {
	s := p.subnet()
	return []backend.Object{
		backend.Neighbor{Link: "twill.1", IP: s.Addr(), MAC: p.mac()},
		backend.FDB{Link: "twill.1", MAC: p.mac(), Dst: p.publicIP()},
		backend.Route{Dst: s, Link: "twill.1", Via: s.Addr(), OnLink: true, Metric: 7},
	}
}

func TestWorld(t *testing.T) {
	t.Parallel()
	w := newWorld()
	event := func(o backend.Object, gone bool) {
		e := backend.Event{Key: o.Key(), Object: o}
		if gone {
			e.Object = nil
		}
		w.event(e)
	}
	w.want(Expect{Peers: Peers{300, 2, 0}})
	for _, p := range peers(300, 2, 0) {
		require.False(t, w.seen().Met)
		for _, o := range objects(p) {
			event(o, false)
		}
	}
	s := w.await(time.Second)
	require.True(t, s.Met)
	require.Equal(t, map[string]int{"neighbour": 2, "fdb": 2, "route": 2}, s.Events)
	require.Positive(t, s.FirstRoute)
	require.LessOrEqual(t, s.FirstRoute, s.At)

	// Changed: the new entry must be there, the old one is a leak.
	w.want(Expect{Peers: Peers{300, 1, 1}})
	for _, o := range objects(peer{300, 1})[:2] {
		require.False(t, w.seen().Met)
		event(o, false)
	}
	require.True(t, w.seen().Met)
	require.Equal(t, 1, w.seen().LeakedFDB)
	event(objects(peer{300, 0})[1], true)
	require.Zero(t, w.seen().LeakedFDB)

	w.want(Expect{Peers: Peers{301, 1, 0}, Gone: true})
	event(objects(peer{301, 0})[2], true)
	require.False(t, w.seen().Met)
	dump := func() (backend.State, error) { return backend.NewState(objects(peer{300, 1})...), nil }
	w.look(dump) // says the rest
	require.True(t, w.seen().Met)

	// What is told while a dump is made is newer than it.
	w.want(Expect{Peers: Peers{302, 1, 0}})
	w.look(func() (backend.State, error) {
		for _, o := range objects(peer{302, 0}) {
			event(o, false)
		}
		return dump()
	})
	require.True(t, w.seen().Met)
	w.look(dump)
	w.want(Expect{Peers: Peers{302, 1, 0}})
	require.False(t, w.seen().Met)
}

func TestPeers(t *testing.T) {
	t.Parallel()
	seen := map[any]bool{}
	for version := range 2 {
		for _, p := range peers(1, 22000, version) {
			for _, id := range []any{p.publicIP(), p.mac()} {
				require.False(t, seen[id], "%v twice", id)
				seen[id] = true
			}
			if p.number%100 > 1 {
				continue
			}
			l := p.lease()
			value, err := subnet.EncodeValue(l)
			require.NoError(t, err)
			back, err := subnet.DecodeValue(l.Subnets, value)
			require.NoError(t, err)
			require.Equal(t, l, back)
		}
	}
}
