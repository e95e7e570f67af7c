package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/twill-net/twill/cmd/internal/envflag"
	"github.com/twill-net/twill/overlay/etcdserver"
	"github.com/twill-net/twill/overlay/etcdserver/pki"
	"github.com/twill-net/twill/overlay/sdnotify"
)

// storeEnv begins the names of the variables of `twill store` and its
// subcommands.
const storeEnv = "TWILL_STORE"

const storeEnvHelp = `
Each flag is taken from the environment, too: --data-dir from TWILL_STORE_DATA_DIR, and so on. A flag wins over
its variable.`

// newStore returns `twill store`: with etcd's own flag names, so that what one
// knows of etcd holds.
func newStore() *cobra.Command {
	c := etcdserver.DefaultConfig()
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Run a single-member etcd to keep the leases in",
		Long: `Run a single-member etcd in the foreground: a store for clusters that have no etcd.
It speaks etcd's v3 API, serves /health and /metrics on the client URLs, and has no peer port.
Without TLS and passwords anybody who reaches the client URLs owns the network: they are on
loopback until you say otherwise. Certificates: twill store init.
The default --unsafe-no-fsync=false keeps every acknowledged write over a power cut.` + storeEnvHelp,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnv(cmd); err != nil {
				return err
			}
			warnOfCerts(cmd.ErrOrStderr(), c.TLSDir)
			return runStore(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Name, "name", c.Name, "`name` of the etcd member")
	f.StringVar(&c.DataDir, "data-dir", c.DataDir, "`directory` where the data is kept")
	f.StringSliceVar(&c.ListenClientURLs, "listen-client-urls", c.ListenClientURLs, "`URLs` where clients are served, with addresses and not names")
	f.StringSliceVar(&c.AdvertiseClientURLs, "advertise-client-urls", c.AdvertiseClientURLs, "`URLs` that clients are told (default: the listen URLs)")
	f.StringVar(&c.TLSDir, "tls-dir", c.TLSDir, "`directory` made by twill store init: stands for --cert-file, --key-file and --trusted-ca-file, and demands client certificates")
	f.StringVar(&c.CertFile, "cert-file", c.CertFile, "`file` with the server certificate (PEM) for https:// URLs")
	f.StringVar(&c.KeyFile, "key-file", c.KeyFile, "`file` with the private key (PEM) of the server certificate")
	f.StringVar(&c.TrustedCAFile, "trusted-ca-file", c.TrustedCAFile, "`file` with the CA (PEM) that client certificates are checked against")
	f.BoolVar(&c.ClientCertAuth, "client-cert-auth", c.ClientCertAuth, "demand a client certificate")
	f.StringVar(&c.AutoCompactionMode, "auto-compaction-mode", c.AutoCompactionMode, "how old revisions are forgotten: periodic or revision")
	f.StringVar(&c.AutoCompactionRetention, "auto-compaction-retention", c.AutoCompactionRetention, "how long, or how many, old revisions stay readable")
	f.Int64Var(&c.QuotaBackendBytes, "quota-backend-bytes", c.QuotaBackendBytes, "refuse writes when the database is larger, in `bytes`")
	f.BoolVar(&c.UnsafeNoFsync, "unsafe-no-fsync", c.UnsafeNoFsync, "do not wait for the disk: a power cut loses data (for labs)")
	f.StringVar(&c.LogLevel, "log-level", c.LogLevel, "etcd's log on stderr: debug, info, warn, error")
	cmd.AddCommand(newStoreInit(), newStoreCerts(), newStoreStatus(), newStoreBackup(), newStoreRestore(), newStoreDefrag())
	return cmd
}

// runStore serves, and tells the service manager when clients are served.
func runStore(ctx context.Context, c etcdserver.Config, out io.Writer) error {
	manager := sdnotify.New(logrus.NewEntry(logrus.StandardLogger()))
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { manager.Run(ctx, func() bool { return true }) })
	manager.Status("starting etcd in " + c.DataDir)
	return etcdserver.Run(ctx, c, func() {
		fmt.Fprintf(out, "ready: etcd serves %v from %s\n", c.ListenClientURLs, c.DataDir)
		manager.Status(fmt.Sprintf("serving %v from %s", c.ListenClientURLs, c.DataDir))
		manager.Ready()
	})
}

// fromEnv sets the flags of a command that are not given from TWILL_STORE_
// variables: those that are named, or all.
func fromEnv(cmd *cobra.Command, names ...string) error {
	if len(names) == 0 {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" {
				names = append(names, f.Name)
			}
		})
	}
	variables := make([]string, len(names))
	for i, name := range names {
		variables[i] = envflag.Name(storeEnv, name)
	}
	warnOfVariables(cmd.ErrOrStderr(), variables)
	var errs []error
	for i, name := range names {
		variable, value := variables[i], os.Getenv(variables[i])
		if value == "" || cmd.Flags().Changed(name) {
			continue
		}
		if err := cmd.Flags().Set(name, value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %q: %w", variable, value, errors.Unwrap(err)))
		}
	}
	return errors.Join(errs...)
}

// warnOfCerts names what will stop working soon. It stops nothing itself: the
// store reads its own files, and those of a client may be as they are.
func warnOfCerts(w io.Writer, dir string) {
	if dir == "" {
		return
	}
	certs, err := pki.List(dir, time.Now())
	if err != nil {
		fmt.Fprintf(w, "twill: looking which certificates end soon: %v\n", err)
	}
	for _, c := range certs {
		if c.Problem != "" {
			fmt.Fprintf(w, "twill: certificate %s of %s, valid until %s: %s\n",
				c.File, strings.Join(c.Names, ", "), c.NotAfter.Format(time.DateOnly), c.Problem)
		}
	}
}
