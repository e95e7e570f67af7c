package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/cmd/internal/envflag"
	"github.com/twill-net/twill/subnet/nearest"
)

// twilldEnv begins the names of twilld's variables, of which commands here read
// those that they have the flags of.
const twilldEnv = "TWILLD"

// fromTwilldEnv sets the flags of fs, which are cmd's, that are not given from
// twilld's variables.
func fromTwilldEnv(cmd *cobra.Command, fs *flag.FlagSet) error {
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, envflag.Name(twilldEnv, f.Name)) })
	warnOfVariables(cmd.ErrOrStderr(), names)
	return envflag.Apply(fs, twilldEnv, cmd.Flags().Changed, os.LookupEnv)
}

// warnOfVariables says of each variable that is spelt nearly as one of names,
// those which a command reads, that it is none. Others are not the command's to
// judge: it may have been given all variables of a daemon.
func warnOfVariables(w io.Writer, names []string) {
	environ := os.Environ()
	slices.Sort(environ)
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if value == "" || slices.Contains(names, name) {
			continue
		}
		if meant := nearest.Name(name, names); meant != "" {
			fmt.Fprintf(w, "twill: %s is no variable of twill; did you mean %s?\n", name, meant)
		}
	}
}
