// Package pki makes the certificates of a store: a CA, a server certificate,
// and one for each client. All are files of one directory. Keys are ECDSA
// P-256 (RFC 5480), certificates as of RFC 5280. It imports the standard
// library and durable only.
package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twill-net/twill/overlay/etcdserver/internal/durable"
)

// Names of the files of a directory. Keys have mode 0600, certificates 0644.
const (
	CACert     = "ca.crt" // may hold several CAs, while one is exchanged for another
	CAKey      = "ca.key" // needed for signing only
	ServerCert = "server.crt"
	ServerKey  = "server.key"
	ClientCert = "client.crt" // of any node, and of the store's own machine
	ClientKey  = "client.key"
)

const (
	caDays = 3653 // ten years
	// Soon is how long before its end a certificate should be renewed.
	Soon = 30 * 24 * time.Hour
	// MaxDays is the longest life of a certificate.
	MaxDays = caDays
)

// Options say what to make.
type Options struct {
	Dir     string   // made with mode 0755: the keys are 0600
	Owner   string   // user whom the server's key is for; empty: the caller. All else is the caller's
	CAKey   string   // file of the CA's key, if not in Dir
	Hosts   []string // names and addresses of the server; empty: those it has, or Hosts()
	Clients []string // names of further clients; their files are client-NAME.crt and .key
	Days    int      // how long certificates are valid, 1 to MaxDays; not beyond their CA
	Renew   bool     // sign the server's and all clients' certificates anew, for the same keys
	Force   bool     // make all anew, the CA and all keys included
	Now     time.Time
}

// Cert is one certificate of a directory.
type Cert struct {
	File     string // in the directory: server.crt
	Made     bool   // by this call
	Names    []string
	NotAfter time.Time
	Problem  string // what is wrong with it, and what to do; else empty
}

var clientName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// Validate reports the first option that cannot work, by its flag.
func (o Options) Validate() error {
	if o.Dir == "" {
		return errors.New("--tls-dir is empty: give the directory for the certificates")
	}
	if o.Days < 1 || o.Days > MaxDays {
		return fmt.Errorf("--days is %d, must be 1 to %d", o.Days, MaxDays)
	}
	if o.Renew && o.Force {
		return errors.New("--renew and --force exclude each other: the one keeps CA and keys, the other makes all anew")
	}
	for _, h := range o.Hosts {
		if !isHost(h) {
			return fmt.Errorf("--host %q is neither an address nor a host name; write no scheme and no port", h)
		}
	}
	for _, c := range o.Clients {
		if !clientName.MatchString(c) {
			return fmt.Errorf("--client %q is no name of letters, digits, dots and dashes, such as node7", c)
		}
	}
	return nil
}

var hostName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*$`)

func isHost(h string) bool {
	if a, err := netip.ParseAddr(h); err == nil {
		return a.Zone() == "" && !a.IsUnspecified()
	}
	return hostName.MatchString(h)
}

// Init makes what is missing, and no more unless told so. What is there is
// kept; a problem with it is told in the result. The CA's key is needed only
// if something is signed.
func Init(o Options) ([]Cert, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.CAKey == "" {
		o.CAKey = filepath.Join(o.Dir, CAKey)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("creating --tls-dir: %w", err)
	}
	ca, err := o.authority()
	if err != nil {
		return nil, err
	}
	made := []Cert{ca.describe()}
	uid, gid, err := o.owner()
	if err != nil {
		return nil, err
	}
	subjects, err := o.subjects()
	if err != nil {
		return nil, err
	}
	for _, s := range subjects {
		c, err := o.ensure(ca, s)
		if err != nil {
			return nil, err
		}
		made = append(made, c)
	}
	if err := os.Chown(filepath.Join(o.Dir, ServerKey), uid, gid); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("giving the server's key to --owner: %w", err)
	}
	if err := errors.Join(durable.SyncDir(o.Dir), durable.SyncDir(filepath.Dir(filepath.Clean(o.Dir)))); err != nil {
		return nil, err
	}
	return made, nil
}

// owner returns the IDs of Owner, -1 for the caller.
func (o Options) owner() (uid, gid int, err error) {
	if o.Owner == "" {
		return -1, -1, nil
	}
	u, err := user.Lookup(o.Owner)
	if err != nil {
		return 0, 0, fmt.Errorf("--owner %s: %w", o.Owner, err)
	}
	uid, err = strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(err, gerr)
}

// subject is what a certificate is for.
type subject struct {
	file  string // server, client, client-node7
	name  string // common name
	hosts []string
	usage []x509.ExtKeyUsage
}

// subjects lists the server, the client that there always is, the clients
// asked for, and those that are there already.
func (o Options) subjects() ([]subject, error) {
	all := []subject{
		// etcd shows its own certificate to itself, as a client.
		{"server", "twill-store", o.Hosts, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}},
		{"client", "twilld", nil, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	}
	names := o.Clients
	there, err := filepath.Glob(filepath.Join(o.Dir, "client-*.crt"))
	if err != nil {
		return nil, err
	}
	for _, file := range there {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "client-"), ".crt"))
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		all = append(all, subject{"client-" + name, name, nil, all[1].usage})
	}
	return all, nil
}

// ensure keeps the certificate of a subject or makes one.
func (o Options) ensure(ca *authority, s subject) (Cert, error) {
	certFile, keyFile := filepath.Join(o.Dir, s.file+".crt"), filepath.Join(o.Dir, s.file+".key")
	old, err := readCerts(certFile)
	switch {
	case err == nil && !o.Renew && !o.Force:
		return o.keep(ca, s, old[0], keyFile)
	case err != nil && !errors.Is(err, os.ErrNotExist) && !o.Force:
		return Cert{}, fmt.Errorf("%w: remove it, or give --force, which makes all anew", err)
	case err == nil && len(s.hosts) == 0:
		s.hosts = hostsOf(old[0])
	}
	if s.file == "server" && len(s.hosts) == 0 {
		if s.hosts, err = Hosts(); err != nil {
			return Cert{}, err
		}
	}
	key, err := o.key(keyFile)
	if err != nil {
		return Cert{}, err
	}
	cert, err := ca.sign(s, key, o.Now, o.Days)
	if err != nil {
		return Cert{}, fmt.Errorf("signing %s: %w", certFile, err)
	}
	if err := writeCert(certFile, cert); err != nil {
		return Cert{}, err
	}
	c := describe(s.file+".crt", cert, o.Now)
	c.Made = true
	return c, nil
}

// keep looks at a certificate that is there.
func (o Options) keep(ca *authority, s subject, old *x509.Certificate, keyFile string) (Cert, error) {
	c := describe(s.file+".crt", old, o.Now)
	for _, h := range o.Hosts {
		if s.file == "server" && old.VerifyHostname(h) != nil {
			return c, fmt.Errorf("%s is for %s and not for %s: give --renew to have it signed anew, and all its names as --host",
				filepath.Join(o.Dir, c.File), strings.Join(c.Names, ", "), h)
		}
	}
	key, err := readKey(keyFile)
	switch {
	case err != nil:
		c.Problem = err.Error() + ": give --renew"
	case !key.PublicKey.Equal(old.PublicKey):
		c.Problem = "is not for the key in " + keyFile + ": give --renew"
	case !ca.signed(old):
		c.Problem = "is not signed by " + CACert + ": give --renew"
	}
	return c, nil
}

// key returns the key in a file, or puts a new one there. A renewal keeps it:
// who reads both files meanwhile never finds half a pair.
func (o Options) key(file string) (*ecdsa.PrivateKey, error) {
	if !o.Force {
		if key, err := readKey(file); err == nil || !errors.Is(err, os.ErrNotExist) {
			return key, err
		}
	}
	return makeKey(file)
}

// List returns the certificates of a directory: with an error, those of the
// files that can be read.
func List(dir string, now time.Time) ([]Cert, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.crt"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there are no certificates (*.crt) in %s: give --tls-dir, or make some: twill store init", dir)
	}
	var all []Cert
	var errs []error
	for _, file := range files {
		certs, err := readCerts(file)
		errs = append(errs, err)
		for _, c := range certs {
			all = append(all, describe(filepath.Base(file), c, now))
		}
	}
	return all, errors.Join(errs...)
}

func describe(file string, c *x509.Certificate, now time.Time) Cert {
	out := Cert{File: file, Names: hostsOf(c), NotAfter: c.NotAfter}
	if len(out.Names) == 0 {
		out.Names = []string{c.Subject.CommonName}
	}
	switch left := c.NotAfter.Sub(now); {
	case left <= 0:
		out.Problem = "has expired: give --renew"
	case left < Soon:
		out.Problem = "expires soon: give --renew"
	}
	if c.IsCA && out.Problem != "" {
		out.Problem = strings.ReplaceAll(out.Problem, "give --renew", "exchange the CA")
	}
	return out
}

func hostsOf(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}
