package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/overlay/etcdserver"
)

// newStore returns `twill store`: with etcd's own flag names, so that what one
// knows of etcd holds.
func newStore() *cobra.Command {
	var c etcdserver.Config
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Run a single-member etcd to keep the leases in",
		Long: `Run a single-member etcd in the foreground: a store for clusters that have no etcd.
It speaks etcd's v3 API, serves /health and /metrics on the client URLs, and has no peer port.
Without TLS and passwords anybody who reaches the client URLs owns the network: they are on
loopback until you say otherwise.
The default --unsafe-no-fsync=false keeps every acknowledged write over a power cut.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return etcdserver.Run(cmd.Context(), c, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "ready: etcd serves %v from %s\n", c.ListenClientURLs, c.DataDir)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Name, "name", "twill", "name of the etcd member")
	f.StringVar(&c.DataDir, "data-dir", "/var/lib/twill-store", "where the data is kept")
	f.StringSliceVar(&c.ListenClientURLs, "listen-client-urls", []string{"http://127.0.0.1:2379"}, "where clients are served")
	f.StringSliceVar(&c.AdvertiseClientURLs, "advertise-client-urls", nil, "what clients are told (default: the listen URLs)")
	f.StringVar(&c.CertFile, "cert-file", "", "server certificate (PEM) for https:// URLs")
	f.StringVar(&c.KeyFile, "key-file", "", "its private key (PEM)")
	f.StringVar(&c.TrustedCAFile, "trusted-ca-file", "", "CA (PEM) that client certificates are checked against")
	f.BoolVar(&c.ClientCertAuth, "client-cert-auth", false, "demand a client certificate")
	f.StringVar(&c.AutoCompactionMode, "auto-compaction-mode", "periodic", "periodic or revision")
	f.StringVar(&c.AutoCompactionRetention, "auto-compaction-retention", "1h", "how long, or how many, old revisions stay readable")
	f.Int64Var(&c.QuotaBackendBytes, "quota-backend-bytes", 2<<30, "refuse writes when the data is larger")
	f.BoolVar(&c.UnsafeNoFsync, "unsafe-no-fsync", false, "do not wait for the disk: a power cut loses data (for labs)")
	f.StringVar(&c.LogLevel, "log-level", "warn", "etcd's log on stderr: debug, info, warn, error")
	return cmd
}
