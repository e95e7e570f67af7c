// Command twill is the operator's tool: the lab, the store and, as they come,
// status, leases and diagnosis. It holds no logic of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/overlay/version"
)

func main() { os.Exit(run()) }

// run returns the exit code: 0, or 1 after an error. A second ^C or SIGTERM
// ends the process at once, should winding up hang.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if err := newRoot().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errSaid) {
			fmt.Fprintf(os.Stderr, "twill: %v\n", err)
		}
		return 1
	}
	return 0
}

// errSaid fails a command whose output has said already what is wrong.
var errSaid = errors.New("failed, as the output says")

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "twill",
		Short:         "Look at, try out and run a Twill overlay network",
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newLab(), newStore(), newStatus(), newLeases(), newReserve(), newRelease(), newConfig(), newCNI(), newHost())
	return root
}
