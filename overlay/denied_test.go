package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

// A node that waits for its lease says which right it lacks, wherever it says
// that it is not ready; that a store is away for a moment is no reason that changes
// with each try.
func TestNotReadyForWantOfARight(t *testing.T) {
	var h heard
	b := start(t, func(c *Config, _ *memKernel) { c.Announce = h.announce })
	b.store.configs <- []byte(netConf)
	says := func(want string) func() bool {
		return func() bool {
			not := b.agent.Status().NotReady
			return len(not) == 1 && not[0] == want
		}
	}
	b.health <- StoreHealth{errors.New("connection refused")}
	b.eventually("no more than that", says("no lease yet"))
	denied := fmt.Errorf("patching Node n1: %w", subnet.ErrDenied)
	b.health <- StoreHealth{denied}
	b.eventually("the right is named", says("no lease yet: "+denied.Error()))
	w := httptest.NewRecorder()
	b.agent.healthMux().ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/readyz", nil))
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Contains(t, w.Body.String(), denied.Error())
	require.Contains(t, b.agent.Status().Text(), denied.Error())
	b.eventually("the operator of the cluster is told", func() bool {
		m := h.of("TwillNotReady")
		return len(m) > 0 && m[len(m)-1] == "no lease yet: "+denied.Error()
	})
	b.health <- StoreHealth{}
	b.eventually("it was granted", says("no lease yet"))
}
