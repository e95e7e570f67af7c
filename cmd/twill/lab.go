package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/overlay/netlab"
)

// labsDir is where `lab up` keeps labs: on a tmpfs, which a reboot of the
// machine empties as it ends the labs.
const labsDir = "/run/twill-lab"

func newLab() *cobra.Command {
	lab := &cobra.Command{
		Use:   "lab",
		Short: "Try the overlay out with nodes made of namespaces on this machine",
		Long: `Nodes on this machine, each with network, mount, UTS and PID namespaces of its own, on one
underlay bridge; etcd; a real twilld on every node; pods wired by real CNI calls. Needs root.
Nothing in the machine's own namespaces is touched.`,
	}
	name := lab.PersistentFlags().String("name", "twill", "name of the lab; labs of different names run side by side")
	dir := func() string { return filepath.Join(labsDir, *name) }
	lab.AddCommand(newLabUp(dir), newLabExec(dir), newLabDown(dir), newLabDemo(), newLabNodeInit())
	return lab
}

// addLabFlags adds the flags that say what a lab is like.
func addLabFlags(cmd *cobra.Command, o *netlab.Options, pods *int) {
	f := cmd.Flags()
	o.Underlay, o.Overlay = netlab.DualStack, netlab.DualStack
	f.IntVar(&o.Nodes, "nodes", 3, "number of nodes, 1 to 200 (traffic among more than 30 overflows the kernel's neighbour table)")
	f.IntVar(pods, "pods", 1, "pods on each node")
	f.Var(&o.Underlay, "underlay", "address families of the nodes")
	f.Var(&o.Overlay, "overlay", "address families of the pods")
	f.IntVar(&o.MTU, "mtu", 1500, "MTU of the underlay")
	f.IntVar(&o.Segments, "segments", 1, "underlay subnets that the nodes are spread over, with a router between")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if o.Nodes < 1 || *pods < 0 {
			return fmt.Errorf("--nodes %d --pods %d make no lab: give at least one node", o.Nodes, *pods)
		}
		return nil
	}
	f.StringVar(&o.NetConf, "net-conf", "", "network config (JSON; default: VXLAN, 10.244.0.0/16 and fd00:244::/48)")
}

func newLabUp(dir func() string) *cobra.Command {
	var o netlab.Options
	var pods int
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a lab and leave it running",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Binaries, err = netlab.InstalledBinaries(); err != nil {
				return err
			}
			o.Dir, o.Log = dir(), cmd.OutOrStdout()
			err = netlab.Up(cmd.Context(), o, pods)
			if err != nil && !errors.Is(err, netlab.ErrIsUp) {
				return err
			}
			if err != nil {
				fmt.Fprintln(cmd.OutOrStdout(), "the lab is up already")
			}
			name := ""
			if f := cmd.Flag("name"); f.Changed {
				name = " --name " + f.Value.String()
			}
			fmt.Fprintf(cmd.OutOrStdout(), "\nLook around:  %[3]s lab exec%[1]s node1 -- twill status\n"+
				"              %[3]s lab exec%[1]s node1/pod1 -- ip address\n"+
				"Logs:         %[2]s\nTake down:    %[3]s lab down%[1]s\n", name, filepath.Join(dir(), "log"), os.Args[0])
			return nil
		},
	}
	addLabFlags(cmd, &o, &pods)
	return cmd
}

func newLabExec(dir func() string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "exec PLACE [-- COMMAND ARG...]",
		Short:   "Run a command (a shell) on a node, in a pod, on the lan or on the outside host",
		Example: "  twill lab exec node1 -- bridge fdb show dev twill.1\n  twill lab exec node1/pod1 -- ping -c 3 10.244.2.2\n  twill lab exec outside -- tcpdump -ni eth0",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := netlab.InstalledBinaries()
			if err != nil {
				return err
			}
			command := args[1:]
			if len(command) > 0 && command[0] == "--" {
				command = command[1:]
			}
			argv, env, err := netlab.Command(dir(), args[0], command, b)
			if err != nil {
				return err
			}
			path, err := exec.LookPath(argv[0])
			if err != nil {
				return fmt.Errorf("%w: install util-linux", err)
			}
			// In place of this process: terminal, signals and exit code
			// are the command's.
			return fmt.Errorf("running %s: %w", path, syscall.Exec(path, argv, env))
		},
	}
	cmd.Flags().SetInterspersed(false) // the command's flags are its own
	return cmd
}

func newLabDown(dir func() string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the lab and remove every trace of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			was, err := netlab.Down(cmd.Context(), dir())
			if err != nil {
				return fmt.Errorf("taking the lab down: %w", err)
			}
			if was {
				fmt.Fprintln(cmd.OutOrStdout(), "the lab is down")
			} else {
				fmt.Fprintln(cmd.OutOrStdout(), "no lab is up")
			}
			return nil
		},
	}
}

func newLabDemo() *cobra.Command {
	var o netlab.Options
	var pods int
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a lab, show that it works and repairs itself, and take it down",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Binaries, err = netlab.InstalledBinaries(); err != nil {
				return err
			}
			return netlab.Demo(cmd.Context(), o, pods, cmd.OutOrStdout())
		},
	}
	addLabFlags(cmd, &o, &pods)
	return cmd
}

// newLabNodeInit is what the lab starts as the first process of each node.
func newLabNodeInit() *cobra.Command {
	return &cobra.Command{
		Use:    "node-init NAME DIR",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE:   func(_ *cobra.Command, args []string) error { return netlab.NodeInit(args[0], args[1]) },
	}
}
