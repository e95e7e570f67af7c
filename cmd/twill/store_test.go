package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// do runs a command of twill in this process.
func do(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.ExecuteContext(ctx)
	return out.String(), errs.String(), err
}

// patiently is do, again and again while the store, on a busy machine, does not
// answer within the time that a command gives it.
func patiently(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		stdout, stderr, err = do(ctx, args...)
		if !strings.Contains(fmt.Sprint(stdout, err), "no answer within") || time.Now().After(deadline) {
			return stdout, stderr, err
		}
	}
}

// The service as a service manager runs it: configured by the environment,
// READY=1 when clients are served; and all that an operator does with it.
func TestStoreAsAService(t *testing.T) {
	dir, err := os.MkdirTemp("", "twill-store-") // short: a socket's path has 108 bytes
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	require.NoError(t, err)
	defer manager.Close()
	host := ownLoopback()
	tlsDir, endpoint := filepath.Join(dir, "tls"), "https://"+host+":2379"
	for name, value := range map[string]string{
		"NOTIFY_SOCKET":                  filepath.Join(dir, "notify"),
		"TWILL_STORE_TLS_DIR":            tlsDir,
		"TWILL_STORE_HOST":               "192.0.2.10,store.example.com," + host,
		"TWILL_STORE_DATA_DIR":           filepath.Join(dir, "data"),
		"TWILL_STORE_BACKUP_DIR":         filepath.Join(dir, "backups"),
		"TWILL_STORE_UNSAFE_NO_FSYNC":    "true",
		"TWILLD_ETCD_ENDPOINTS":          endpoint,
		"TWILLD_ETCD_CAFILE":             filepath.Join(tlsDir, "ca.crt"),
		"TWILLD_ETCD_CERTFILE":           filepath.Join(tlsDir, "server.crt"),
		"TWILLD_ETCD_KEYFILE":            filepath.Join(tlsDir, "server.key"),
		"TWILL_STORE_LISTEN_CLIENT_URLS": endpoint,
	} {
		t.Setenv(name, value)
	}
	good := func(args ...string) string {
		t.Helper()
		out, _, err := patiently(t.Context(), args...)
		require.NoError(t, err, out)
		return out
	}
	out := good("store", "init")
	require.Contains(t, out, "store.example.com,localhost,192.0.2.10,"+host+",127.0.0.1,::1")
	require.Contains(t, out, "  TWILLD_ETCD_ENDPOINTS=https://192.0.2.10:2379\n", "an address needs no DNS")
	require.Contains(t, out, "  TWILLD_IP_MASQ=true\n")
	require.Contains(t, out, "  systemctl enable --now twill-store twill-store-backup.timer\n")
	require.Contains(t, out, "  twill config set net-conf.json ")
	require.NotContains(t, good("store", "certs"), "new")
	spoilt := filepath.Join(tlsDir, "client-x.crt")
	require.NoError(t, os.WriteFile(spoilt, nil, 0o644), "it is the store's business no more than a warning")
	out, _, err = do(t.Context(), "store", "certs")
	require.ErrorContains(t, err, spoilt+": it holds no PEM")
	require.Contains(t, out, filepath.Join(tlsDir, "server.crt"))

	ctx, stop := context.WithCancel(t.Context())
	done, warned := make(chan error, 1), ""
	go func() {
		var err error
		_, warned, err = do(ctx, "store")
		done <- err
	}()
	told := ""
	for !strings.Contains(told, "READY=1") {
		b := make([]byte, 4096)
		require.NoError(t, manager.SetReadDeadline(time.Now().Add(2*time.Minute)))
		n, err := manager.Read(b)
		require.NoError(t, err, "told so far: %s", told)
		told += string(b[:n]) + "\n"
	}
	require.Contains(t, good("store", "status"), endpoint+": etcd 3.")
	plain := strings.Replace(endpoint, "https:", "http:", 1)
	out, _, err = patiently(t.Context(), "store", "status", "--etcd-endpoints", plain, "--etcd-cafile=", "--etcd-certfile=", "--etcd-keyfile=")
	require.ErrorIs(t, err, errSaid)
	require.Contains(t, out, "does the store at "+plain+" speak TLS? use https://")
	require.Contains(t, good("store", "backup"), "saved "+filepath.Join(dir, "backups", "twill-store-2"))
	future := filepath.Join(dir, "backups", "twill-store-20990101T000000Z.db")
	require.NoError(t, os.WriteFile(future, nil, 0o600))
	out, warning, err := patiently(t.Context(), "store", "backup", "--backup-keep=1")
	require.NoError(t, err)
	require.Contains(t, warning, "from the future, and are neither counted by --backup-keep nor deleted: "+filepath.Base(future)+";")
	saved, _, _ := strings.Cut(strings.TrimPrefix(out, "saved "), ": ")
	require.FileExists(t, saved)
	file := filepath.Join(dir, "one.db")
	require.Contains(t, good("store", "backup", file), "saved "+file+": 0 keys, revision 0, ")
	require.Contains(t, good("store", "defrag"), endpoint+": etcd 3.")
	_, _, err = patiently(t.Context(), "store", "restore", file)
	require.ErrorContains(t, err, "another process serves it")
	other := filepath.Join(dir, "other")
	require.Contains(t, good("store", "restore", "--data-dir", other, file), "it is in "+other)

	// A certificate that ends soon is named where it is used.
	require.NoError(t, os.Remove(spoilt))
	good("store", "init", "--renew", "--days=20")
	out, warning, err = patiently(t.Context(), "store", "status")
	require.NoError(t, err, out)
	require.Contains(t, warning, "etcd's certificate (twill-store) ends on ")
	out, _, err = patiently(t.Context(), "store", "certs")
	require.ErrorIs(t, err, errSaid)
	require.Contains(t, out, "expires soon: give --renew")

	stop()
	require.NoError(t, <-done)
	require.Contains(t, warned, spoilt+": it holds no PEM")
	out, _, err = patiently(t.Context(), "store", "status")
	require.ErrorIs(t, err, errSaid)
	require.Contains(t, out, "connection refused")
	require.Contains(t, good("store", "backup", "--from-data-dir", filepath.Join(dir, "data"), file), "saved "+file)
}

// ownLoopback returns an address of this machine that nobody else uses. A port
// that was free on 127.0.0.1 may be taken when it is wanted.
func ownLoopback() string {
	octet := func() byte { return byte(1 + rand.IntN(254)) }
	return netip.AddrFrom4([4]byte{127, octet(), octet(), octet()}).String()
}

func TestStoreCommandsRefuse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"init: URL as host":     {[]string{"init", "--tls-dir", dir, "--host", "http://a"}, `--host "http://a" is neither an address nor a host name`},
		"init: days":            {[]string{"init", "--tls-dir", dir, "--days", "0"}, "--days is 0, must be 1 to 3653"},
		"init: owner":           {[]string{"init", "--tls-dir", dir, "--owner", "no-such-user"}, "--owner no-such-user: user: unknown user"},
		"init: argument":        {[]string{"init", "here"}, `unknown command "here"`},
		"certs: none":           {[]string{"certs", "--tls-dir", dir + "/none"}, "make some: twill store init"},
		"backup: endpoint":      {[]string{"backup", "--etcd-endpoints", "ftp://a", dir + "/x"}, `--etcd-endpoints: "ftp://a" is no URL`},
		"backup: nobody there":  {[]string{"backup", "--etcd-endpoints", "http://127.0.0.1:1", dir + "/x"}, "saving a snapshot of http://127.0.0.1:1: "},
		"backup: keep":          {[]string{"backup", "--backup-dir", dir, "--backup-keep", "0"}, "--backup-keep is 0, must be 1 at least"},
		"backup: no CA":         {[]string{"backup", "--etcd-endpoints", "https://a:1", "--etcd-cafile", dir + "/none", dir + "/x"}, "reading --etcd-cafile, --etcd-certfile and --etcd-keyfile: "},
		"backup: offline, file": {[]string{"backup", "--from-data-dir", dir}, "--from-data-dir needs a FILE"},
		"backup: offline, data": {[]string{"backup", "--from-data-dir", dir, dir + "/x"}, "looking for the data of a store"},
		"restore: no file":      {[]string{"restore"}, "usage: twill store restore FILE"},
		"restore: missing":      {[]string{"restore", "--data-dir", dir + "/d", dir + "/none"}, dir + "/none: no such file or directory"},
		"restore: bump":         {[]string{"restore", "--bump-revision", "-1", dir}, `invalid argument "-1" for "--bump-revision"`},
		"run: no certificates":  {[]string{"--tls-dir", dir + "/none"}, "make the certificates first: twill store init"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := do(t.Context(), append([]string{"store"}, tt.args...)...)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestStoreEnvironment(t *testing.T) {
	t.Setenv("TWILL_STORE_DATA_DIR", t.TempDir())
	t.Setenv("TWILL_STORE_QUOTA_BACKEND_BYTES", "much")
	_, _, err := do(t.Context(), "store")
	require.ErrorContains(t, err, `environment variable TWILL_STORE_QUOTA_BACKEND_BYTES: "much": `)
	t.Setenv("TWILL_STORE_QUOTA_BACKEND_BYTES", "")
	t.Setenv("TWILL_STORE_LOG_LEVEL", "loud")
	_, _, err = do(t.Context(), "store")
	require.ErrorContains(t, err, `log-level is "loud"`)
	_, _, err = do(t.Context(), "store", "--log-level=quiet")
	require.ErrorContains(t, err, `log-level is "quiet"`, "the flag wins")
}
