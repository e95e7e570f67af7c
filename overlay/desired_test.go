package overlay

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
)

// Two peers behind NAT may have one address there: who permits it is counted.
func TestObjectOfSeveralPlans(t *testing.T) {
	shared := hygiene.Permit{Outer: netip.MustParseAddr("10.0.2.15")}
	own := hygiene.Permit{Outer: shared.Outer, Inner: netip.MustParsePrefix("10.244.3.0/24")}
	add, drop := backend.Change{Want: shared}, backend.Change{Have: shared}
	d := newDesired()
	plan := func(node string, objects ...backend.Object) []backend.Change {
		return d.replace(map[string][]backend.Object{node: objects})
	}
	require.Equal(t, []backend.Change{add}, plan("a", shared))
	require.Equal(t, []backend.Change{{Want: own}}, plan("b", shared, own))
	require.Empty(t, plan("c", shared))
	require.Empty(t, plan("a", shared), "the same again")
	require.Empty(t, plan("a"))
	require.Equal(t, []backend.Change{{Have: own}}, plan("b"))
	require.True(t, d.wants(shared.Key(), shared))
	require.Equal(t, []backend.Change{drop}, plan("c"))
	require.Equal(t, []backend.Change{add}, d.replace(map[string][]backend.Object{"a": {shared}, "b": {shared}}))
	require.Equal(t, []backend.Change{drop}, d.replace(map[string][]backend.Object{"a": nil, "b": nil}))
	require.Zero(t, d.kernel.Len()+d.guard.Len())
	require.Empty(t, d.shared)
}
