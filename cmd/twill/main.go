// Command twill is the operator's tool: the lab, the store and, as they come,
// status, leases and diagnosis. It holds no logic of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
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
	root := newRoot()
	if err := root.ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errSaid) {
			fmt.Fprintf(os.Stderr, "twill: %s\n", inWords(root, err))
		}
		return 1
	}
	return 0
}

// inWords adds where to look to cobra's error of a command that is none.
func inWords(root *cobra.Command, err error) string {
	text := err.Error()
	if strings.HasPrefix(text, "unknown command ") {
		what, meant, _ := strings.Cut(text, "\n") // "Did you mean this?" and a list
		text = strings.TrimRight(what+"; see "+root.Name()+" --help\n"+meant, "\n")
	}
	return text
}

// nameArgs has a command and those below it name the arguments that are
// missing or too many, which cobra counts only.
func nameArgs(c *cobra.Command) {
	if check := c.Args; check != nil && strings.Contains(c.Use, " ") {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if check(cmd, args) == nil {
				return nil
			}
			return fmt.Errorf("usage: %s %s", cmd.Parent().CommandPath(), cmd.Use)
		}
	}
	for _, sub := range c.Commands() {
		nameArgs(sub)
	}
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
	nameArgs(root)
	return root
}
