package etcd

import (
	"fmt"
	"slices"
	"strings"
)

// Hint adds to an error of a connection what may be wrong with the settings, as
// far as the words of gRPC and crypto/tls tell it. They name no endpoint.
func (c *Config) Hint(err error) error {
	if err == nil {
		return nil
	}
	says := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(err.Error(), w) })
	}
	at := strings.Join(c.Endpoints, ", ")
	switch encrypted := c.encrypted(); {
	case !encrypted && says("error reading server preface"):
		return fmt.Errorf("%w; does the store at %s speak TLS? use https://", err, at)
	case encrypted && says("handshake failed: EOF", "first record does not look like a TLS handshake"):
		return fmt.Errorf("%w; at %s, does the store speak no TLS? use http://", err, at)
	// With TLS 1.3 the client is told after its handshake, if it has not
	// found the connection closed by then.
	case encrypted && c.CertFile == "" && says("error reading server preface", "broken pipe", "connection reset by peer", "tls: certificate required", "tls: bad certificate"):
		return fmt.Errorf("%w; at %s, the store may demand a client certificate: --etcd-certfile, --etcd-keyfile", err, at)
	}
	return err
}
