package rulestest

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// Main runs the tests of a package, and looks for goroutines that they leave. It gives
// them a lock of iptables-legacy of their own (XTABLES_LOCKFILE, iptables(8)): the
// host's is that of all namespaces, and of whatever else runs on this machine.
func Main(m *testing.M) {
	dir, err := os.MkdirTemp("", "twill-rules")
	if err == nil {
		err = os.Setenv("XTABLES_LOCKFILE", filepath.Join(dir, "xtables.lock"))
	}
	if err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}
