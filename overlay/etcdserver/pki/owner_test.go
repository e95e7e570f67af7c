package pki_test

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// ownedByOthers names the files of a directory that are not root's.
func ownedByOthers(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		if info.Sys().(*syscall.Stat_t).Uid != 0 {
			names = append(names, e.Name())
		}
	}
	return names
}
