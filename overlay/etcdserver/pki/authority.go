package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twill-net/twill/overlay/etcdserver/internal/durable"
)

// authority is a CA. Its key is read when something is signed: it may be kept
// apart.
type authority struct {
	certs   []*x509.Certificate
	keyFile string
	made    bool
	now     time.Time
}

// authority reads the CA, or makes one.
func (o Options) authority() (*authority, error) {
	file := filepath.Join(o.Dir, CACert)
	a := &authority{keyFile: o.CAKey, now: o.Now}
	var err error
	if !o.Force {
		if a.certs, err = readCerts(file); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return a, err
		}
		if _, err := os.Stat(a.keyFile); err == nil {
			return nil, fmt.Errorf("there is %s without its certificate %s: put that back, or give --force, which makes all anew", a.keyFile, file)
		}
	}
	key, err := makeKey(a.keyFile)
	if err != nil {
		return nil, err
	}
	ca := &x509.Certificate{
		SerialNumber: nil, // chosen by CreateCertificate, at random
		Subject:      pkix.Name{CommonName: "twill store CA " + o.Now.UTC().Format(time.DateOnly)},
		NotBefore:    notBefore(o.Now), NotAfter: o.Now.AddDate(0, 0, caDays),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, err := create(ca, ca, key, key)
	if err != nil {
		return nil, fmt.Errorf("making the CA: %w", err)
	}
	a.certs, a.made = []*x509.Certificate{cert}, true
	return a, writeCert(file, cert)
}

// notBefore allows for a clock that is late by an hour.
func notBefore(now time.Time) time.Time { return now.Add(-time.Hour) }

func (a *authority) describe() Cert {
	c := describe(CACert, a.certs[0], a.now)
	c.Made = a.made
	return c
}

// signed reports whether one of the CAs has signed c.
func (a *authority) signed(c *x509.Certificate) bool {
	return slices.ContainsFunc(a.certs, func(ca *x509.Certificate) bool { return c.CheckSignatureFrom(ca) == nil })
}

// sign makes a certificate; it ends with its CA at the latest.
func (a *authority) sign(s subject, key *ecdsa.PrivateKey, now time.Time, days int) (*x509.Certificate, error) {
	caKey, err := readKey(a.keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the CA's key is needed for it: %w: say where it is kept with --ca-key", err)
	} else if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(a.certs, func(c *x509.Certificate) bool { return caKey.PublicKey.Equal(c.PublicKey) })
	if i < 0 {
		return nil, fmt.Errorf("the key in %s is not that of the CA in %s: give the right one with --ca-key", a.keyFile, CACert)
	}
	ca := a.certs[i]
	if !now.Before(ca.NotAfter) {
		return nil, fmt.Errorf("the CA has expired on %s: make another, see \"Another CA\" in the documentation of the store", ca.NotAfter.Format(time.DateOnly))
	}
	c := &x509.Certificate{
		Subject:   pkix.Name{CommonName: s.name},
		NotBefore: notBefore(now), NotAfter: now.AddDate(0, 0, days),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: s.usage, BasicConstraintsValid: true,
	}
	if ca.NotAfter.Before(c.NotAfter) {
		c.NotAfter = ca.NotAfter
	}
	if len(s.hosts) > 0 {
		for _, h := range withLoopback(s.hosts) {
			if ip := net.ParseIP(h); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, h)
			}
		}
	}
	return create(c, ca, key, caKey)
}

func create(c, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func makeKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := durable.Write(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, fmt.Errorf("writing a key: %w", err)
	}
	return key, nil
}

// readKey reads an ECDSA key, in PKCS #8 or in the form of RFC 5915.
func readKey(file string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("reading the key %s: it holds no PEM", file)
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the key %s: %w", file, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading the key %s: it is a %T; only ECDSA keys are used here", file, key)
	}
	return ec, nil
}

func writeCert(file string, c *x509.Certificate) error {
	if err := durable.Write(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o644); err != nil {
		return fmt.Errorf("writing a certificate: %w", err)
	}
	return nil
}

// readCerts reads all certificates of a file: one at least.
func readCerts(file string) (all []*x509.Certificate, err error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading a certificate: %w", err)
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading the certificate %s: %w", file, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("reading the certificate %s: it holds no PEM", file)
	}
	return all, nil
}
