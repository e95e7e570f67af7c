// Twill-kube brings a Kubernetes cluster up on this machine, runs things in it
// and takes it down again; see package kube. The targets kube-up, kube-down and
// kube-test of the Makefile use it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/kube"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "twill-kube: %v\n", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:              "twill-kube",
		Short:            "A Kubernetes cluster on this machine, its nodes being namespaces",
		TraverseChildren: true, // --dir is not one of kubectl's flags
		SilenceUsage:     true,
		SilenceErrors:    true,
	}
	dir := root.PersistentFlags().String("dir", kube.DefaultDir, "the cluster's `directory`; clusters in different ones run side by side")
	root.AddCommand(newUp(dir), newDown(dir), newKubectl(dir), newExec(dir))
	return root
}

func newUp(dir *string) *cobra.Command {
	var o kube.Options
	var manifest string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "bring a cluster up; with a manifest, wait until the nodes are Ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Dir, o.Log = *dir, cmd.OutOrStdout()
			err := netlab.CheckFree(o.Dir)
			if errors.Is(err, netlab.ErrIsUp) {
				fmt.Fprintf(o.Log, "the cluster in %s is up already: make kube-down ends it\n", o.Dir)
				return nil
			}
			if err != nil {
				return err
			}
			return up(cmd.Context(), o, manifest)
		},
	}
	f := cmd.Flags()
	o.Stack, o.Proxy = netlab.DualStack, kube.NFTables
	f.IntVar(&o.Nodes, "nodes", 3, "how many nodes; the first has the control plane")
	f.Var(&o.Stack, "stack", "address families of nodes, pods and Services")
	f.Var(&o.Proxy, "proxy", "mode of kube-proxy: iptables, nftables or none")
	f.StringArrayVar(&o.Images, "image", nil, "`archive` of an image for the nodes; may be repeated")
	f.StringVar(&manifest, "manifest", "", "`file` to apply, or a directory with a kustomization")
	return cmd
}

func up(ctx context.Context, o kube.Options, manifest string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	root, err := kube.Root(here)
	if err != nil {
		return err
	}
	if o.Parts, err = kube.BuildParts(ctx, root, o.Log); err != nil {
		return err
	}
	if o.Binaries, err = netlab.InstalledBinaries(); err != nil {
		return err
	}
	c, err := kube.New(ctx, o)
	if err != nil {
		return err
	}
	if manifest != "" {
		err = install(ctx, c, manifest)
	}
	if err == nil {
		err = c.Detach()
	}
	if err != nil {
		return errors.Join(err, c.Close())
	}
	fmt.Fprintf(o.Log, "the cluster is up:\n  dist/make/kube kubectl get pods -A\n  dist/make/kube exec node1 -- ip route\n  logs in %s/log\n", o.Dir)
	return nil
}

// readyTimeout bounds how long an installed network may take.
const readyTimeout = 3 * time.Minute

func install(ctx context.Context, c *kube.Cluster, manifest string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := c.ApplyFile(ctx, manifest); err != nil {
		return err
	}
	return c.WaitReady(ctx)
}

func newDown(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "end the cluster and remove all that it has made",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			was, err := netlab.Down(cmd.Context(), *dir)
			if err == nil && !was {
				fmt.Fprintf(cmd.OutOrStdout(), "no cluster is up in %s\n", *dir)
			}
			return err
		},
	}
}

func newKubectl(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl ARG...",
		Short:              "kubectl, as the cluster's administrator",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			argv, err := kube.Recorded(*dir).KubectlArgs(*dir, args...)
			if err != nil {
				return err
			}
			// Its files are the caller's, and what it resolves their names by.
			argv, err = netlab.OutsideNetwork(*dir, argv)
			if err != nil {
				return err
			}
			return become(argv, os.Environ())
		},
	}
}

func newExec(dir *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "exec PLACE [-- COMMAND ARG...]",
		Short:   "a command, or a shell, on a node, on the lan or outside",
		Example: "  twill-kube exec node2 -- ip -d link",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 && args[1] == "--" {
				args = append(args[:1], args[2:]...)
			}
			return run(*dir, args[0], args[1:])
		},
	}
	cmd.Flags().SetInterspersed(false) // the command's flags are its own
	return cmd
}

// run becomes a command in the cluster.
func run(dir, place string, args []string) error {
	b, err := netlab.InstalledBinaries()
	if err != nil {
		return err
	}
	argv, env, err := netlab.Command(dir, place, args, b)
	if err != nil {
		return err
	}
	return become(argv, env)
}

func become(argv, env []string) error {
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return syscall.Exec(program, argv, env)
}
