package envfile_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/envfile"
)

func TestWriteAndRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run", "twill", "subnet.env")

	changed, err := envfile.Write(path, v4)
	require.NoError(t, err)
	require.True(t, changed)
	first, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o644), first.Mode())

	changed, err = envfile.Write(path, v4)
	require.NoError(t, err)
	require.False(t, changed)
	same, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(first, same), "not rewritten")

	changed, err = envfile.Write(path, dual)
	require.NoError(t, err)
	require.True(t, changed)
	e, err := envfile.Read(path)
	require.NoError(t, err)
	require.Equal(t, dual, e)

	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "no temporary file is left")
}

// A reader in a loop sees one whole content or the other while the file is
// being replaced.
func TestWriteIsAtomic(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "subnet.env")
	_, err := envfile.Write(path, v4)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		defer close(done)
		for i := range 200 {
			if _, err := envfile.Write(path, []envfile.Env{dual, v6, v4}[i%3]); err != nil {
				done <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		for range done { // the writer ends before its directory goes
		}
	})
	for writing := true; writing; {
		select {
		case err := <-done:
			require.NoError(t, err)
			writing = false
		default:
		}
		e, err := envfile.Read(path)
		require.NoError(t, err)
		require.Contains(t, []envfile.Env{v4, v6, dual}, e)
	}
}

func TestWriteReplacesWhatIsBroken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "subnet.env")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	changed, err := envfile.Write(path, v6)
	require.NoError(t, err)
	require.True(t, changed)
	e, err := envfile.Read(path)
	require.NoError(t, err)
	require.Equal(t, v6, e)
}

func TestFileErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "subnet.env")

	_, err := envfile.Read(path)
	require.EqualError(t, err, "reading the node's subnet: open "+path+": no such file or directory")
	require.ErrorIs(t, err, fs.ErrNotExist)

	require.NoError(t, os.WriteFile(path, []byte(v4Text[:56]), 0o644))
	_, err = envfile.Read(path)
	require.EqualError(t, err, "reading the node's subnet from "+path+": FLANNEL_MTU is missing: the file is incomplete; want the pods' MTU in bytes")

	bad := v4
	bad.MTU = 1 << 20
	_, err = envfile.Write(path, bad)
	require.EqualError(t, err, "writing the node's subnet to "+path+`: FLANNEL_MTU="1048576": want 68 to 65535 bytes`)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, v4Text[:56], string(b), "what was there stays")

	_, err = envfile.Write(filepath.Join(path, "below", "subnet.env"), v4)
	require.EqualError(t, err, "writing the node's subnet: mkdir "+path+": not a directory")

	require.NoError(t, os.Mkdir(filepath.Join(dir, "taken"), 0o755))
	_, err = envfile.Write(filepath.Join(dir, "taken"), v4)
	require.ErrorContains(t, err, "writing the node's subnet to "+filepath.Join(dir, "taken")+": rename ")
	left, err := filepath.Glob(filepath.Join(dir, ".taken.*"))
	require.NoError(t, err)
	require.Empty(t, left, "the temporary file is removed")
}
