// Package netlabtest brings netlab into tests: it builds the binaries under
// test and ties a lab to a test. Only tests import it.
package netlabtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
)

// New makes a lab that ends with the test. The test fails if a process of the
// lab crashes or has a data race. When it fails, the ends of the lab's logs are
// shown. Binaries and Log are set here.
func New(t *testing.T, o netlab.Options) *netlab.Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: nodes are namespaces")
	}
	o.Binaries, o.Log = Binaries(t), t.Output()
	if race && os.Getenv("GORACE") == "" {
		// Else the race detector makes each program wait a second before it
		// ends. The test binary has read the variable already.
		require.NoError(t, os.Setenv("GORACE", "atexit_sleep_ms=10")) //nolint:usetesting // t.Setenv is not for parallel tests
	}
	if o.Dir == "" {
		// Short, because a socket's path has 108 bytes; and made by the
		// lab, which removes it even when the test is killed.
		o.Dir = filepath.Join(os.TempDir(), "twill-lab-"+rand.Text()[:8])
	}
	lab, err := netlab.New(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() {
		checkLogs(t, filepath.Join(o.Dir, "log"))
		if t.Failed() {
			showLogs(t, filepath.Join(o.Dir, "log"))
		}
		require.NoError(t, lab.Close())
	})
	return lab
}

// crash is what the Go runtime and its race detector say of a program that is
// wrong, whatever the test saw of it.
var crash = regexp.MustCompile(`(?m)^(WARNING: DATA RACE|panic: |fatal error: )`)

// checkLogs fails the test if a process of the lab raced or crashed.
func checkLogs(t *testing.T, dir string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	for _, name := range logs {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		if at := crash.FindIndex(text); at != nil {
			t.Errorf("%s:\n%s", filepath.Base(name), text[at[0]:min(len(text), at[0]+8000)])
		}
	}
}

func showLogs(t *testing.T, dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err != nil || len(text) == 0 {
			continue
		}
		lines := bytes.SplitAfter(text, []byte("\n"))
		t.Logf("%s ends:\n%s", filepath.Base(name), bytes.Join(lines[max(0, len(lines)-40):], nil))
	}
}

var build = sync.OnceValues(buildBinaries)

// Binaries builds the commands and the reference CNI plugins, once for each
// run of a test binary. Twilld has the race detector when the test has it.
func Binaries(t *testing.T) netlab.Binaries {
	t.Helper()
	b, err := build()
	require.NoError(t, err)
	return b
}

// buildBinaries keeps its output in .cache of the repository, where `go build`
// sees what is up to date and need not be linked again. A lock keeps test
// binaries that run at the same time from writing one file together.
func buildBinaries() (netlab.Binaries, error) {
	ctx := context.Background()
	gomod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return netlab.Binaries{}, fmt.Errorf("finding go.mod: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(gomod)))
	flavour := "netlab"
	if race {
		flavour = "netlab-race"
	}
	dir := filepath.Join(root, ".cache", flavour)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return netlab.Binaries{}, err
	}
	lock, err := os.Create(filepath.Join(dir, ".lock"))
	if err != nil {
		return netlab.Binaries{}, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return netlab.Binaries{}, fmt.Errorf("waiting for another build: %w", err)
	}
	daemon := goBuild{root: root, cgo: "0", args: []string{"-o", dir, "./cmd/twilld"}}
	if race {
		daemon.cgo, daemon.args = "1", append([]string{"-race"}, daemon.args...)
	}
	for _, b := range []goBuild{
		{root: root, cgo: "0", args: []string{"-o", dir, "./cmd/twill", "./cmd/twill-cni"}},
		daemon,
		{root: filepath.Join(root, "dist/cni"), cgo: "0", args: []string{"-o", filepath.Join(dir, "cni") + "/", "tool"}},
	} {
		if err := b.run(ctx); err != nil {
			return netlab.Binaries{}, err
		}
	}
	return netlab.BinariesIn(dir), nil
}

type goBuild struct {
	root, cgo string
	args      []string
}

func (b goBuild) run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build"}, b.args...)...)
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+b.cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running go build %s in %s: %w: %s", strings.Join(b.args, " "), b.root, err, out)
	}
	return nil
}
