package kube_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/subnettest"
)

// A later run knows by the position of an earlier one that the store went back.
func position(t *testing.T, b backend) {
	b.Join(t, "n1", "10.5.1.0/24")
	first := b.open(t, "n1")
	require.Empty(t, first.Position())
	v := subnettest.Watch(t, first)
	subnettest.Eventually(t, "the first list is told", func() bool { return len(v.Updates()) > 0 && first.Position() != "" })
	at := first.Position()
	b.Join(t, "n2", "10.5.2.0/24")
	subnettest.Eventually(t, "it goes on", func() bool { return first.Position() != at })

	for position, back := range map[string]bool{at: false, "9000000000000000": true} {
		next := b.open(t, "n1")
		require.NoError(t, next.Resume(position))
		v := subnettest.Watch(t, next)
		subnettest.Eventually(t, "the first list is told", func() bool { return len(v.Updates()) > 0 })
		require.True(t, v.Updates()[0].Full)
		require.Equal(t, back, v.Updates()[0].WentBack, position)
		subnettest.Eventually(t, "and what it says counts", func() bool { p := next.Position(); return len(p) < 10 && p != "" })
	}
	require.ErrorContains(t, b.open(t, "n1").Resume("1f 7 6"), "it is not one that Position returned")
}
