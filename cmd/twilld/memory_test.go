package main

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

// Not parallel: there is one collector.
func TestCalm(t *testing.T) {
	const before = 77
	defer debug.SetGCPercent(debug.SetGCPercent(before))
	for env, want := range map[string]int{"": calmPercent, "GOGC": before, "GOMEMLIMIT": before} {
		debug.SetGCPercent(before)
		calm(func(name string) (string, bool) { return "x", name == env })()
		require.Equal(t, want, debug.SetGCPercent(before), env)
	}
}
