package etcdserver_test

import (
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/etcdserver/pki"
)

// A store with the certificates of package pki demands one of its clients, and
// takes up a renewed one without a restart.
func TestTLS(t *testing.T) {
	t.Parallel()
	o := pki.Options{Dir: filepath.Join(t.TempDir(), "tls"), Hosts: []string{"store"}, Days: 100, Now: time.Now()}
	_, err := pki.Init(o)
	require.NoError(t, err)
	s := newStore(t)
	socket := strings.TrimPrefix(s.cfg.ListenClientURLs[0], "unix://")
	s.cfg.ListenClientURLs = []string{"unixs://" + socket}
	s.cfg.TLSDir = o.Dir
	s.start(t)

	text, err := os.ReadFile(filepath.Join(o.Dir, pki.CACert))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(text))
	cert, err := tls.LoadX509KeyPair(filepath.Join(o.Dir, pki.ClientCert), filepath.Join(o.Dir, pki.ClientKey))
	require.NoError(t, err)
	// connect returns the number of the server's certificate.
	connect := func(certs ...tls.Certificate) (*big.Int, error) {
		raw, err := net.Dial("unix", socket)
		require.NoError(t, err)
		defer raw.Close()
		c := tls.Client(raw, &tls.Config{RootCAs: pool, ServerName: "store", Certificates: certs, NextProtos: []string{"h2"}})
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return nil, err
		}
		if err := c.Handshake(); err != nil {
			return nil, err
		}
		// In TLS 1.3 the server's refusal comes after the handshake; else its
		// settings do.
		_, err = c.Read(make([]byte, 1))
		return c.ConnectionState().PeerCertificates[0].SerialNumber, err
	}
	first, err := connect(cert)
	require.NoError(t, err)
	_, err = connect()
	require.ErrorContains(t, err, "certificate required")

	o.Renew = true
	_, err = pki.Init(o)
	require.NoError(t, err)
	second, err := connect(cert)
	require.NoError(t, err)
	require.NotEqual(t, first, second)

	other := pki.Options{Dir: t.TempDir(), Hosts: []string{"store"}, Days: 1, Now: time.Now()}
	_, err = pki.Init(other)
	require.NoError(t, err)
	stranger, err := tls.LoadX509KeyPair(filepath.Join(other.Dir, pki.ClientCert), filepath.Join(other.Dir, pki.ClientKey))
	require.NoError(t, err)
	_, err = connect(stranger)
	require.Error(t, err, "of another CA")
}

func TestTLSDirRefuses(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.cfg.TLSDir = filepath.Join(t.TempDir(), "none")
	s.refuses(t, "make the certificates first: twill store init --tls-dir "+s.cfg.TLSDir)
	_, err := pki.Init(pki.Options{Dir: s.cfg.TLSDir, Days: 1, Now: time.Now()})
	require.NoError(t, err)
	s.cfg.CertFile = "x"
	s.refuses(t, "tls-dir stands for cert-file, key-file and trusted-ca-file")
	s.cfg.CertFile, s.cfg.ListenClientURLs = "", []string{"http://127.0.0.1:0"}
	s.refuses(t, "which is not encrypted, though there is tls-dir: write https://")
	require.NoDirExists(t, s.cfg.DataDir)
}
