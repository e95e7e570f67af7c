package main

import (
	"fmt"
	"io"
	"net/netip"
	"os/user"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/overlay/etcdserver/pki"
)

const (
	defaultTLSDir = "/etc/twill/tls"
	storeUser     = "twill-store" // as the packages have it
)

func newStoreInit() *cobra.Command {
	o := pki.Options{}
	c := &cobra.Command{
		Use:   "init",
		Short: "Make the store's certificates: a CA, the server's, the nodes'",
		Long: `Make the certificates of a store in --tls-dir: a CA, a server certificate, a client certificate for the nodes
and one more for each --client. What is there is kept: run it again to add a client, or with --renew to have the server's
and all clients' certificates signed anew for the keys they have. The server and the nodes take up a renewed certificate
with their next connection.

The CA's key (ca.key) is needed for signing only: take it away from this machine if you like, and name it with --ca-key
when something is to be signed.` + storeEnvHelp,
		Example: `  twill store init --host 192.0.2.10,store.example.com
  twill store init --client node7
  twill store init --renew --days 730`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "tls-dir", defaultTLSDir, "`directory` for the files")
	f.StringVar(&o.Owner, "owner", storeUser, "`user` that the store runs as, whom its key is for; not minded where it is missing, unless given")
	f.StringVar(&o.CAKey, "ca-key", "", "`file` of the CA's key (default: ca.key in --tls-dir)")
	f.StringSliceVar(&o.Hosts, "host", nil, "`names` and addresses by which nodes reach the store, beside localhost (default: those the certificate has, "+
		"or the host name and all addresses of this machine)")
	f.StringSliceVar(&o.Clients, "client", nil, "`names` of clients that get a certificate of their own")
	f.IntVar(&o.Days, "days", 1825, "how long certificates are valid; the CA is for ten years")
	f.BoolVar(&o.Renew, "renew", false, "sign the server's and all clients' certificates anew")
	f.BoolVar(&o.Force, "force", false, "make everything anew, CA and keys too: what was signed by the old CA is void")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromEnv(cmd, "tls-dir", "owner", "ca-key", "host", "days"); err != nil {
			return err
		}
		if _, err := user.Lookup(o.Owner); err != nil && !cmd.Flags().Changed("owner") {
			o.Owner = ""
		}
		o.Now = time.Now()
		dir, err := filepath.Abs(o.Dir)
		if err != nil {
			return err
		}
		certs, err := pki.Init(o)
		if err != nil {
			return err
		}
		if err := printCerts(cmd.OutOrStdout(), o.Dir, certs); err != nil {
			return err
		}
		printUse(cmd.OutOrStdout(), dir, reached(append(o.Hosts, certs[1].Names...)))
		return nil
	}
	return c
}

func newStoreCerts() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "certs",
		Short: "List the store's certificates and when they end",
		Long: "List the certificates in --tls-dir and when they end. The exit code is 1 when one has ended or ends within\n" +
			"30 days.",
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&dir, "tls-dir", defaultTLSDir, "`directory` of the certificates")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromEnv(cmd, "tls-dir"); err != nil {
			return err
		}
		certs, unread := pki.List(dir, time.Now())
		if len(certs) > 0 {
			if err := printCerts(cmd.OutOrStdout(), dir, certs); err != nil {
				return err
			}
		}
		if unread != nil {
			return unread
		}
		for _, c := range certs {
			if c.Problem != "" {
				return errSaid
			}
		}
		return nil
	}
	return c
}

// printCerts prints a table for people.
func printCerts(w io.Writer, dir string, certs []pki.Cert) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CERTIFICATE\tVALID UNTIL\tFOR\tNOTE")
	for _, c := range certs {
		note := c.Problem
		if c.Made {
			note = "new"
		}
		fmt.Fprintln(t, strings.Join([]string{
			filepath.Join(dir, c.File), c.NotAfter.Format(time.DateOnly), strings.Join(c.Names, ","), orDash(note),
		}, "\t"))
	}
	return t.Flush()
}

// reached chooses by which of its names a server is told of: an address, which
// needs no DNS, if it is not loopback's.
func reached(names []string) string {
	for _, name := range names {
		if a, err := netip.ParseAddr(name); err == nil && !a.IsLoopback() {
			return name
		}
	}
	return names[0]
}

// printUse says what to do with the files. The store's own user may read the
// server's key only, and is a client with that.
func printUse(w io.Writer, dir, host string) {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	fmt.Fprintf(w, `
For the store, in /etc/twill/twill-store.env:
  TWILL_STORE_TLS_DIR=%[1]s
  TWILL_STORE_LISTEN_CLIENT_URLS=https://[::]:2379
  TWILLD_ETCD_ENDPOINTS=https://127.0.0.1:2379
  TWILLD_ETCD_CAFILE=%[1]s/ca.crt
  TWILLD_ETCD_CERTFILE=%[1]s/server.crt
  TWILLD_ETCD_KEYFILE=%[1]s/server.key

To each node, into %[1]s: ca.crt, client.crt, client.key, or the files client-NAME made for it. There, in
/etc/twill/twilld.env, or as flags of twilld (--etcd-endpoints, --etcd-cafile, --etcd-certfile, --etcd-keyfile):
  TWILLD_ETCD_ENDPOINTS=https://%[2]s:2379
  TWILLD_ETCD_CAFILE=%[1]s/ca.crt
  TWILLD_ETCD_CERTFILE=%[1]s/client.crt
  TWILLD_ETCD_KEYFILE=%[1]s/client.key
  TWILLD_IP_MASQ=true

Then, on this machine:
  systemctl enable --now twill-store twill-store-backup.timer
on any node, once:
  set -a; . /etc/twill/twilld.env
  twill config set net-conf.json     # such as {"Network": "10.244.0.0/16"}
and on each node:
  systemctl enable --now twilld
`, dir, host)
}
