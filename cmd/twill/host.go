package main

import "github.com/spf13/cobra"

func newHost() *cobra.Command {
	c := &cobra.Command{Use: "host", Short: "Prepare a host for a daemon in a container, and take all of it away"}
	c.AddCommand(newHostPrepare(), newHostRemove(), newHostRemoved())
	return c
}
