// Command twill-cni is the CNI plugin of Twill, installed in the CNI directory
// under the name twill. What it does is in overlay/cni; this is its stdin and
// stdout.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/twill-net/twill/overlay/cni"
	twill "github.com/twill-net/twill/overlay/version"
)

func main() {
	about := "twill-cni " + twill.Version
	if len(os.Args) == 2 && (os.Args[1] == "--version" || os.Args[1] == "-version") {
		fmt.Println(about)
		return
	}
	// One thing after another is done here, and that by the first thread: another
	// one that had looked at a namespace would leave entries in /proc, over which
	// who waits for us stumbles (see await in overlay/cni).
	runtime.LockOSThread()
	runtime.GOMAXPROCS(1)
	plugin := cni.Plugin{Wait: 5 * time.Second, Settle: time.Second}
	skel.PluginMainFuncs(plugin.Funcs(context.Background()), version.All, about)
}
