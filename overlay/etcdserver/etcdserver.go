// Package etcdserver runs a single etcd member inside this process: the store
// of a cluster that has no etcd of its own, of the lab and of the tests; it
// backs one up and restores it. Only cmd/twill imports it, because it links
// etcd's server (some 20 MB); it imports nothing of this module but what is
// below it.
package etcdserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"

	"github.com/twill-net/twill/overlay/etcdserver/internal/durable"
	"github.com/twill-net/twill/overlay/etcdserver/pki"
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
	TLSDir            string // of package pki: stands for the four above

	AutoCompactionMode      string // "periodic" or "revision"
	AutoCompactionRetention string // a duration ("1h") or a number of revisions
	QuotaBackendBytes       int64  // 0: etcd's default, 2 GiB
	UnsafeNoFsync           bool   // a power cut may lose or break the data
	LogLevel                string // debug, info, warn, error
}

// DefaultConfig returns what an operator gets who chooses nothing: loopback
// without TLS, and every acknowledged write on disk.
func DefaultConfig() Config {
	return Config{
		Name: "twill", DataDir: "/var/lib/twill-store",
		ListenClientURLs:   []string{"http://127.0.0.1:2379"},
		AutoCompactionMode: "periodic", AutoCompactionRetention: "1h",
		QuotaBackendBytes: 2 << 30, LogLevel: "warn",
	}
}

// embedConfig validates c and translates it into etcd's own configuration.
func (c Config) embedConfig(g *guard) (*embed.Config, error) {
	if err := c.useTLSDir(); err != nil {
		return nil, err
	}
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
	cfg.InitialCluster, _ = initialCluster(c.Name)
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
	cfg.InitialClusterToken = newToken() // etcd reads it when there is no data yet
	level, err := zapcore.ParseLevel(c.LogLevel)
	if err != nil {
		return nil, fmt.Errorf("log-level is %q, must be debug, info, warn or error", c.LogLevel)
	}
	cfg.LogLevel = level.String()
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newLogger(level, g))
	return cfg, nil
}

// newToken returns what makes a cluster's ID, by which clients see that a store
// was made anew or restored.
func newToken() string { return rand.Text() }

// initialCluster returns the member list of a single member and its peer URL,
// which etcd compares with each other.
func initialCluster(name string) (cluster, peerURL string) {
	cfg := embed.NewConfig()
	return cfg.InitialClusterFromName(name), cfg.AdvertisePeerUrls[0].String()
}

// useTLSDir replaces TLSDir by what it stands for.
func (c *Config) useTLSDir() error {
	if c.TLSDir == "" {
		return nil
	}
	if c.CertFile != "" || c.KeyFile != "" || c.TrustedCAFile != "" {
		return errors.New("tls-dir stands for cert-file, key-file and trusted-ca-file: give the one or the others")
	}
	c.CertFile, c.KeyFile = filepath.Join(c.TLSDir, pki.ServerCert), filepath.Join(c.TLSDir, pki.ServerKey)
	c.TrustedCAFile, c.ClientCertAuth = filepath.Join(c.TLSDir, pki.CACert), true
	for _, f := range []string{c.CertFile, c.KeyFile, c.TrustedCAFile} {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("tls-dir: %w: make the certificates first: twill store init --tls-dir %s", err, c.TLSDir)
		}
	}
	for _, u := range c.ListenClientURLs {
		if strings.HasPrefix(u, "http://") {
			return fmt.Errorf("listen-client-urls has %s, which is not encrypted, though there is tls-dir: write https://", u)
		}
	}
	return nil
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
// cleanly. ready is called once, when clients are served and the data is on
// disk. A cancelled ctx is not an error.
func Run(ctx context.Context, c Config, ready func()) error {
	g := newGuard()
	cfg, err := c.embedConfig(g)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("creating the data directory: %w%s", err, hint(err, c.DataDir))
	}
	lock, err := lockDir(c.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := checkData(c.DataDir); err != nil {
		return fmt.Errorf("starting etcd in %s: %w%s", c.DataDir, err, hint(err, c.DataDir))
	}
	cfg.GRPCAdditionalServerOptions = []grpc.ServerOption{endStreams(ctx)}
	etcd, err := g.start(cfg)
	if err != nil {
		return fmt.Errorf("starting etcd in %s: %w%s", c.DataDir, err, hint(err, c.DataDir))
	}
	err = serve(ctx, g, etcd, c.DataDir, ready)
	if errors.As(err, new(damaged)) {
		return err
	}
	closed := make(chan struct{})
	go func() {
		etcd.Close()
		close(closed)
	}()
	select {
	case <-closed:
		return err
	case failed := <-g.failed:
		return errors.Join(err, fmt.Errorf("closing the data in %s: %w%s", c.DataDir, failed, hint(failed, c.DataDir)))
	}
}

// serve waits for the end of a member.
func serve(ctx context.Context, g *guard, etcd *embed.Etcd, dir string, ready func()) error {
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		return fmt.Errorf("starting etcd in %s: %w%s", dir, err, hint(err, dir))
	case err := <-g.failed:
		return fmt.Errorf("starting etcd in %s: %w%s", dir, damaged{err}, hint(damaged{err}, dir))
	case <-etcd.Server.StopNotify():
		return errors.New("etcd stopped before it was ready; its log above says why")
	case <-ctx.Done():
		return nil
	}
	if err := persist(dir); err != nil {
		return fmt.Errorf("making the data directory durable: %w", err)
	}
	ready()

	select {
	case <-ctx.Done():
		return nil
	case err := <-etcd.Err():
		return fmt.Errorf("serving clients: %w", err)
	case err := <-g.failed:
		return fmt.Errorf("serving from %s: %w%s", dir, damaged{err}, hint(damaged{err}, dir))
	case <-etcd.Server.StopNotify():
		return errors.New("etcd stopped by itself; its log above says why")
	}
}

// persist syncs the directories of the data. Etcd syncs its files, and of the
// directories only that of the log: those above, made a moment ago, would not
// be there after a power cut.
func persist(dir string) error {
	for _, d := range []string{"member/snap", "member/wal", "member", ".", ".."} {
		if err := durable.SyncDir(filepath.Join(dir, d)); err != nil && !errors.Is(err, os.ErrPermission) {
			return err
		}
	}
	return nil
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
