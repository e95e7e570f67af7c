package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/overlay/install"
	"github.com/twill-net/twill/subnet"
)

func newHost() *cobra.Command {
	c := &cobra.Command{Use: "host", Short: "Prepare a host for a daemon in a container, and take all of it away"}
	c.AddCommand(newHostPrepare(), newHostRemove(), newHostRemoved())
	return c
}

func newHostPrepare() *cobra.Command {
	var config, root string
	var interfaces []string
	c := &cobra.Command{
		Use:   "prepare",
		Short: "Set the sysctls and load the module that an unprivileged daemon needs",
		Long: "Load br_netfilter where it is not built in, and set the sysctls that twilld would set if it were allowed to: forwarding of the\n" +
			"families in use, router advertisements on the uplink, and that rules see what crosses the pods' bridge. It prints what it\n" +
			"changed. What is right already is not written. A network config that cannot be used is told on standard error, and is no failure,\n" +
			"since twilld waits for another one: what both families need is set then.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := readNetConf(config)
			if err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "Warning: %v: preparing for both families\n", err)
			}
			k, err := kernel.New(kernel.Config{})
			if err != nil {
				return err
			}
			defer k.Close()
			changed, err := install.Preparation{Config: cfg, LoadModule: install.LoadModule(root), Interfaces: interfaces}.Run(cmd.Context(), k)
			for _, what := range changed {
				fmt.Fprintln(cmd.OutOrStdout(), what)
			}
			return err
		},
	}
	c.Flags().StringVar(&config, "net-config-path", "/etc/kube-flannel/net-conf.json", "`file` with the network config, as twilld's")
	c.Flags().StringSliceVar(&interfaces, "iface", nil, "external interface by its `name` or address, as twilld's: it goes on to take router advertisements")
	c.Flags().StringVar(&root, "host-root", "/", "`directory` that is the host's root, whose modprobe is run")
	return c
}

// readNetConf returns the zero value where there is no config that can be used.
func readNetConf(path string) (subnet.Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return subnet.Config{}, fmt.Errorf("reading the network config: %w", err)
	}
	cfg, err := subnet.ParseConfig(raw)
	if err != nil {
		return subnet.Config{}, fmt.Errorf("the network config %s cannot be used: %w", path, err)
	}
	return cfg, nil
}
