package etcd_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
	"github.com/twill-net/twill/subnet/subnettest"
)

const password = "hunter2-correct-horse"

func as(user string, secret etcd.Secret, also ...func(*etcd.Config)) func(*etcd.Config) {
	return func(c *etcd.Config) {
		c.Username, c.Password = user, secret
		for _, f := range also {
			f(c)
		}
	}
}

// The whole contract with a password, by a user who may use the prefix only.
func TestContractWithPassword(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Options{Password: password, Args: []string{"--bcrypt-cost=4"}})
	client := server.Client(t)
	addUser(t, client, "twill", "/test/")
	var n atomic.Int64 // the cases run at the same time
	t.Run("", func(t *testing.T) {
		subnettest.Contract(t, func(*testing.T) subnettest.Backend {
			return backend{server: server, client: client, prefix: fmt.Sprintf("/test/%d", n.Add(1)), change: as("twill", password)}
		})
	})
}

// addUser adds one with our password who may read and write below a prefix.
func addUser(t *testing.T, client *clientv3.Client, name, prefix string) {
	t.Helper()
	_, err := client.RoleAdd(t.Context(), name)
	require.NoError(t, err)
	_, err = client.RoleGrantPermission(t.Context(), name, prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
	require.NoError(t, err)
	_, err = client.UserAdd(t.Context(), name, password)
	require.NoError(t, err)
	_, err = client.UserGrantRole(t.Context(), name, name)
	require.NoError(t, err)
}

// Tokens end after a second, go with the server's memory, and are void after
// each change of users: nobody may notice.
func TestTokenExpires(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{Password: password, Args: []string{"--auth-token-ttl=1", "--bcrypt-cost=4"}})
	var out subnettest.Log
	var health subnettest.Reports
	b.change = as("root", password, func(c *etcd.Config) {
		c.Logger, c.Health = out.Entry(), health.Take
		c.LeaseTTL, c.RenewMargin = shortTTL, shortMargin // renewed with a token that has ended, each time
	})
	s := b.open(t)
	c := subnettest.Claim(t, "n1")
	h := subnettest.Hold(t, s, c)
	first := h.Next(t)
	v := subnettest.Watch(t, s)
	v.Await(t, b)
	for range 4 {
		renewed := h.Next(t)
		require.Equal(t, first.Created, renewed.Created)
	}
	b.Put(t, "10.5.2.0-24", peerB, false)
	v.Await(t, b)
	n, _ := health.Last()
	require.Zero(t, n, "a token that ends is no trouble")

	client := b.client
	_, err := client.UserAdd(t.Context(), "somebody", "else")
	require.NoError(t, err)
	b.Delete(t, "10.5.2.0-24")
	v.Await(t, b)
	b.Delete(t, first.Key)
	require.Equal(t, first.Key, nextCreated(t, h, first).Key)

	b.server.Kill()
	b.server.Restart()
	b.Put(t, "10.5.3.0-24", peerB, false)
	v.Await(t, b)
	full, _ := v.Fulls()
	require.Zero(t, full)
	require.Empty(t, h.Done)
	require.NotContains(t, out.String(), password)
}

// nextCreated skips renewals.
func nextCreated(t *testing.T, h *subnettest.Holding, before subnet.Held) subnet.Held {
	t.Helper()
	for {
		if held := h.Next(t); held.Created != before.Created {
			return held
		}
	}
}

// What etcd refuses is returned at once, and names neither password.
func TestRefused(t *testing.T) {
	t.Parallel()
	b := newBackend(t, etcdtest.Options{Password: password, Args: []string{"--bcrypt-cost=4"}})
	addUser(t, b.client, "twill", "/elsewhere/")
	for name, tt := range map[string]struct {
		change func(*etcd.Config)
		err    error
	}{
		"wrong password": {as("root", "not-"+password), rpctypes.ErrAuthFailed},
		"no such user":   {as("nobody", password), rpctypes.ErrAuthFailed},
		"no password":    {func(*etcd.Config) {}, rpctypes.ErrUserEmpty},
		"no permission":  {as("twill", password), rpctypes.ErrPermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			b := b
			var out subnettest.Log
			var health subnettest.Reports
			b.change = func(c *etcd.Config) {
				tt.change(c)
				c.Logger, c.Health = out.Entry(), health.Take
			}
			s := b.open(t)
			var errs []error
			if name == "no password" {
				// etcd cannot tell it from a token that is gone: tried again.
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.WatchLeases(ctx, func(subnet.Update) {}) }()
				subnettest.Eventually(t, "it is told", func() bool { _, err := health.Last(); return err != nil })
				_, err := health.Last()
				errs = append(errs, err)
				cancel()
				require.NoError(t, <-done)
			} else {
				errs = append(errs, s.WatchLeases(t.Context(), func(subnet.Update) {}),
					s.WatchConfig(t.Context(), func([]byte) {}),
					s.Hold(t.Context(), subnettest.Claim(t, "n1"), func(subnet.Held) {}))
			}
			for _, err := range errs {
				require.ErrorIs(t, err, tt.err)
				require.NotContains(t, err.Error(), password)
			}
			require.NotContains(t, out.String(), password)
			for _, err := range health.All() {
				if err != nil {
					require.NotContains(t, err.Error(), password)
				}
			}
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := etcdtest.NewTLS(t), etcdtest.NewTLS(t)
	open := etcdtest.Start(t, etcdtest.Options{TLS: ours})
	strict := etcdtest.Start(t, etcdtest.Options{TLS: ours, ClientCert: true, Password: password, Args: []string{"--bcrypt-cost=4"}})
	plain := etcdtest.Start(t, etcdtest.Options{})
	files := func(ca, cert, key string) func(*etcd.Config) {
		return func(c *etcd.Config) { c.CAFile, c.CertFile, c.KeyFile = ca, cert, key }
	}
	for name, tt := range map[string]struct {
		server *etcdtest.Server
		change func(*etcd.Config)
		err    string // "" for none
	}{
		"CA alone":                        {open, files(ours.CA, "", ""), ""},
		"CA and certificate":              {open, files(ours.CA, ours.ClientCert, ours.ClientKey), ""},
		"certificate and password":        {strict, as("root", password, files(ours.CA, ours.ClientCert, ours.ClientKey)), ""},
		"another CA":                      {open, files(theirs.CA, "", ""), "certificate signed by unknown authority"},
		"the system's CAs":                {open, files("", "", ""), "certificate signed by unknown authority"},
		"the system's CAs, certificate":   {open, files("", ours.ClientCert, ours.ClientKey), "certificate signed by unknown authority"},
		"no certificate where one is due": {strict, as("root", password, files(ours.CA, "", "")), "the store may demand a client certificate: --etcd-certfile, --etcd-keyfile"},
		"no certificate and no password":  {strict, files(ours.CA, "", ""), "the store may demand a client certificate: --etcd-certfile, --etcd-keyfile"},
		"another CA's certificate":        {strict, as("root", password, files(ours.CA, theirs.ClientCert, theirs.ClientKey)), "listing the leases"},
		"TLS to a plain server": {plain, func(c *etcd.Config) {
			c.Endpoints = []string{strings.Replace(plain.Endpoint, "http:", "https:", 1)}
		}, "does the store speak no TLS? use http://"},
		"plain to a TLS server": {open, func(c *etcd.Config) {
			c.Endpoints = []string{strings.Replace(open.Endpoint, "https:", "http:", 1)}
		}, "; does the store at " + strings.Replace(open.Endpoint, "https:", "http:", 1) + " speak TLS? use https://"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var health subnettest.Reports
			var out subnettest.Log
			b := backend{server: tt.server, prefix: "/" + strings.ReplaceAll(name, " ", "-")}
			b.change = func(c *etcd.Config) {
				tt.change(c)
				c.Health, c.Logger = health.Take, out.Entry()
			}
			s := b.open(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			lists := make(chan subnet.Update, 1)
			done := make(chan error, 1)
			go func() { done <- s.WatchLeases(ctx, func(u subnet.Update) { lists <- u }) }()
			if tt.err == "" {
				require.True(t, (<-lists).Full)
			} else {
				subnettest.Eventually(t, "it is told", func() bool { _, err := health.Last(); return err != nil })
				_, err := health.Last()
				require.ErrorContains(t, err, tt.err)
				require.Empty(t, lists)
			}
			cancel()
			require.NoError(t, <-done)
			require.NotContains(t, out.String(), password)
		})
	}
}

// A certificate that is replaced while we run is used for the next connection.
func TestCertificateIsReplaced(t *testing.T) {
	t.Parallel()
	ours, theirs := etcdtest.NewTLS(t), etcdtest.NewTLS(t)
	b := newBackend(t, etcdtest.Options{TLS: ours, ClientCert: true})
	cert := t.TempDir() + "/cert.pem"
	key := t.TempDir() + "/key.pem"
	copyFile(t, theirs.ClientCert, cert)
	copyFile(t, theirs.ClientKey, key)
	var health subnettest.Reports
	b.change = func(c *etcd.Config) {
		c.CAFile, c.CertFile, c.KeyFile, c.Health = ours.CA, cert, key, health.Take
	}
	s := b.open(t)
	v := subnettest.Watch(t, s)
	subnettest.Eventually(t, "it is told", func() bool { _, err := health.Last(); return err != nil })
	copyFile(t, ours.ClientCert, cert)
	copyFile(t, ours.ClientKey, key)
	v.Await(t, b)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, b, 0o600))
}
