package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), mode))
	require.NoError(t, os.Chmod(path, mode))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

func TestPlugins(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "opt", "cni", "bin")
	write(t, from+"/twill", "new", 0o755)
	write(t, from+"/bridge", "bridge", 0o755)
	write(t, from+"/LICENSE", "text", 0o644)
	changed, err := Plugins(from, to)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"twill", "bridge"}, changed)
	require.NoFileExists(t, to+"/LICENSE")

	changed, err = Plugins(from, to)
	require.NoError(t, err)
	require.Empty(t, changed, "what is right is not written")

	write(t, to+"/calico", "another's", 0o755)
	write(t, to+"/twill", "old", 0o755)
	require.NoError(t, os.Chmod(to+"/bridge", 0o644))
	changed, err = Plugins(from, to)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"twill", "bridge"}, changed)
	require.Equal(t, "new", read(t, to+"/twill"))
	require.Equal(t, "another's", read(t, to+"/calico"))
	info, err := os.Stat(to + "/bridge")
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm())
	left, err := filepath.Glob(to + "/.*")
	require.NoError(t, err)
	require.Equal(t, []string{to + "/.twill-installed"}, left, "nothing half-done stays")
}

// A file that is being executed cannot be written (ETXTBSY), only replaced.
func TestPluginsWhileOneRuns(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	sleep, err := exec.LookPath("sleep")
	require.NoError(t, err)
	require.NoError(t, replace(sleep, to+"/sleep"))
	write(t, from+"/sleep", "new", 0o755)
	cmd := exec.Command(to+"/sleep", "60")
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	changed, err := Plugins(from, to)
	require.NoError(t, err)
	require.Equal(t, []string{"sleep"}, changed)
	require.Equal(t, "new", read(t, to+"/sleep"))
}

func TestPluginsOneFails(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write(t, from+"/bridge", "bridge", 0o755)
	write(t, from+"/twill", "twill", 0o755)
	require.NoError(t, os.MkdirAll(to+"/bridge/sub", 0o755), "a directory in its place")
	changed, err := Plugins(from, to)
	require.ErrorContains(t, err, "/bridge")
	require.Equal(t, []string{"twill"}, changed)
	_, err = Plugins(from+"/none", to)
	require.ErrorContains(t, err, from+"/none")
}

const list = `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"twill"},{"type":"portmap"}]}`

func TestConflist(t *testing.T) {
	source, path := t.TempDir()+"/conf", filepath.Join(t.TempDir(), "net.d", "10-twill.conflist")
	write(t, source, list, 0o644)
	c, err := ReadConflist(source, path)
	require.NoError(t, err)
	require.NoFileExists(t, path, "reading puts nothing")
	const foreign = `{"name":"other","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}`
	for i, before := range []string{"", "{", foreign, " "} { // somebody spoils it: the next Put mends it
		if i > 0 {
			write(t, path, before, 0o644)
		}
		changed, broken, err := c.Put()
		require.NoError(t, err)
		require.True(t, changed)
		require.Equal(t, i > 0 && before != foreign, broken, before)
		require.Equal(t, list, read(t, path))
		changed, broken, err = c.Put()
		require.NoError(t, err)
		require.False(t, changed)
		require.False(t, broken)
	}
	removed, err := RemoveConflist(path)
	require.NoError(t, err)
	require.True(t, removed)
	require.NoFileExists(t, path)
	removed, err = RemoveConflist(path)
	require.NoError(t, err)
	require.False(t, removed)
}

// Istio and Linkerd chain a plugin of theirs to whatever is there.
func TestConflistWithOthersPlugins(t *testing.T) {
	source, path := t.TempDir()+"/conf", t.TempDir()+"/10-twill.conflist"
	write(t, source, list, 0o644)
	c, err := ReadConflist(source, path)
	require.NoError(t, err)
	for content, right := range map[string]bool{
		`{"cniVersion":"1.0.0", "name":"cbr0", "plugins":[{"type":"twill"}, {"type":"portmap"}, {"type":"istio-cni"}]}`: true,
		`{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"twill"},{"type":"linkerd-cni"},{"type":"portmap"}]}`:   true,
		`{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"portmap"},{"type":"twill"},{"type":"istio-cni"}]}`:     false,
		`{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"twill"},{"type":"istio-cni"}]}`:                        false,
		`{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"twill","mtu":9},{"type":"portmap"}]}`:                  false,
		`{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"twill"},{"type":"portmap"}]}`:                         false,
		`{"cniVersion":"1.0.0","name":"cbr0","disableCheck":true,"plugins":[{"type":"twill"},{"type":"portmap"}]}`:      false,
		`{"cniVersion":"1.0.0","name":"cbr0"}`: false,
	} {
		write(t, path, content, 0o644)
		changed, _, err := c.Put()
		require.NoError(t, err)
		require.Equal(t, !right, changed, content)
		if right {
			require.Equal(t, content, read(t, path))
		} else {
			require.Equal(t, list, read(t, path))
		}
	}
}

func TestConflistOfOthers(t *testing.T) {
	path := t.TempDir() + "/10-twill.conflist"
	for _, content := range []string{`{"name":"other","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}`, `{`} {
		write(t, path, content, 0o644)
		removed, err := RemoveConflist(path)
		require.NoError(t, err)
		require.False(t, removed)
		require.Equal(t, content, read(t, path))
	}
}

func TestConflistThatNobodyCouldUse(t *testing.T) {
	for _, content := range []string{``, `{`, `{"cniVersion":"1.0.0","plugins":[{"type":"twill"}]}`, `{"name":"x","cniVersion":"1.0.0","plugins":[]}`} {
		source := t.TempDir() + "/conf"
		write(t, source, content, 0o644)
		_, err := ReadConflist(source, "unused")
		require.ErrorContains(t, err, source, "%q", content)
	}
	_, err := ReadConflist("/nonexistent", "unused")
	require.ErrorContains(t, err, "/nonexistent")
}
