package kube

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKeepOnlyTheImagesOfNow(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"images-1-amd64", "images-2-amd64", "images-3-amd64", "images-3-amd64.new", "images-1-arm64", "v1.35.4-amd64", "e2e-v1.35.4-1-amd64"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, d, "pause.tar"), nil, 0o644))
	}
	require.NoError(t, keepOnly(filepath.Join(dir, "images-2-amd64")))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	require.Equal(t, []string{"e2e-v1.35.4-1-amd64", "images-1-arm64", "images-2-amd64", "images-3-amd64.new", "v1.35.4-amd64"}, names)
}
