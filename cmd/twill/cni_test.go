package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCNIInstall(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "bin")
	require.NoError(t, os.WriteFile(filepath.Join(from, "twill"), []byte("#!"), 0o755))
	for _, want := range []string{"twill\n", ""} {
		var out bytes.Buffer
		c := newRoot()
		c.SetOut(&out)
		c.SetArgs([]string{"cni", "install", "--from", from, "--to", to})
		require.NoError(t, c.ExecuteContext(t.Context()))
		require.Equal(t, want, out.String())
		require.FileExists(t, filepath.Join(to, "twill"))
	}
	c := newRoot()
	c.SetArgs([]string{"cni", "install", "--to", to})
	c.SetOut(&bytes.Buffer{})
	require.Error(t, c.ExecuteContext(t.Context()), "--from is to be given")
}
