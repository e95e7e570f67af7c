package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/overlay/install"
	"github.com/twill-net/twill/overlay/statedir"
)

func hostFlags(fs *pflag.FlagSet) *install.Host {
	h := &install.Host{RunDir: "/run/twill"}
	fs.StringVar(&h.Root, "host-root", "/", "`directory` that is the host's root")
	fs.StringVar(&h.BinDir, "cni-bin-dir", "/opt/cni/bin", "`directory` on the host from which the container runtime runs CNI plugins")
	fs.StringVar(&h.ConfDir, "cni-conf-dir", "/etc/cni/net.d", "`directory` on the host from which the container runtime takes CNI configs")
	fs.StringVar(&h.StateDir, "state-dir", "/var/lib/twill", "`directory` on the host that twilld keeps")
	return h
}

func newHostRemove() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove",
		Short: "Remove the CNI plugins, their config and state, and the pods' bridge",
		Long: "Remove from a host what twilld --cleanup does not: the CNI plugins that were not there before us, the CNI config, the\n" +
			"addresses kept for pods, and the pods' bridge. While a pod is attached, or twilld runs, it removes nothing and says so:\n" +
			"without plugins no pod can be taken down. It prints what it removed. Run twilld --cleanup afterwards.",
		Args: cobra.NoArgs,
	}
	h := hostFlags(c.Flags())
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := statedir.Open(filepath.Join(h.Root, h.StateDir))
		if err != nil {
			return err
		}
		defer dir.Close()
		k, err := kernel.New(kernel.Config{})
		if err != nil {
			return err
		}
		defer k.Close()
		removed, err := h.Remove(cmd.Context(), k)
		for _, what := range removed {
			fmt.Fprintln(cmd.OutOrStdout(), what)
		}
		return err
	}
	return c
}

// lookAgain is the time between two looks at what is left.
const lookAgain = 10 * time.Second

func newHostRemoved() *cobra.Command {
	var stay bool
	c := &cobra.Command{
		Use:   "removed",
		Short: "Tell whether anything of Twill is left on a host",
		Long:  "Look for devices and files of ours, print those that are left, and fail if there are any.",
		Args:  cobra.NoArgs,
	}
	h := hostFlags(c.Flags())
	c.Flags().BoolVar(&stay, "stay", false, "go on looking until stopped, and print what changes")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		left, err := h.Left()
		if !stay {
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("there is left: %s", strings.Join(left, ", "))
			}
			return err
		}
		return watchLeft(cmd, h)
	}
	return c
}

// watchLeft says what is left whenever that is something else.
func watchLeft(cmd *cobra.Command, h *install.Host) error {
	said := "?"
	ticks := time.NewTicker(lookAgain)
	defer ticks.Stop()
	for {
		left, err := h.Left()
		if err != nil {
			return err
		}
		if now := strings.Join(left, ", "); now != said {
			said = now
			if now == "" {
				now = "nothing"
			}
			fmt.Fprintln(cmd.OutOrStdout(), "there is left: "+now)
		}
		select {
		case <-cmd.Context().Done():
			if errors.Is(cmd.Context().Err(), context.Canceled) {
				return nil
			}
			return cmd.Context().Err()
		case <-ticks.C:
		}
	}
}
