package overlay

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
)

var (
	foughtKey = backend.Route{Dst: netip.MustParsePrefix("10.244.2.0/24")}.Key()
	quietKey  = backend.Route{Dst: netip.MustParsePrefix("10.244.3.0/24")}.Key()
	paceStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// TestPacerSlowsDown undoes each repair at once.
func TestPacerSlowsDown(t *testing.T) {
	t.Parallel()
	p, now := pacer{}, paceStart
	waits := []time.Duration{
		0, 0, 0, 0, 0, 0, // free
		100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond,
		1600 * time.Millisecond, 3200 * time.Millisecond, 6400 * time.Millisecond,
		10 * time.Second, 10 * time.Second, 10 * time.Second,
	}
	for i, want := range waits {
		at := p.turn(foughtKey, now)
		require.Equal(t, want, at.Sub(now), "before repair %d", i+1)
		require.Equal(t, i+1, p.repaired(foughtKey, at))
		now = at
		require.Equal(t, now, p.turn(quietKey, now), "others do not wait")
		if i+1 < contended {
			require.Empty(t, p.contended(now))
		} else {
			require.Equal(t, map[backend.Key]int{foughtKey: i + 1}, p.contended(now))
		}
	}
	for range 1000 { // no shift too far
		now = p.turn(foughtKey, now)
		p.repaired(foughtKey, now)
	}
	require.Equal(t, now.Add(10*time.Second), p.turn(foughtKey, now))
}

func TestPacerForgets(t *testing.T) {
	t.Parallel()
	fight := func() pacer {
		p := pacer{}
		for range contended {
			p.repaired(foughtKey, paceStart)
		}
		return p
	}
	for _, tt := range []struct {
		name  string
		after time.Duration
		turn  time.Duration // after the start
		count int           // of the next repair
		left  int           // what contended shows
	}{
		{"at once", 0, 100 * time.Millisecond, contended + 1, 1},
		{"while it waits", 99 * time.Millisecond, 100 * time.Millisecond, contended + 1, 1},
		{"it has waited", 5 * time.Second, 100 * time.Millisecond, contended + 1, 1},
		{"a minute of peace", time.Minute, 100 * time.Millisecond, contended + 1, 1},
		{"more than that", time.Minute + 1, time.Minute + 1, 1, 0},
	} {
		now := paceStart.Add(tt.after)
		require.Equal(t, paceStart.Add(tt.turn), fight().turn(foughtKey, now), tt.name)
		require.Equal(t, tt.count, fight().repaired(foughtKey, now), tt.name)
		p := fight()
		require.Len(t, p.contended(now), tt.left, tt.name)
		require.Len(t, p, tt.left, "%s: nothing piles up", tt.name)
	}
}

// What is undone now and then, but never left alone, is contended all the same.
func TestPacerSlowFight(t *testing.T) {
	t.Parallel()
	p, now := pacer{}, paceStart
	for i := range 20 {
		now = now.Add(59 * time.Second)
		require.False(t, p.turn(foughtKey, now).After(now), "it has waited long enough")
		require.Equal(t, i+1, p.repaired(foughtKey, now))
	}
	require.Equal(t, map[backend.Key]int{foughtKey: 20}, p.contended(now))
	now = now.Add(time.Hour)
	require.Empty(t, p.contended(now))
	require.Equal(t, 1, p.repaired(foughtKey, now))
}

func TestPacerForgetsOnlyTheQuiet(t *testing.T) {
	t.Parallel()
	p := pacer{}
	for range contended {
		p.repaired(foughtKey, paceStart)
		p.repaired(quietKey, paceStart.Add(time.Minute))
	}
	require.Equal(t, map[backend.Key]int{quietKey: contended}, p.contended(paceStart.Add(time.Minute+time.Second)))
	require.Len(t, p, 1)
}
