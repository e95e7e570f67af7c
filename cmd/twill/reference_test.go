package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/cmd/internal/envflag"
	"github.com/twill-net/twill/cmd/internal/reference"
)

//go:generate env TWILL_WRITE_REFERENCE=1 go test -count=1 -run ^TestReference$ .

func TestReference(t *testing.T) {
	var store, others strings.Builder
	for _, c := range leaves(newRoot()) {
		b := &others
		if strings.HasPrefix(c.CommandPath(), "twill store") {
			b = &store
		}
		describeCommand(b, c)
	}
	reference.Check(t, "commands of twill", others.String())
	reference.Check(t, "commands of twill store", store.String())
}

// Every flag of `twill store` has its variable, as the page says.
func TestStoreFlagsHaveVariables(t *testing.T) {
	c := newStore()
	names := 0
	values := map[string]string{"bool": "true", "int64": "7"}
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		value, ok := values[f.Value.Type()]
		if !ok {
			value = "x"
		}
		t.Setenv(envflag.Name(storeEnv, f.Name), value)
		names++
	})
	require.NotZero(t, names)
	require.NoError(t, fromEnv(c))
	c.LocalFlags().VisitAll(func(f *pflag.Flag) { require.True(t, f.Changed, f.Name) })
}

// leaves returns the commands that do something, in their order.
func leaves(c *cobra.Command) []*cobra.Command {
	var list []*cobra.Command
	if c.Runnable() && !c.Hidden {
		list = append(list, c)
	}
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			list = append(list, leaves(sub)...)
		}
	}
	return list
}

func describeCommand(b *strings.Builder, c *cobra.Command) {
	about := c.Long
	if about == "" {
		about = c.Short + "."
	}
	about = strings.NewReplacer(etcdHelp, "", storeEnvHelp, "\n"+storeEnvHelp).Replace(about) // the page tells the former once
	fmt.Fprintf(b, "### %s\n\n```\n%s\n```\n\n%s\n\n", c.CommandPath(), strings.TrimSuffix(c.UseLine(), " [flags]"), reference.Prose(about))
	if c.Example != "" {
		fmt.Fprintf(b, "```\n%s\n```\n\n", strings.ReplaceAll(strings.TrimSpace(c.Example), "\n  ", "\n"))
	}
	header, rows, etcd := []string{"flag", "default", "meaning"}, [][]string(nil), false
	row := func(f *pflag.Flag) {
		if strings.HasPrefix(f.Name, "etcd-") { // twilld's, and from its variables
			etcd = true
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if value != "" {
			name += " " + value
		}
		def, text := reference.Default(f.DefValue, usage)
		rows = append(rows, []string{reference.Code(name), def, reference.Prose(text)})
	}
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !f.Hidden {
			row(f)
		}
	})
	c.InheritedFlags().VisitAll(row)
	if len(rows) > 0 {
		fmt.Fprintln(b, reference.Table(header, rows))
	}
	if etcd {
		fmt.Fprintf(b, "And the `--etcd-…` flags [of twilld](#flags-of-twilld), or their variables.\n\n")
	}
}
