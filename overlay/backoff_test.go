package overlay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBackoff(t *testing.T) {
	t.Parallel()
	const first, most = 100 * time.Millisecond, time.Second
	longest := []time.Duration{first, 2 * first, 4 * first, 8 * first, most, most, most}
	seen := make([]map[time.Duration]bool, len(longest))
	b := backoff{First: first, Most: most}
	for range 200 {
		for i, d := range longest {
			got := b.next()
			require.LessOrEqual(t, got, d, "wait %d", i)
			require.GreaterOrEqual(t, got, d/2, "wait %d", i)
			if seen[i] == nil {
				seen[i] = map[time.Duration]bool{}
			}
			seen[i][got] = true
		}
		b.reset()
	}
	for i, s := range seen {
		require.Greater(t, len(s), 100, "wait %d is left to chance, so that nodes do not come back at once", i)
	}
}

func TestBackoffLimits(t *testing.T) {
	t.Parallel()
	b := backoff{First: time.Minute, Most: time.Second}
	require.LessOrEqual(t, b.next(), time.Second)

	b = backoff{}
	require.Zero(t, b.next())
	require.Zero(t, b.next())
}
