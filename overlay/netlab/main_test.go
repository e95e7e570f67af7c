package netlab_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/twill-net/twill/overlay/netlab"
)

// ownerDir in the environment makes the test binary the owner of a lab there,
// to be killed.
const ownerDir, ownerBinaries = "NETLAB_TEST_OWNER_DIR", "NETLAB_TEST_OWNER_TWILL"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerDir); dir != "" {
		o := netlab.Options{Nodes: 2, Dir: dir, Binaries: netlab.Binaries{Twill: os.Getenv(ownerBinaries)}}
		if _, err := netlab.New(context.Background(), o); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("up")
		select {}
	}
	if err := beAlone(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// beAlone starts the test binary again with a mount namespace and a /run/netns
// of its own: what it compares before and after a lab, the tests of other
// packages change meanwhile.
func beAlone() error {
	const mark = "NETLAB_TEST_ALONE"
	if os.Geteuid() != 0 || os.Getenv(mark) != "" {
		return nil
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	const script = `mkdir -p /run/netns; mount -t tmpfs none /run/netns; exec "$0" "$@"`
	args := append([]string{unshare, "--mount", "--propagation=private", "sh", "-ec", script}, os.Args...)
	return syscall.Exec(unshare, args, append(os.Environ(), mark+"=1"))
}
