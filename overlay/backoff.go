package overlay

import (
	"math/rand/v2"
	"time"
)

// backoff gives growing waits, each up to a half shorter by chance, so that
// many nodes do not come back at once.
type backoff struct {
	First, Most time.Duration
	last        time.Duration
}

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, b.First), b.Most)
	return b.last - time.Duration(rand.Int64N(int64(b.last/2)+1))
}

func (b *backoff) reset() { b.last = 0 }
