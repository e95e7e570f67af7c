// Command twill is the operator's tool: the lab, the store and, as they come,
// status, leases and diagnosis. It holds no logic of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/overlay/version"
	"github.com/twill-net/twill/subnet/nearest"
)

func main() { os.Exit(run()) }

// run returns the exit code: 0, or 1 after an error. A second ^C or SIGTERM
// ends the process at once, should winding up hang.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return execute(ctx, newRoot(), os.Args[1:])
}

// execute runs the command that args name, says what its error is, and returns
// the exit code.
func execute(ctx context.Context, root *cobra.Command, args []string) int {
	err := misplaced(root, args)
	if err == nil {
		root.SetArgs(args)
		err = root.ExecuteContext(ctx)
	}
	if err == nil {
		return 0
	}
	if !errors.Is(err, errSaid) {
		fmt.Fprintf(root.ErrOrStderr(), "twill: %s\n", inWords(err))
	}
	return 1
}

// misplaced returns the error of a word that names no command of a group of
// them, or none to help with; to which cobra itself would show help, and be
// content. Of the root, and of what does something itself, it is an error there,
// too.
func misplaced(root *cobra.Command, args []string) error {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	help := len(args) > 0 && args[0] == "help"
	if help {
		args = args[1:]
	}
	group, rest, err := root.Find(args)
	if help && err != nil {
		return err
	}
	if err != nil || !group.HasParent() || !group.HasSubCommands() || group.Runnable() && !help {
		return nil //nolint:nilerr // cobra comes across it again
	}
	group.InitDefaultHelpFlag()
	if err := group.ParseFlags(rest); err != nil || group.Flags().NArg() == 0 || group.Flag("help").Value.String() == "true" {
		return nil //nolint:nilerr // likewise
	}
	return unknown(group, group.Flags().Arg(0))
}

// unknown is the error of a word that is none of a group's commands, as cobra
// has it for the root.
func unknown(group *cobra.Command, word string) error {
	text := fmt.Sprintf("unknown command %q for %q", word, group.CommandPath())
	if name := meant(group, word); name != "" {
		text += "\n\nDid you mean this?\n\t" + name
	}
	return errors.New(text)
}

// meant returns which command of a group was: one that is spelt like the word,
// or begins with it; "" where there is none.
func meant(group *cobra.Command, word string) string {
	var names []string
	for _, c := range group.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if name := nearest.Name(word, names); name != "" {
		return name
	}
	if n := slices.IndexFunc(names, func(name string) bool { return word != "" && strings.HasPrefix(name, word) }); n >= 0 {
		return names[n]
	}
	return ""
}

// inWords adds where to look to the error of a command that is none.
func inWords(err error) string {
	text := err.Error()
	if !strings.HasPrefix(text, "unknown command ") {
		return text
	}
	what, meant, _ := strings.Cut(text, "\n") // "Did you mean this?" and a list
	of := what[strings.LastIndex(what, " for ")+len(" for "):]
	return strings.TrimRight(what+"; see "+strings.Trim(of, `"`)+" --help\n"+meant, "\n")
}

// nameArgs has a command and those below it name the arguments that are
// missing or too many, which cobra counts only.
func nameArgs(c *cobra.Command) {
	if c.Runnable() && c.HasSubCommands() {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknown(cmd, args[0])
		}
	} else if check := c.Args; check != nil && strings.Contains(c.Use, " ") {
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
