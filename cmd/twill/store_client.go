package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/twill-net/twill/overlay/etcdserver"
	"github.com/twill-net/twill/overlay/etcdserver/pki"
	"github.com/twill-net/twill/subnet/etcd"
)

// storeClient adds the flags of the connection to etcd, twilld's, and returns
// what makes a client's configuration of them, and what adds to its errors that
// the flags may be wrong. A certificate of etcd's that ends soon is named on
// stderr.
func storeClient(cmd *cobra.Command) (client func(*cobra.Command) (clientv3.Config, error), hint func(error) error) {
	c := etcd.DefaultConfig()
	fs := flag.NewFlagSet(cmd.Name(), flag.ContinueOnError)
	c.RegisterFlags(fs)
	cmd.Flags().AddGoFlagSet(fs)
	_ = cmd.Flags().MarkHidden("etcd-prefix") // all of etcd is meant here
	return func(cmd *cobra.Command) (clientv3.Config, error) {
		if err := fromTwilldEnv(cmd, fs); err != nil {
			return clientv3.Config{}, err
		}
		if err := c.Validate(); err != nil {
			return clientv3.Config{}, err
		}
		tlsConfig, err := clientTLS(c, cmd.ErrOrStderr())
		return etcdserver.FailFast(clientv3.Config{
			Endpoints: c.Endpoints, DialTimeout: c.DialTimeout,
			// A peer that has gone is noticed in the middle of a snapshot.
			DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
			TLS: tlsConfig, Username: c.Username, Password: string(c.Password), Logger: zap.NewNop(),
		}), err
	}, c.Hint
}

// clientTLS returns nil for a connection that is not encrypted.
func clientTLS(c etcd.Config, warn io.Writer) (*tls.Config, error) {
	files := transport.TLSInfo{CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.CAFile}
	encrypted := strings.HasPrefix(c.Endpoints[0], "https://") || strings.HasPrefix(c.Endpoints[0], "unixs://")
	if !encrypted && files.Empty() && files.TrustedCAFile == "" {
		return nil, nil
	}
	t, err := files.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading --etcd-cafile, --etcd-certfile and --etcd-keyfile: %w", err)
	}
	t.VerifyConnection = func(s tls.ConnectionState) error {
		if cert := s.PeerCertificates[0]; time.Until(cert.NotAfter) < pki.Soon {
			fmt.Fprintf(warn, "twill: etcd's certificate (%s) ends on %s: renew it on the store's machine with twill store init --renew\n",
				cert.Subject.CommonName, cert.NotAfter.Format(time.DateOnly))
		}
		return nil
	}
	return t, nil
}

func newStoreStatus() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the store is: version, size, alarms",
		Long:  "Show how each endpoint of etcd is. The exit code is 1 when one does not answer, or has an alarm." + etcdHelp,
		Args:  cobra.NoArgs,
	}
	client, hint := storeClient(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := client(cmd)
		if err != nil {
			return err
		}
		bad := false
		for _, endpoint := range cfg.Endpoints {
			s, err := etcdserver.Ask(cmd.Context(), cfg, endpoint)
			if err != nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%v\n", hint(err))
				bad = true
				continue
			}
			printStoreStatus(cmd.OutOrStdout(), s)
			bad = bad || len(s.Alarms) > 0
		}
		if bad {
			return errSaid
		}
		return nil
	}
	return c
}

func printStoreStatus(w io.Writer, s etcdserver.Status) {
	role := ""
	if s.Leader {
		role = ", leader"
	}
	fmt.Fprintf(w, "%s: etcd %s, cluster %x, member %x%s\n", s.Endpoint, s.Version, s.ClusterID, s.MemberID, role)
	fmt.Fprintf(w, "  revision %d, database %s, %s of it in use", s.Revision, humanSize(s.Size), humanSize(s.InUse))
	if s.Quota > 0 {
		fmt.Fprintf(w, ", quota %s", humanSize(s.Quota))
	}
	fmt.Fprintln(w)
	for _, a := range s.Alarms {
		fmt.Fprintf(w, "  alarm %s%s\n", a, map[string]string{
			"NOSPACE": ": the database has reached its quota, writes are refused: twill store defrag, or a larger --quota-backend-bytes",
			"CORRUPT": ": members disagree, or the data is damaged: restore a backup",
		}[a])
	}
}

func newStoreDefrag() *cobra.Command {
	c := &cobra.Command{
		Use:   "defrag",
		Short: "Shrink the store's database, and lift the alarm NOSPACE",
		Long: "Make etcd forget all old revisions, defragment the database of each endpoint, and lift the alarm NOSPACE, which\n" +
			"stops writes. An endpoint does not answer meanwhile; packets flow on." + etcdHelp,
		Args: cobra.NoArgs,
	}
	client, hint := storeClient(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := client(cmd)
		if err != nil {
			return err
		}
		if err := etcdserver.Defrag(cmd.Context(), cfg); err != nil {
			return hint(err)
		}
		for _, endpoint := range cfg.Endpoints {
			s, err := etcdserver.Ask(cmd.Context(), cfg, endpoint)
			if err != nil {
				return hint(err)
			}
			printStoreStatus(cmd.OutOrStdout(), s)
		}
		return nil
	}
	return c
}
