package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/acquire"
)

func newConfig() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check, show and write the network config"}
	c.AddCommand(newConfigCheck(), newConfigGet(), newConfigSet())
	return c
}

func newConfigCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE|-",
		Short: "Validate a network config and show what it amounts to",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, cfg, err := readConfig(cmd.InOrStdin(), args[0])
			if err == nil {
				describe(cmd.OutOrStdout(), cfg)
			}
			return err
		},
	}
}

func newConfigGet() *cobra.Command {
	c := &cobra.Command{
		Use:   "get",
		Short: "Print the network config as it stands in etcd",
		Long:  "Print the network config as it stands in etcd. The exit code is 1 when there is none." + etcdHelp,
		Args:  cobra.NoArgs,
	}
	withStore := etcdFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return withStore(func(s *etcd.Store) error {
			raw, _, err := s.Config(cmd.Context())
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), strings.TrimRight(string(raw), "\n"))
			}
			return err
		})
	}
	return c
}

func newConfigSet() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "set FILE|-",
		Short: "Validate a network config and write it to etcd",
		Long: "Validate a network config and write it to etcd. One under which a node could not keep its subnet is\n" +
			"refused, and the nodes are named. Running nodes take over what they can, and say what waits for a restart.\n" +
			"A network that holds the address of a node is refused with --force, too." + etcdHelp,
		Args: cobra.ExactArgs(1),
	}
	withStore := etcdFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		raw, cfg, err := readConfig(cmd.InOrStdin(), args[0])
		if err != nil {
			return err
		}
		return withStore(func(s *etcd.Store) error {
			_, revision, err := s.Config(cmd.Context())
			if err != nil && !errors.Is(err, etcd.ErrNoConfig) {
				return err
			}
			records, err := s.Records(cmd.Context())
			if err != nil {
				return err
			}
			if err := swallowed(cfg, records); err != nil {
				return err
			}
			if err := stranded(cfg, records); err != nil && !force {
				return err
			}
			if err := s.SetConfig(cmd.Context(), raw, revision); err != nil {
				return err
			}
			describe(cmd.OutOrStdout(), cfg)
			return nil
		})
	}
	c.Flags().BoolVar(&force, "force", false, "write it even though nodes have to change their subnets")
	return c
}

// readConfig reads and validates a file, or stdin for "-".
func readConfig(stdin io.Reader, file string) ([]byte, subnet.Config, error) {
	if file == "-" {
		raw, err := io.ReadAll(stdin)
		if err != nil {
			return nil, subnet.Config{}, fmt.Errorf("reading the network config: %w", err)
		}
		cfg, err := subnet.ParseConfig(raw)
		if err != nil {
			err = fmt.Errorf("network config: %w", err)
		}
		return raw, cfg, err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, subnet.Config{}, fmt.Errorf("reading the network config: %w", err)
	}
	cfg, err := subnet.ParseConfig(raw)
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return raw, cfg, err
}

// stranded names who could not keep a subnet under cfg.
func stranded(cfg subnet.Config, records []subnet.Record) error {
	return complain("this config takes subnets away (--force writes it all the same)", records, func(r subnet.Record) string {
		if err := acquire.Fits(cfg, r); err != nil {
			return fmt.Sprintf("%s of %s: %v", r.Key, orDash(r.Lease.ID()), err)
		}
		return ""
	})
}

// swallowed names the nodes whose own addresses are in a network of cfg: they
// could not be reached any more, etcd with them.
func swallowed(cfg subnet.Config, records []subnet.Record) error {
	return complain("pods and nodes need networks apart, choose another", records, func(r subnet.Record) string {
		for f, ip := range r.Lease.PublicIPs {
			if n := cfg.Networks[f]; n.Enabled() && ip.IsValid() && n.Network.Contains(ip) {
				return fmt.Sprintf("the network %s holds the address %s of node %s", n.Network, ip, r.Lease.ID())
			}
		}
		return ""
	})
}

// complain returns an error with what there is to say of the records, if there
// is anything.
func complain(headline string, records []subnet.Record, of func(subnet.Record) string) error {
	const most = 20
	var lines []string
	for _, r := range records {
		if r.Invalid != "" {
			continue
		}
		if text := of(r); text != "" {
			lines = append(lines, "  "+text)
		}
	}
	if n := len(lines); n == 0 {
		return nil
	} else if n > most {
		lines = append(lines[:most], fmt.Sprintf("  and %d more", n-most))
	}
	return fmt.Errorf("%s:\n%s", headline, strings.Join(lines, "\n"))
}

// describe prints what a config amounts to, with its defaults.
func describe(w io.Writer, cfg subnet.Config) {
	for _, f := range subnet.Families {
		if r := cfg.Networks[f]; r.Enabled() {
			fmt.Fprintf(w, "%s: %s, %d subnets of /%d from %s to %s\n", f, r.Network, r.Capacity(), r.SubnetLen, r.Min, r.Max)
		}
	}
	switch v := cfg.Backend.VXLAN; cfg.Backend.Type {
	case subnet.BackendVXLAN:
		fmt.Fprintf(w, "backend: vxlan, VNI %d, UDP port %d", v.VNI, v.Port)
		if v.MTU != 0 {
			fmt.Fprintf(w, ", outer MTU %d", v.MTU)
		}
		for _, option := range []struct {
			on   bool
			name string
		}{{v.GBP, "GBP"}, {v.Learning, "Learning"}, {v.DirectRouting, "DirectRouting"}} {
			if option.on {
				fmt.Fprintf(w, ", %s", option.name)
			}
		}
		fmt.Fprintln(w)
	default:
		fmt.Fprintf(w, "backend: %s\n", cfg.Backend.Type)
	}
	describeRules(w, cfg)
}

// describeRules prints what of the rules is not as by default.
func describeRules(w io.Writer, cfg subnet.Config) {
	switch cfg.EnableNFTables {
	case subnet.Yes:
		fmt.Fprintln(w, "rules: nftables, unless a node's --firewall says otherwise")
	case subnet.No:
		fmt.Fprintln(w, "rules: iptables, unless a node's --firewall says otherwise")
	}
	for _, f := range subnet.Families {
		if cfg.Networks[f].Enabled() && !cfg.Masquerade[f] {
			fmt.Fprintf(w, "%s: never masqueraded\n", f)
		}
	}
	if cidrs := cfg.NonMasquerade.All(); len(cidrs) > 0 {
		fmt.Fprintf(w, "not masqueraded to: %v\n", cidrs)
	}
}
