package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/etcdserver/pki"
)

func options(dir string) pki.Options {
	return pki.Options{Dir: dir, Hosts: []string{"store.example.com", "192.0.2.10", "fd00::10"}, Days: 100, Now: time.Now()}
}

func initialise(t *testing.T, o pki.Options) []pki.Cert {
	t.Helper()
	certs, err := pki.Init(o)
	require.NoError(t, err)
	return certs
}

// contents returns the files of a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	files := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		files[e.Name()] = string(text)
	}
	return files
}

// changed returns the names of the files that differ.
func changed(before, after map[string]string) (names []string) {
	for name, text := range after {
		if before[name] != text {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// handshake connects a client to a server as etcd and twilld do: each shows
// its certificate, each checks the other's.
func handshake(t *testing.T, serverDir, clientDir, client, name string) error {
	t.Helper()
	pair := func(dir, name string) tls.Certificate {
		cert, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		require.NoError(t, err)
		return cert
	}
	pool := func(dir string) *x509.CertPool {
		text, err := os.ReadFile(filepath.Join(dir, pki.CACert))
		require.NoError(t, err)
		p := x509.NewCertPool()
		require.True(t, p.AppendCertsFromPEM(text))
		return p
	}
	a, b := net.Pipe()
	defer a.Close()
	server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{pair(serverDir, "server")}, ClientCAs: pool(serverDir), ClientAuth: tls.RequireAndVerifyClientCert})
	done := make(chan error, 1)
	go func() {
		done <- server.Handshake()
		_ = a.Close()
	}()
	c := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{pair(clientDir, client)}, RootCAs: pool(clientDir), ServerName: name})
	err := c.Handshake()
	_ = b.Close()
	if serverErr := <-done; err == nil {
		err = serverErr
	}
	return err
}

func TestInit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tls")
	o := options(dir)
	o.Clients = []string{"node7"}
	certs := initialise(t, o)
	require.Len(t, certs, 4)
	for _, c := range certs {
		require.True(t, c.Made, c.File)
		require.Empty(t, c.Problem, c.File)
	}
	first := contents(t, dir)
	require.Len(t, first, 8, "no temporary file stays")
	for name := range first {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		want := os.FileMode(0o644)
		if strings.HasSuffix(name, ".key") {
			want = 0o600
		}
		require.Equal(t, want, info.Mode(), name)
	}
	for _, name := range []string{"store.example.com", "192.0.2.10", "fd00::10", "localhost", "127.0.0.1", "::1"} {
		require.NoError(t, handshake(t, dir, dir, "client", name), name)
		require.NoError(t, handshake(t, dir, dir, "client-node7", name), name)
	}
	require.NoError(t, handshake(t, dir, dir, "server", "127.0.0.1"), "etcd shows its certificate to itself")
	require.ErrorContains(t, handshake(t, dir, dir, "client", "elsewhere"), "not elsewhere")

	t.Run("again", func(t *testing.T) {
		for _, c := range initialise(t, options(dir)) {
			require.False(t, c.Made, c.File)
			require.Empty(t, c.Problem, c.File)
		}
		require.Equal(t, first, contents(t, dir))
	})

	other := options(filepath.Join(t.TempDir(), "other"))
	initialise(t, other)
	require.ErrorContains(t, handshake(t, dir, other.Dir, "client", "127.0.0.1"), "unknown authority")
}

func TestLater(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := options(dir)
	initialise(t, o)

	t.Run("another client", func(t *testing.T) {
		before := contents(t, dir)
		o := options(dir)
		o.Hosts, o.Clients = nil, []string{"node8"}
		initialise(t, o)
		require.Equal(t, []string{"client-node8.crt", "client-node8.key"}, changed(before, contents(t, dir)))
		require.NoError(t, handshake(t, dir, dir, "client-node8", "127.0.0.1"))
	})

	t.Run("renewal", func(t *testing.T) {
		before := contents(t, dir)
		o := options(dir)
		o.Hosts, o.Renew, o.Days = nil, true, 200
		certs := initialise(t, o)
		require.Equal(t, []string{"client-node8.crt", "client.crt", "server.crt"}, changed(before, contents(t, dir)))
		require.WithinDuration(t, o.Now.AddDate(0, 0, 200), certs[1].NotAfter, time.Minute)
		require.NoError(t, handshake(t, dir, dir, "client-node8", "store.example.com"), "it has the names it had")
	})

	t.Run("another address", func(t *testing.T) {
		before := contents(t, dir)
		o := options(dir)
		o.Hosts = []string{"192.0.2.11"}
		_, err := pki.Init(o)
		require.ErrorContains(t, err, "and not for 192.0.2.11: give --renew")
		require.Equal(t, before, contents(t, dir))
		o.Renew = true
		initialise(t, o)
		require.NoError(t, handshake(t, dir, dir, "client", "192.0.2.11"))
		require.NoError(t, handshake(t, dir, dir, "client", "localhost"))
		require.Error(t, handshake(t, dir, dir, "client", "192.0.2.10"))
	})

	t.Run("killed between key and certificate", func(t *testing.T) {
		require.NoError(t, os.Remove(filepath.Join(dir, "client.crt")))
		before := contents(t, dir)
		initialise(t, pki.Options{Dir: dir, Days: 100, Now: time.Now()})
		require.Equal(t, []string{"client.crt"}, changed(before, contents(t, dir)))
		require.NoError(t, handshake(t, dir, dir, "client", "localhost"))
	})

	t.Run("all anew", func(t *testing.T) {
		before := contents(t, dir)
		o := options(dir)
		o.Force = true
		initialise(t, o)
		require.Len(t, changed(before, contents(t, dir)), len(before))
		require.NoError(t, handshake(t, dir, dir, "client-node8", "192.0.2.10"))
	})
}

// The CA's key is kept elsewhere: nothing needs it but signing.
func TestKeyOfTheCA(t *testing.T) {
	t.Parallel()
	dir, safe := t.TempDir(), filepath.Join(t.TempDir(), "safe.key")
	initialise(t, options(dir))
	require.NoError(t, os.Rename(filepath.Join(dir, pki.CAKey), safe))
	for _, c := range initialise(t, options(dir)) {
		require.Empty(t, c.Problem)
	}
	o := options(dir)
	o.Clients = []string{"node9"}
	_, err := pki.Init(o)
	require.ErrorContains(t, err, "the CA's key is needed for it")
	require.ErrorContains(t, err, "say where it is kept with --ca-key")
	o.CAKey = safe
	initialise(t, o)
	require.NoError(t, handshake(t, dir, dir, "client-node9", "localhost"))

	o = options(t.TempDir())
	initialise(t, o)
	o.Clients, o.CAKey = []string{"node9"}, safe
	_, err = pki.Init(o)
	require.ErrorContains(t, err, "is not that of the CA in ca.crt: give the right one with --ca-key")

	require.NoError(t, os.Remove(filepath.Join(o.Dir, pki.CACert)))
	o.CAKey = ""
	_, err = pki.Init(o)
	require.ErrorContains(t, err, "ca.key without its certificate")
}

// One CA is exchanged for another as the documentation has it, and at no
// moment do server and client refuse each other.
func TestExchangeOfTheCA(t *testing.T) {
	t.Parallel()
	server, client, fresh := t.TempDir(), t.TempDir(), t.TempDir()
	initialise(t, options(server))
	require.NoError(t, os.CopyFS(client, os.DirFS(server)))
	initialise(t, options(fresh))
	with := func(dirs []string, files map[string]string) {
		for _, dir := range dirs {
			for name, text := range files {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
				require.NoError(t, handshake(t, server, client, "client", "localhost"), "%s in %s", name, dir)
			}
		}
	}
	was, is := contents(t, server), contents(t, fresh)
	with([]string{server, client}, map[string]string{pki.CACert: is[pki.CACert] + was[pki.CACert]})
	certs, err := pki.List(server, time.Now())
	require.NoError(t, err)
	require.Len(t, certs, 4, "both CAs are listed")
	for _, dir := range []string{server, client} {
		for _, kind := range []string{"server", "client"} {
			for _, ext := range []string{".crt", ".key"} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, kind+ext), []byte(is[kind+ext]), 0o600))
			}
			require.NoError(t, handshake(t, server, client, "client", "localhost"))
		}
	}
	with([]string{client, server}, map[string]string{pki.CACert: is[pki.CACert]})
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	initialise(t, o)
	for _, tt := range []struct {
		after       time.Duration
		leaf, caToo string
	}{
		{0, "", ""},
		{100*24*time.Hour - pki.Soon + time.Hour, "expires soon: give --renew", ""},
		{101 * 24 * time.Hour, "has expired: give --renew", ""},
		{11 * 365 * 24 * time.Hour, "has expired: give --renew", "has expired: exchange the CA"},
	} {
		certs, err := pki.List(o.Dir, o.Now.Add(tt.after))
		require.NoError(t, err)
		require.Equal(t, pki.CACert, certs[0].File)
		require.Equal(t, tt.caToo, certs[0].Problem)
		for _, c := range certs[1:] {
			require.Equal(t, tt.leaf, c.Problem, c.File)
		}
	}
	// Nothing outlives its CA, and an expired one signs nothing.
	o.Days, o.Renew, o.Now = pki.MaxDays, true, o.Now.AddDate(5, 0, 0)
	certs := initialise(t, o)
	require.Equal(t, certs[0].NotAfter, certs[1].NotAfter)
	o.Now = o.Now.AddDate(6, 0, 0)
	_, err := pki.Init(o)
	require.ErrorContains(t, err, "the CA has expired on ")
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*pki.Options)
		want   string
	}{
		"no directory":    {func(o *pki.Options) { o.Dir = "" }, "--tls-dir is empty"},
		"no days":         {func(o *pki.Options) { o.Days = 0 }, "--days is 0, must be 1 to 3653"},
		"too many days":   {func(o *pki.Options) { o.Days = 4000 }, "--days is 4000, must be 1 to 3653"},
		"renew and force": {func(o *pki.Options) { o.Renew, o.Force = true, true }, "--renew and --force exclude each other"},
		"URL":             {func(o *pki.Options) { o.Hosts = []string{"https://a:2379"} }, `--host "https://a:2379" is neither an address nor a host name`},
		"wildcard":        {func(o *pki.Options) { o.Hosts = []string{"0.0.0.0"} }, `--host "0.0.0.0" is neither`},
		"zone":            {func(o *pki.Options) { o.Hosts = []string{"fe80::1%eth0"} }, `--host "fe80::1%eth0" is neither`},
		"path as client":  {func(o *pki.Options) { o.Clients = []string{"../ca"} }, `--client "../ca" is no name`},
		"empty client":    {func(o *pki.Options) { o.Clients = []string{""} }, `--client "" is no name`},
		"owner":           {func(o *pki.Options) { o.Owner = "nobody-of-this-name" }, "--owner nobody-of-this-name: user: unknown user"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t.TempDir())
			tt.change(&o)
			_, err := pki.Init(o)
			require.ErrorContains(t, err, tt.want)
		})
	}
	_, err := pki.List(t.TempDir(), time.Now())
	require.ErrorContains(t, err, "make some: twill store init")
}

// What is not to be understood is not overwritten either.
func TestSpoiltFiles(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"ca.crt":     "reading the certificate",
		"server.crt": "remove it, or give --force",
	} {
		o := options(t.TempDir())
		initialise(t, o)
		path := filepath.Join(o.Dir, file)
		require.NoError(t, os.WriteFile(path, []byte("spoilt"), 0o600))
		_, err := pki.Init(o)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
		_, err = pki.List(o.Dir, o.Now)
		require.ErrorContains(t, err, path+": it holds no PEM")
		o.Force = true
		initialise(t, o)
		require.NoError(t, handshake(t, o.Dir, o.Dir, "client", "localhost"))
	}
	for want, spoil := range map[string]func(dir string) error{
		"is not for the key in": func(dir string) error {
			return os.Rename(filepath.Join(dir, "client.key"), filepath.Join(dir, "server.key"))
		},
		"no such file or directory: give --renew": func(dir string) error { return os.Remove(filepath.Join(dir, "server.key")) },
		"is not signed by ca.crt": func(dir string) error {
			other := options(dir + "-other")
			initialise(t, other)
			return os.Rename(filepath.Join(other.Dir, "ca.crt"), filepath.Join(dir, "ca.crt"))
		},
	} {
		o := options(t.TempDir())
		initialise(t, o)
		require.NoError(t, spoil(o.Dir))
		require.Contains(t, initialise(t, o)[1].Problem, want)
	}
}

// The server's key goes to the user of the service, and nothing else does.
func TestOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives a file to another user")
	}
	o := options(t.TempDir())
	initialise(t, o)
	o.Owner = "nobody"
	initialise(t, o) // the certificates were made before the user
	require.Equal(t, []string{"server.key"}, ownedByOthers(t, o.Dir))
	o.Renew = true
	initialise(t, o)
	require.Equal(t, []string{"server.key"}, ownedByOthers(t, o.Dir))
}
