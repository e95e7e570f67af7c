// Command twill-cni is the CNI plugin of Twill, installed in the CNI directory
// under the name twill. What it does is in overlay/cni; this is its stdin and
// stdout.
//
// The Go runtime is not to look for a limit of processors: for that it reads
// /proc/self/mountinfo, which has a line for each pod of the node, at each start.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"context"
	"fmt"
	"os"
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
	plugin := cni.Plugin{Wait: 5 * time.Second}
	skel.PluginMainFuncs(plugin.Funcs(context.Background()), version.All, about)
}
