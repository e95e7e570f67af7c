// Package etcdserver runs a single etcd member inside this process: the store
// of a cluster that has no etcd of its own, of the lab and of the tests. Only
// cmd/twill imports it, because it links etcd's server (some 20 MB); it
// imports nothing else of this module.
package etcdserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
)

// Config is what an operator may choose. The field names follow etcd's flags
// (https://etcd.io/docs/v3.7/op-guide/configuration/).
type Config struct {
	Name    string // member name
	DataDir string // created with mode 0700

	ListenClientURLs    []string // http://, https:// or unix:// URLs with an IP address
	AdvertiseClientURLs []string // empty: ListenClientURLs

	CertFile, KeyFile string // the server's certificate; needed for https://
	TrustedCAFile     string // CA of client certificates
	ClientCertAuth    bool   // demand a client certificate

	AutoCompactionMode      string // "periodic" or "revision"
	AutoCompactionRetention string // a duration ("1h") or a number of revisions
	QuotaBackendBytes       int64  // 0: etcd's default, 2 GiB
	UnsafeNoFsync           bool   // a power cut may lose or break the data
	LogLevel                string // debug, info, warn, error
}

// embedConfig validates c and translates it into etcd's own configuration.
func (c Config) embedConfig() (*embed.Config, error) {
	listen, err := parseURLs("listen-client-urls", c.ListenClientURLs)
	if err != nil {
		return nil, err
	}
	advertise := listen
	if len(c.AdvertiseClientURLs) > 0 {
		if advertise, err = parseURLs("advertise-client-urls", c.AdvertiseClientURLs); err != nil {
			return nil, err
		}
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return nil, errors.New("cert-file and key-file belong together: give both or neither")
	}
	if c.ClientCertAuth && c.TrustedCAFile == "" {
		return nil, errors.New("client-cert-auth needs trusted-ca-file: the CA that client certificates are checked against")
	}
	if c.CertFile == "" && c.TrustedCAFile != "" {
		return nil, errors.New("trusted-ca-file has no effect without cert-file and key-file: give them, too")
	}
	cfg := embed.NewConfig()
	cfg.Name = c.Name
	cfg.Dir = c.DataDir
	cfg.ListenClientUrls = listen
	cfg.AdvertiseClientUrls = advertise
	// A single member has no peers. It listens for none: the peer port knows
	// no password. The advertised URL is a name in the member list, no more.
	cfg.ListenPeerUrls = nil
	cfg.InitialCluster = cfg.InitialClusterFromName(c.Name)
	// Nor need it wait a second for other candidates before it leads.
	cfg.TickMs, cfg.ElectionMs = 50, 250
	cfg.ClientTLSInfo.CertFile = c.CertFile
	cfg.ClientTLSInfo.KeyFile = c.KeyFile
	cfg.ClientTLSInfo.TrustedCAFile = c.TrustedCAFile
	cfg.ClientTLSInfo.ClientCertAuth = c.ClientCertAuth
	cfg.AutoCompactionMode = c.AutoCompactionMode
	cfg.AutoCompactionRetention = c.AutoCompactionRetention
	cfg.QuotaBackendBytes = c.QuotaBackendBytes
	cfg.UnsafeNoFsync = c.UnsafeNoFsync
	// The token goes into the cluster ID, by which clients see that a store was
	// made anew; etcd reads it when there is no data yet.
	cfg.InitialClusterToken = rand.Text()
	level, err := zapcore.ParseLevel(c.LogLevel)
	if err != nil {
		return nil, fmt.Errorf("log-level is %q, must be debug, info, warn or error", c.LogLevel)
	}
	cfg.LogLevel = level.String()
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newLogger(level))
	return cfg, nil
}

func parseURLs(flag string, in []string) ([]url.URL, error) {
	if len(in) == 0 {
		return nil, fmt.Errorf("%s is empty: give at least one URL such as http://127.0.0.1:2379", flag)
	}
	var out []url.URL
	for _, s := range in {
		u, err := url.Parse(s)
		if err != nil || (u.Host == "" && u.Path == "") || !slices.Contains([]string{"http", "https", "unix", "unixs"}, u.Scheme) {
			return nil, fmt.Errorf("%s: %q is no URL such as http://127.0.0.1:2379 or unix:///run/etcd.sock", flag, s)
		}
		out = append(out, *u)
	}
	return out, nil
}

// Run serves until ctx is done or the member fails, and closes the data
// cleanly. ready is called once, when clients are served. A cancelled ctx is
// not an error.
func Run(ctx context.Context, c Config, ready func()) error {
	cfg, err := c.embedConfig()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("creating the data directory: %w", err)
	}
	lock, err := lockDir(c.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	cfg.GRPCAdditionalServerOptions = []grpc.ServerOption{endStreams(ctx)}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("starting etcd in %s: %w%s", c.DataDir, err, hint(err))
	}
	defer etcd.Close()

	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		return fmt.Errorf("starting etcd in %s: %w%s", c.DataDir, err, hint(err))
	case <-etcd.Server.StopNotify():
		return errors.New("etcd stopped before it was ready; its log above says why")
	case <-ctx.Done():
		return nil
	}
	ready()

	select {
	case <-ctx.Done():
		return nil
	case err := <-etcd.Err():
		return fmt.Errorf("serving clients: %w", err)
	case <-etcd.Server.StopNotify():
		return errors.New("etcd stopped by itself; its log above says why")
	}
}

// lockDir makes sure that one process at a time serves dir. Without it etcd
// waits in silence for the lock of its database. The lock goes with the
// returned file, or with the process; flock(2).
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking the data directory %s: %w: another process serves it; stop that or choose another data-dir", dir, err)
	}
	return f, nil
}

// hint says what to do about an error that an operator can mend.
func hint(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return ": another process listens there; stop it or choose other listen-client-urls"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return ": this host has no such address; choose other listen-client-urls"
	}
	return ""
}
