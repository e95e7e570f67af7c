package overlay

import (
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNewStoreHealth(t *testing.T) {
	t.Parallel()
	tell, health := NewStoreHealth()
	var several sync.WaitGroup
	for range 4 {
		several.Go(func() {
			for range 1000 {
				tell(errors.New("down"))
			}
		})
	}
	several.Wait() // though nobody reads
	tell(nil)
	require.Equal(t, StoreHealth{}, <-health, "the last counts")
	require.Empty(t, health)
}
