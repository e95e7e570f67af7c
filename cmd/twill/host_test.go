package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What cannot be used is told before anything of the host is touched; what is
// done to one, overlay/install tests in a namespace.
func TestHostPrepareNeedsAConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "net-conf.json")
	prepare := func() error {
		c := newRoot()
		c.SetOut(&bytes.Buffer{})
		c.SetArgs([]string{"host", "prepare", "--net-config-path", path})
		return c.ExecuteContext(t.Context())
	}
	require.ErrorContains(t, prepare(), "reading the network config: open "+path)
	require.NoError(t, os.WriteFile(path, []byte(`{"Network": "10.244.0.0/16", "Netwrok": ""}`), 0o644))
	require.ErrorContains(t, prepare(), "the network config "+path+" cannot be used")
}
