package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/overlay/install"
)

func newCNI() *cobra.Command {
	c := &cobra.Command{Use: "cni", Short: "Put the CNI plugins onto a node"}
	c.AddCommand(newCNIInstall())
	return c
}

func newCNIInstall() *cobra.Command {
	var from, to string
	c := &cobra.Command{
		Use:   "install",
		Short: "Copy the CNI plugins from an image onto its node",
		Long: "Copy the executables of one directory into another, each replaced in one step, so that a runtime never runs half a\n" +
			"plugin. What is the same already, and what else is there, stays. It prints the names of those it copied.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			changed, err := install.Plugins(from, to)
			for _, name := range changed {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return err
		},
	}
	c.Flags().StringVar(&from, "from", "", "`directory` with the plugins")
	c.Flags().StringVar(&to, "to", "/opt/cni/bin", "`directory` from which the container runtime runs them")
	_ = c.MarkFlagRequired("from")
	return c
}
