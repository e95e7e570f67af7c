package etcd_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/etcd"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*etcd.Config)
		err    string
	}{
		"defaults":        {func(*etcd.Config) {}, ""},
		"several":         {func(c *etcd.Config) { c.Endpoints = []string{"http://a:1", "http://[::1]:2"} }, ""},
		"host and port":   {func(c *etcd.Config) { c.Endpoints = []string{"10.0.0.1:2379"} }, ""},
		"unix":            {func(c *etcd.Config) { c.Endpoints = []string{"unix:///run/etcd.sock"} }, ""},
		"https, no files": {func(c *etcd.Config) { c.Endpoints = []string{"https://a:1"} }, ""},
		"https, CA alone": {func(c *etcd.Config) { c.Endpoints, c.CAFile = []string{"https://a:1"}, "ca" }, ""},
		"https, certificate without CA": {func(c *etcd.Config) {
			c.Endpoints, c.CertFile, c.KeyFile = []string{"https://a:1"}, "cert", "key"
		}, ""},
		"none":          {func(c *etcd.Config) { c.Endpoints = nil }, "--etcd-endpoints is empty; it must name at least one URL such as http://127.0.0.1:2379"},
		"no port":       {func(c *etcd.Config) { c.Endpoints = []string{"192.0.2.1"} }, "--etcd-endpoints: one is neither a URL such as http://127.0.0.1:2379 or https://etcd.example.com:2379 nor host:port"},
		"empty one":     {func(c *etcd.Config) { c.Endpoints = []string{""} }, "--etcd-endpoints: one is neither a URL such as http://127.0.0.1:2379 or https://etcd.example.com:2379 nor host:port"},
		"other scheme":  {func(c *etcd.Config) { c.Endpoints = []string{"ftp://a"} }, `--etcd-endpoints: "ftp://a" is no URL such as http://127.0.0.1:2379 or https://etcd.example.com:2379`},
		"with a path":   {func(c *etcd.Config) { c.Endpoints = []string{"http://a:1/v2"} }, `--etcd-endpoints: "http://a:1/v2" is no URL such as http://127.0.0.1:2379 or https://etcd.example.com:2379`},
		"unreadable":    {func(c *etcd.Config) { c.Endpoints = []string{"http://root:hunter2@a:x"} }, "--etcd-endpoints: one is no URL such as http://127.0.0.1:2379 or https://etcd.example.com:2379"},
		"with a user":   {func(c *etcd.Config) { c.Endpoints = []string{"http://root:hunter2@a:1"} }, "--etcd-endpoints: the URL of a:1 has a user in it; use --etcd-username and --etcd-password"},
		"mixed":         {func(c *etcd.Config) { c.Endpoints = []string{"https://a:1", "http://b:1"} }, "--etcd-endpoints mixes https:// and http://; all must be of one scheme"},
		"mixed, second": {func(c *etcd.Config) { c.Endpoints = []string{"a:1", "http://b:1"} }, "--etcd-endpoints mixes host:port and http://; all must be of one scheme"},
		"http with TLS files": {func(c *etcd.Config) { c.CAFile, c.CertFile, c.KeyFile = "ca", "cert", "key" },
			"--etcd-cafile and --etcd-certfile and --etcd-keyfile: TLS is wanted, but --etcd-endpoints has http://127.0.0.1:2379, which is not encrypted; use an https:// URL"},
		"certificate without key": {func(c *etcd.Config) { c.Endpoints, c.CertFile = []string{"https://a:1"}, "cert" },
			"--etcd-certfile and --etcd-keyfile belong together: give both or neither"},
		"key without certificate": {func(c *etcd.Config) { c.Endpoints, c.KeyFile = []string{"https://a:1"}, "key" },
			"--etcd-certfile and --etcd-keyfile belong together: give both or neither"},
		"user without password": {func(c *etcd.Config) { c.Username = "root" }, "--etcd-username and --etcd-password belong together: give both or neither"},
		"password without user": {func(c *etcd.Config) { c.Password = "hunter2" }, "--etcd-username and --etcd-password belong together: give both or neither"},
		"short TTL":             {func(c *etcd.Config) { c.LeaseTTL = time.Second }, "--lease-ttl is 1s; it must be whole seconds, from 5s to 87600h0m0s"},
		"broken TTL":            {func(c *etcd.Config) { c.LeaseTTL = 5500 * time.Millisecond }, "--lease-ttl is 5.5s; it must be whole seconds, from 5s to 87600h0m0s"},
		"margin too large":      {func(c *etcd.Config) { c.RenewMargin = 24 * time.Hour }, "--subnet-lease-renew-margin is 24h0m0s; it must be more than 0 and less than --lease-ttl (24h0m0s)"},
		"margin negative":       {func(c *etcd.Config) { c.RenewMargin = -1 }, "--subnet-lease-renew-margin is -1ns; it must be more than 0 and less than --lease-ttl (24h0m0s)"},
		"no dial timeout":       {func(c *etcd.Config) { c.DialTimeout = 0 }, "the dial timeout is 0s; it must be more than 0"},
		"no prefix":             {func(c *etcd.Config) { c.Prefix = "" }, `--etcd-prefix is ""; it must be a path such as /coreos.com/network`},
		"root prefix":           {func(c *etcd.Config) { c.Prefix = "//" }, `--etcd-prefix is "//"; it must be a path such as /coreos.com/network`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := etcd.DefaultConfig()
			tt.change(&cfg)
			err := cfg.Validate()
			if tt.err == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tt.err)
			require.NotContains(t, err.Error(), "hunter2")
			_, err = etcd.New(cfg)
			require.EqualError(t, err, tt.err)
		})
	}
}

func TestUnusableTLSFiles(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	cfg := etcd.DefaultConfig()
	cfg.Endpoints = []string{"https://127.0.0.1:1"}
	cfg.CAFile = "/nonexistent/ca.pem"
	_, err := etcd.New(cfg)
	require.EqualError(t, err, "reading --etcd-cafile: open /nonexistent/ca.pem: no such file or directory")
	cfg.CAFile = empty
	_, err = etcd.New(cfg)
	require.EqualError(t, err, "reading --etcd-cafile "+empty+": it holds no PEM certificate")
	cfg.CAFile, cfg.CertFile, cfg.KeyFile = "", empty, empty
	_, err = etcd.New(cfg)
	require.EqualError(t, err, "reading --etcd-certfile "+empty+" and --etcd-keyfile "+empty+": tls: failed to find any PEM data in certificate input")
}

func TestSecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	cfg := etcd.DefaultConfig()
	cfg.Username, cfg.Password = "root", "hunter2"
	var all strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T %v"} {
		for _, v := range []any{cfg, &cfg, cfg.Password, &cfg.Password, []etcd.Secret{cfg.Password}} {
			if verb == "%T %v" {
				fmt.Fprintf(&all, verb, v, v)
			} else {
				fmt.Fprintf(&all, verb, v)
			}
		}
	}
	for _, f := range []logrus.Formatter{&logrus.TextFormatter{}, &logrus.JSONFormatter{}} {
		log := logrus.New()
		log.SetOutput(&all)
		log.SetFormatter(f)
		log.WithField("password", cfg.Password).WithField("all", fmt.Sprint(cfg)).Info(cfg.Password)
	}
	b, err := json.Marshal(map[string]any{"p": cfg.Password})
	require.NoError(t, err)
	require.JSONEq(t, `{"p":"[redacted]"}`, string(b))
	fs := flag.NewFlagSet("x", flag.ContinueOnError)
	fs.SetOutput(&all)
	cfg.RegisterFlags(fs)
	cfg.RegisterLeaseFlags(fs)
	fs.PrintDefaults()
	require.Error(t, fs.Parse([]string{"-etcd-password=hunter2", "-etcd-username=root", "-nonsense"}))
	require.NotContains(t, all.String(), "hunter2")
	require.NotContains(t, all.String(), fmt.Sprintf("%x", "hunter2"))
	require.Contains(t, all.String(), "[redacted]")
	require.Equal(t, "hunter2", string(cfg.Password), "who uses it converts it")
	require.Empty(t, etcd.Secret("").String())
}

func TestFlags(t *testing.T) {
	t.Parallel()
	parse := func(args ...string) (etcd.Config, error) {
		cfg := etcd.DefaultConfig()
		fs := flag.NewFlagSet("x", flag.ContinueOnError)
		fs.SetOutput(&strings.Builder{})
		cfg.RegisterFlags(fs)
		cfg.RegisterLeaseFlags(fs)
		return cfg, fs.Parse(args)
	}
	cfg, err := parse()
	require.NoError(t, err)
	require.Equal(t, []string{"http://127.0.0.1:2379"}, cfg.Endpoints)
	require.Equal(t, "/coreos.com/network", cfg.Prefix)
	require.Equal(t, 24*time.Hour, cfg.LeaseTTL)
	require.Zero(t, cfg.RenewMargin)

	cfg, err = parse("-etcd-endpoints=http://a:1, http://b:1", "--etcd-endpoints", "http://c:1", "--etcd-prefix=/x", "--etcd-cafile=ca",
		"--etcd-certfile=cert", "--etcd-keyfile=key", "--etcd-username=u", "--etcd-password=p", "--lease-ttl=90s", "--subnet-lease-renew-margin=30s")
	require.NoError(t, err)
	require.Equal(t, etcd.Config{
		Endpoints: []string{"http://a:1", "http://b:1", "http://c:1"}, Prefix: "/x", CAFile: "ca", CertFile: "cert", KeyFile: "key",
		Username: "u", Password: "p", LeaseTTL: 90 * time.Second, RenewMargin: 30 * time.Second, DialTimeout: cfg.DialTimeout,
	}, cfg)

	cfg, err = parse("--subnet-lease-renew-margin=45") // flannel's form
	require.NoError(t, err)
	require.Equal(t, 45*time.Minute, cfg.RenewMargin)
	for _, bad := range []string{"0", "-1", "x", "0s"} {
		_, err = parse("--subnet-lease-renew-margin=" + bad)
		require.EqualError(t, err, fmt.Sprintf("invalid value %q for flag -subnet-lease-renew-margin: it must be a number of minutes or a duration such as 45m, more than 0", bad))
	}
}
