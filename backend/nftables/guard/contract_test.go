package guard_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
)

func TestFirst(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	require.NoError(t, ns.tables().Supported(t.Context()))
	require.Empty(t, ns.observe(t))
	require.Empty(t, ns.run(t, "nft", "list", "ruleset"))
	ns.reach(t, whole())
	t.Log(ns.run(t, "nft", "list", "ruleset"))
	require.Empty(t, backend.Diff(whole(), ns.observe(t)))
	ns.reach(t, state())
	require.NoError(t, ns.tables().Remove(t.Context()))
	require.NoError(t, ns.tables().Remove(t.Context()))
	require.Empty(t, ns.run(t, "nft", "list", "ruleset"))
}
