package netlabtest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Patience is how long a condition may take to come true. It bounds what a
// failing test costs and says nothing of how fast anything is.
const Patience = 45 * time.Second

// Eventually waits until check returns nil.
func Eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	limit := time.NewTimer(Patience)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-limit.C:
			require.FailNow(t, "never came true: "+what, "at last: %v", err)
		case <-t.Context().Done():
			require.FailNow(t, "never came true: "+what, "the test ended; at last: %v", err)
		case <-tick.C:
		}
	}
}
