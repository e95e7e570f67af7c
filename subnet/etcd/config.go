package etcd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// Config says where the store is and how leases are kept. Make one with
// DefaultConfig; the error of a bad one names the flag (see RegisterFlags).
type Config struct {
	Endpoints []string // URLs, or host:port; all http or all https
	Prefix    string   // of all keys, as flannel's: "/coreos.com/network"

	CAFile            string // PEM; empty: the system's roots
	CertFile, KeyFile string // PEM; our client certificate
	Username          string
	Password          Secret

	LeaseTTL    time.Duration // how long a lease outlives its node, whole seconds
	RenewMargin time.Duration // renew at the latest so long before the end; 0: an hour, or half of a shorter LeaseTTL

	DialTimeout time.Duration // of a connection with its TLS handshake, and of each request

	Logger *logrus.Entry // nil: no logs
	// Health is told of trouble with the store, and with nil that all is well
	// again. It is called from any goroutine, one call at a time, and must not
	// call the Store.
	Health func(error)
}

// The limits of what Validate takes.
const (
	// A TTL must outlast the loss of etcd's leader and of a connection.
	minLeaseTTL = 5 * time.Second
	maxLeaseTTL = 10 * 365 * 24 * time.Hour
	maxMargin   = time.Hour // the default, as flannel's
)

// DefaultConfig returns flannel's defaults.
func DefaultConfig() Config {
	return Config{
		Endpoints:   []string{"http://127.0.0.1:2379"},
		Prefix:      "/coreos.com/network",
		LeaseTTL:    24 * time.Hour,
		DialTimeout: 5 * time.Second,
	}
}

// Validate reports the first setting that cannot work.
func (c Config) Validate() error {
	for _, check := range []func() error{c.checkCredentials, c.checkEndpoints, c.checkLease} {
		if err := check(); err != nil {
			return err
		}
	}
	if c.root() == "" {
		return fmt.Errorf("--etcd-prefix is %q; it must be a path such as /coreos.com/network", c.Prefix)
	}
	return nil
}

func (c Config) checkEndpoints() error {
	if len(c.Endpoints) == 0 {
		return errors.New("--etcd-endpoints is empty; it must name at least one URL such as http://127.0.0.1:2379")
	}
	first, err := scheme(c.Endpoints[0])
	if err != nil {
		return err
	}
	for _, e := range c.Endpoints[1:] {
		s, err := scheme(e)
		if err != nil {
			return err
		}
		// The etcd client decides by the first endpoint whether to encrypt.
		if s != first {
			return fmt.Errorf("--etcd-endpoints mixes %s and %s; all must be of one scheme", orNone(first), orNone(s))
		}
	}
	if files := c.tlsFiles(); len(files) > 0 && (first == "http" || first == "unix") {
		return fmt.Errorf("%s: TLS is wanted, but --etcd-endpoints has %s, which is not encrypted; use an https:// URL",
			strings.Join(files, " and "), c.Endpoints[0])
	}
	return nil
}

// scheme returns that of an endpoint, "" for host:port. The error does not
// repeat an endpoint with a user and password in it.
func scheme(endpoint string) (string, error) {
	const want = "such as http://127.0.0.1:2379 or https://etcd.example.com:2379"
	if !strings.Contains(endpoint, "://") {
		if _, port, err := net.SplitHostPort(endpoint); err != nil || port == "" || strings.ContainsAny(endpoint, "/@? ") {
			return "", fmt.Errorf("--etcd-endpoints: one is neither a URL %s nor host:port", want)
		}
		return "", nil
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return "", fmt.Errorf("--etcd-endpoints: one is no URL %s", want)
	case u.User != nil:
		return "", fmt.Errorf("--etcd-endpoints: the URL of %s has a user in it; use --etcd-username and --etcd-password", u.Host)
	case u.Scheme == "unix" || u.Scheme == "unixs":
		return u.Scheme, nil
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", strings.Trim(u.Path, "/") != "", u.RawQuery != "":
		return "", fmt.Errorf("--etcd-endpoints: %q is no URL %s", endpoint, want)
	}
	return u.Scheme, nil
}

func orNone(scheme string) string {
	if scheme == "" {
		return "host:port"
	}
	return scheme + "://"
}

func (c Config) tlsFiles() (flags []string) {
	for _, f := range []struct{ flag, file string }{
		{"--etcd-cafile", c.CAFile}, {"--etcd-certfile", c.CertFile}, {"--etcd-keyfile", c.KeyFile},
	} {
		if f.file != "" {
			flags = append(flags, f.flag)
		}
	}
	return flags
}

func (c Config) checkCredentials() error {
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("--etcd-certfile and --etcd-keyfile belong together: give both or neither")
	}
	if (c.Username == "") != (c.Password == "") {
		return errors.New("--etcd-username and --etcd-password belong together: give both or neither")
	}
	return nil
}

func (c Config) checkLease() error {
	if c.LeaseTTL < minLeaseTTL || c.LeaseTTL > maxLeaseTTL || c.LeaseTTL%time.Second != 0 {
		return fmt.Errorf("--lease-ttl is %s; it must be whole seconds, from %s to %s", c.LeaseTTL, minLeaseTTL, maxLeaseTTL)
	}
	if c.RenewMargin < 0 || c.RenewMargin >= c.LeaseTTL {
		return fmt.Errorf("--subnet-lease-renew-margin is %s; it must be more than 0 and less than --lease-ttl (%s)",
			c.RenewMargin, c.LeaseTTL)
	}
	if c.DialTimeout <= 0 {
		return fmt.Errorf("the dial timeout is %s; it must be more than 0", c.DialTimeout)
	}
	return nil
}

// renewInterval returns how often the lease is kept alive: often enough that
// two renewals may fail, that the margin is kept, and, since the margin bounds
// the interval, never longer than it.
func (c Config) renewInterval() time.Duration {
	margin := c.RenewMargin
	if margin == 0 {
		margin = min(maxMargin, c.LeaseTTL/2)
	}
	return min(c.LeaseTTL/3, margin, c.LeaseTTL-margin)
}

// root returns the prefix as flannel joins it: without a slash at its end.
func (c Config) root() string {
	p := path.Clean(c.Prefix)
	if c.Prefix == "" || p == "/" || p == "." {
		return ""
	}
	return p
}

// Secret is a password. Whatever prints it prints "[redacted]"; convert it to
// a string to use it.
type Secret string

const redacted = "[redacted]"

// String returns "[redacted]", or "" where there is no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format implements fmt.Formatter: for a verb that does not fit, fmt would
// print the plain value.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText keeps the secret out of JSON and of structured logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Set implements flag.Value.
func (s *Secret) Set(v string) error {
	*s = Secret(v)
	return nil
}
