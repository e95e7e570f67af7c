package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/acquire"
)

// etcdFlags adds the flags of the connection to etcd, the same as twilld's and
// from the same environment, and returns what does something with a store that
// is open meanwhile.
func etcdFlags(cmd *cobra.Command) (withStore func(do func(*etcd.Store) error) error) {
	cfg := etcd.DefaultConfig()
	fs := flag.NewFlagSet(cmd.Name(), flag.ContinueOnError)
	cfg.RegisterFlags(fs)
	cmd.Flags().AddGoFlagSet(fs)
	return func(do func(*etcd.Store) error) error {
		if err := fromTwilldEnv(cmd, fs); err != nil {
			return err
		}
		s, err := etcd.New(cfg)
		if err != nil {
			return err
		}
		return errors.Join(nowhere(do(s), cfg.Endpoints), s.Close())
	}
}

// nowhere adds to an error that nobody has said where etcd is, if it comes of
// that.
func nowhere(err error, endpoints []string) error {
	if err == nil || !slices.Equal(endpoints, etcd.DefaultConfig().Endpoints) || !strings.Contains(err.Error(), "connection refused") {
		return err
	}
	return fmt.Errorf("%w; there is no etcd at %s, the default of --etcd-endpoints; on Kubernetes the leases are the Nodes: kubectl get nodes -o yaml", err, endpoints[0])
}

const etcdHelp = `
Each --etcd- flag is taken from the environment, too, as with twilld: TWILLD_ETCD_ENDPOINTS and so on.`

func newLeases() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "leases",
		Short: "List who holds which subnet, until when",
		Long:  "List the leases and reservations in etcd: who holds which subnet, and until when." + etcdHelp,
		Args:  cobra.NoArgs,
	}
	withStore := etcdFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if output != "table" && output != "json" {
			return fmt.Errorf("--output %q is not table or json", output)
		}
		return withStore(func(s *etcd.Store) error {
			entries, err := s.List(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				return printLeasesJSON(cmd.OutOrStdout(), entries)
			}
			return printLeases(cmd.OutOrStdout(), entries)
		})
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

// printLeases prints a table for people.
func printLeases(w io.Writer, entries []etcd.Entry) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SUBNET\tNODE\tPUBLIC IP\tBACKEND\tEXPIRES\tNOTE")
	for _, e := range entries {
		name, note := strings.Join(texts(e.Lease.Subnets), ","), ""
		if name == "" {
			name = e.Key
		}
		switch {
		case e.Invalid != "":
			note = "invalid: " + e.Invalid
		case !e.Lease.Active():
			note = "waits for its node"
		}
		fmt.Fprintln(t, strings.Join([]string{
			name, orDash(e.Lease.Node), orDash(strings.Join(texts(e.Lease.PublicIPs), ",")), orDash(e.Lease.BackendType), expires(e), note,
		}, "\t"))
	}
	return t.Flush()
}

func expires(e etcd.Entry) string {
	switch left := time.Until(e.Expires).Round(time.Second); {
	case e.Reserved:
		return "reserved"
	case left <= 0:
		return "now"
	default:
		return "in " + left.String()
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// texts returns the valid ones of a family each as text.
func texts[T interface {
	IsValid() bool
	String() string
}](of subnet.PerFamily[T]) []string {
	out := []string{}
	for _, v := range of {
		if v.IsValid() {
			out = append(out, v.String())
		}
	}
	return out
}

// leaseJSON is one lease of `twill leases -o json`.
type leaseJSON struct {
	Key       string     `json:"key"`
	Node      string     `json:"node,omitempty"`
	MachineID string     `json:"machineID,omitempty"`
	Subnets   []string   `json:"subnets"`
	PublicIPs []string   `json:"publicIPs"`
	Backend   string     `json:"backend,omitempty"`
	Reserved  bool       `json:"reserved"`
	Expires   *time.Time `json:"expires,omitempty"`
	Invalid   string     `json:"invalid,omitempty"`
}

func printLeasesJSON(w io.Writer, entries []etcd.Entry) error {
	out := make([]leaseJSON, len(entries))
	for i, e := range entries {
		out[i] = leaseJSON{
			Key: e.Key, Node: e.Lease.Node, MachineID: e.Lease.MachineID, Subnets: texts(e.Lease.Subnets),
			PublicIPs: texts(e.Lease.PublicIPs), Backend: e.Lease.BackendType, Reserved: e.Reserved, Invalid: e.Invalid,
		}
		if !e.Expires.IsZero() {
			out[i].Expires = &e.Expires
		}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

func newReserve() *cobra.Command {
	var node string
	var ips []string
	c := &cobra.Command{
		Use:   "reserve --node NAME SUBNET [IPV6-SUBNET]",
		Short: "Keep a subnet for a node for ever",
		Long: "Keep a subnet, or one of each family, for a node for ever: the node takes it when it starts next.\n" +
			"A lease that the node has of it is made permanent at once. What another node holds is refused.\n" +
			"A flannel node is named by its --public-ip instead. To undo it: twill release." + etcdHelp,
		Example: "  twill reserve --node worker-3 10.244.3.0/24",
		Args:    cobra.RangeArgs(1, len(subnet.Families)),
	}
	withStore := etcdFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		want, err := reservation(node, ips, args)
		if err != nil {
			return err
		}
		return withStore(func(s *etcd.Store) error {
			raw, _, err := s.Config(cmd.Context())
			switch {
			case errors.Is(err, etcd.ErrNoConfig): // it may come later
			case err != nil:
				return err
			default:
				if err := reservable(raw, want); err != nil {
					return err
				}
			}
			if err := s.Reserve(cmd.Context(), want.Node, want.PublicIPs, want.Subnets); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "reserved %s for %s\n", strings.Join(texts(want.Subnets), " and "), want.ID())
			return nil
		})
	}
	c.Flags().StringVar(&node, "node", "", "name of the node (its --node-name)")
	c.Flags().StringSliceVar(&ips, "public-ip", nil, "public IP of the node, one of each family at most")
	return c
}

// reservation is the lease that the arguments describe.
func reservation(node string, ips, subnets []string) (subnet.Lease, error) {
	l := subnet.Lease{Node: node}
	for _, s := range subnets {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil || p.Addr().Is4In6():
			return l, fmt.Errorf("%q is not a subnet such as 10.244.3.0/24 or fd00:244:0:3::/64", s)
		case p != p.Masked():
			return l, fmt.Errorf("%s has host bits set; its subnet is %s", p, p.Masked())
		case l.Subnets[subnet.FamilyOf(p.Addr())].IsValid():
			return l, fmt.Errorf("%s is a second %s subnet; a node has one of each family", p, subnet.FamilyOf(p.Addr()))
		}
		l.Subnets[subnet.FamilyOf(p.Addr())] = p
	}
	for _, s := range ips {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil || a.Zone() != "" || a.Is4In6():
			return l, fmt.Errorf("--public-ip %q is not an address", s)
		case l.PublicIPs[subnet.FamilyOf(a)].IsValid():
			return l, fmt.Errorf("--public-ip %s is a second %s address; a node has one of each family", a, subnet.FamilyOf(a))
		}
		l.PublicIPs[subnet.FamilyOf(a)] = a
	}
	if l.ID() == "" {
		return l, errors.New("whom the subnet is for is missing: give --node, or --public-ip for a flannel node")
	}
	return l, nil
}

// reservable says why no node could hold the reservation under the config.
func reservable(raw []byte, l subnet.Lease) error {
	cfg, err := subnet.ParseConfig(raw)
	if err != nil {
		return fmt.Errorf("the network config in etcd is not valid, mend it first: %w", err)
	}
	for _, f := range subnet.Families {
		if r := cfg.Networks[f]; r.Enabled() && !l.Subnets[f].IsValid() {
			return fmt.Errorf("reserving %s: give an %s subnet, too, such as %s/%d: the network has one of each family", subnet.EncodeKey(l.Subnets), f, r.Min, r.SubnetLen)
		}
	}
	if err := acquire.Fits(cfg, subnet.Record{Lease: l, Reserved: true}); err != nil {
		return fmt.Errorf("reserving %s: %w", subnet.EncodeKey(l.Subnets), err)
	}
	return nil
}

func newRelease() *cobra.Command {
	c := &cobra.Command{
		Use:   "release SUBNET|NODE",
		Short: "Remove a lease or a reservation",
		Long: "Remove the lease or reservation of a subnet, or all of a node (its name, or a flannel node's public IP),\n" +
			"and print what was removed. A node that runs takes its subnet again at once, as a lease that ends.\n" +
			"The exit code is 1 when nothing matched." + etcdHelp,
		Example: "  twill release 10.244.3.0/24\n  twill release worker-3",
		Args:    cobra.ExactArgs(1),
	}
	withStore := etcdFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return withStore(func(s *etcd.Store) error {
			removed, err := s.Remove(cmd.Context(), matching(args[0]))
			for _, r := range removed {
				what := "lease"
				if r.Reserved {
					what = "reservation"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "removed %s %s of %s\n", what, r.Key, orDash(r.Lease.ID()))
			}
			if err == nil && len(removed) == 0 {
				err = fmt.Errorf("nothing matches %q; twill leases shows what there is", args[0])
			}
			return err
		})
	}
	return c
}

// matching returns what picks the records that an argument means: a subnet, a
// key as it stands in etcd, or a node.
func matching(arg string) func(subnet.Record) bool {
	p, err := netip.ParsePrefix(arg)
	return func(r subnet.Record) bool {
		if err == nil {
			return r.Lease.Subnets[subnet.FamilyOf(p.Addr())] == p
		}
		return r.Key == arg || r.Lease.ID() == arg
	}
}
