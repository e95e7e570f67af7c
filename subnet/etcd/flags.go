package etcd

import (
	"errors"
	"flag"
	"strconv"
	"strings"
	"time"
)

// RegisterFlags adds the flags of the connection, with flannel's names, to fs;
// c holds the defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.Var(&list{dst: &c.Endpoints}, "etcd-endpoints", "`URLs` of etcd, comma separated or repeated; all http:// or all https://; host:port is http://, or https:// where a CA or a certificate is given")
	fs.StringVar(&c.Prefix, "etcd-prefix", c.Prefix, "`path` in etcd below which everything is kept")
	fs.StringVar(&c.CAFile, "etcd-cafile", c.CAFile, "`file` (PEM) with the CA of etcd's certificate; by itself it is enough for TLS (default: the system's CAs)")
	fs.StringVar(&c.CertFile, "etcd-certfile", c.CertFile, "`file` (PEM) with our client certificate")
	fs.StringVar(&c.KeyFile, "etcd-keyfile", c.KeyFile, "`file` (PEM) with its private key")
	fs.StringVar(&c.Username, "etcd-username", c.Username, "`name` of our etcd user")
	fs.Var(&c.Password, "etcd-password", "its `password`; better in the environment, where other users cannot see it")
}

// RegisterLeaseFlags adds the flags of a node that holds a lease.
func (c *Config) RegisterLeaseFlags(fs *flag.FlagSet) {
	fs.DurationVar(&c.LeaseTTL, "lease-ttl", c.LeaseTTL, "how long a lease outlives its node, a `duration` such as 24h or 90m")
	fs.Var((*minutes)(&c.RenewMargin), "subnet-lease-renew-margin",
		"renew the lease at the latest so long before its end and at least so often, as `minutes` or a duration (default: 60, or half of a shorter --lease-ttl)")
}

// list is a flag.Value of comma separated strings. The first Set replaces the
// default, a further one adds.
type list struct {
	dst *[]string
	set bool
}

func (l *list) String() string {
	if l.dst == nil {
		return ""
	}
	return strings.Join(*l.dst, ",")
}

func (l *list) Set(v string) error {
	if !l.set {
		*l.dst = nil
	}
	l.set = true
	for s := range strings.SplitSeq(v, ",") {
		if s = strings.TrimSpace(s); s != "" {
			*l.dst = append(*l.dst, s)
		}
	}
	return nil
}

// minutes is flannel's form of the renew margin, a plain number; we take a
// duration as well.
type minutes time.Duration

func (m *minutes) String() string {
	if *m == 0 {
		return ""
	}
	return time.Duration(*m).String()
}

func (m *minutes) Set(v string) error {
	d, err := time.ParseDuration(v)
	if n, nerr := strconv.ParseInt(v, 10, 32); nerr == nil {
		d, err = time.Duration(n)*time.Minute, nil
	}
	if err != nil || d <= 0 {
		return errors.New("it must be a number of minutes or a duration such as 45m, more than 0")
	}
	*m = minutes(d)
	return nil
}
