package etcd

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRenewInterval(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ ttl, margin, want time.Duration }{
		{24 * time.Hour, 0, time.Hour},
		{24 * time.Hour, time.Hour, time.Hour},
		{24 * time.Hour, 10 * time.Minute, 10 * time.Minute},
		{24 * time.Hour, 12 * time.Hour, 8 * time.Hour},
		{24 * time.Hour, 23 * time.Hour, time.Hour},
		{time.Minute, 0, 20 * time.Second},
		{time.Minute, 59 * time.Second, time.Second},
		{6 * time.Second, 0, 2 * time.Second},
	} {
		c := Config{LeaseTTL: tt.ttl, RenewMargin: tt.margin}
		require.Equal(t, tt.want, c.renewInterval(), "TTL %s, margin %s", tt.ttl, tt.margin)
	}
}
