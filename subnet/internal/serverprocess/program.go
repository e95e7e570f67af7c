package serverprocess

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Cache returns the folder of the working tree for programs that are built from
// a module: .cache/NAME/VERSION-GOARCH, VERSION being what the go.mod in dir, a
// path from the root of the tree, pins.
func Cache(t testing.TB, name, dir, module string) string {
	t.Helper()
	root := filepath.Dir(Go(t, "", "env", "GOMOD"))
	version := Go(t, filepath.Join(root, dir), "list", "-m", "-f", "{{.Version}}", module)
	return filepath.Join(root, ".cache", name, version+"-"+runtime.GOARCH)
}

// Go runs the go command in dir, "" for that of the test, and returns its output.
func Go(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go %s: %s", strings.Join(args, " "), &stderr)
	return strings.TrimSpace(string(out))
}
