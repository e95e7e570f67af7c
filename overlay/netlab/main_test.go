package netlab_test

import (
	"context"
	"fmt"
	"os"
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
	goleak.VerifyTestMain(m)
}
