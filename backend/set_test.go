package backend

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// A Set is what a State would be, also when every hash is another key's, too.
func TestSet(t *testing.T) {
	t.Parallel()
	for name, hash := range map[string]func(Key) uint64{
		"as it is":     nil,
		"few hashes":   func(k Key) uint64 { return uint64(k.Name[len(k.Name)-1] % 3) },
		"the same one": func(Key) uint64 { return 7 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, want := NewSet(0), State{}
			if hash != nil {
				s.hash = hash
			}
			for range 20_000 {
				o := Sysctl{Name: fmt.Sprintf("net/%d", rand.IntN(30)), Value: fmt.Sprint(rand.IntN(3))}
				if rand.IntN(2) == 0 {
					s.Put(o)
					want[o.Key()] = o
				} else {
					s.Delete(o.Key())
					delete(want, o.Key())
				}
				require.Equal(t, want.Get(o.Key()), s.Get(o.Key()))
				require.Equal(t, len(want), s.Len())
			}
			have := State{}
			for o := range s.All() {
				require.Nil(t, have[o.Key()])
				have[o.Key()] = o
			}
			require.True(t, maps.Equal(want, have))
			for k := range want {
				s.Delete(k)
			}
			require.Zero(t, s.Len())
		})
	}
}
