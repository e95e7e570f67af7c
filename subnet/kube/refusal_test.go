package kube_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/kube"
	"github.com/twill-net/twill/subnet/kube/kubetest"
	"github.com/twill-net/twill/subnet/subnettest"
)

// gate is a way to the server that answers the making of Events itself, with
// the statuses in a row that the test says of an Event's reason; then it is open.
type gate struct {
	http.Handler
	mu       sync.Mutex
	statuses map[string][]int
	asked    map[string]int // how often, by reason
}

// throughGate has a store reach the server through a gate only.
func (b *backend) throughGate(t *testing.T, statuses map[string][]int) *gate {
	pem, err := os.ReadFile(b.server.CA)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	to, err := url.Parse(b.server.URL)
	require.NoError(t, err)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	g := &gate{statuses: statuses, asked: map[string]int{}, Handler: &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Header.Set("Authorization", "Bearer "+kubetest.Daemon) // without TLS the client sends none
		},
	}}
	s := httptest.NewServer(g)
	t.Cleanup(func() {
		s.CloseClientConnections() // watches are open
		s.Close()
		transport.CloseIdleConnections()
	})
	b.url = s.URL
	return g
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/events") {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if status := g.next(body); status != 0 {
			if status == http.StatusTooManyRequests {
				w.Header().Set("Retry-After", "1")
			}
			http.Error(w, "by the gate", status)
			return
		}
	}
	g.Handler.ServeHTTP(w, r)
}

// next returns the next status for an Event, 0 for none.
func (g *gate) next(event []byte) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	for reason, left := range g.statuses {
		if !bytes.Contains(event, []byte(reason)) { // protobuf has strings as they are
			continue
		}
		g.asked[reason]++
		if len(left) > 0 {
			g.statuses[reason] = left[1:]
			return left[0]
		}
	}
	return 0
}

func (g *gate) times(reason string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked[reason]
}

// An Event that can never be written does not hold up those behind it, and one
// that may be written later is.
func eventsRefused(t *testing.T, b backend) {
	b.server.Grant(t, append(least(t), mayTell)...)
	b.Join(t, "n1")
	var log subnettest.Log
	b.change = func(c *kube.Config) { c.Logger = log.Entry() }
	never, later := []int{400, 403, 404, 405, 410, 413, 415, 422}, []int{401, 408, 409, 429, 500, 502, 503, 504}
	statuses := map[string][]int{}
	for _, s := range never {
		statuses[fmt.Sprint("Never", s)] = []int{s, s, s}
	}
	for _, s := range later {
		statuses[fmt.Sprint("Later", s)] = []int{s}
	}
	g := b.throughGate(t, statuses)
	notices := report(t, b, "n1")
	for _, s := range never {
		notices <- subnet.Notice{Reason: fmt.Sprint("Never", s), Message: "x"}
	}
	notices <- subnet.Notice{Reason: "Behind", Message: "x"}
	subnettest.Eventually(t, "what is behind them is told", func() bool { return len(b.of(t, "Behind")) == 1 })
	for _, s := range never {
		require.Equal(t, 1, g.times(fmt.Sprint("Never", s)), s)
	}
	require.Equal(t, 1, strings.Count(log.String(), "cannot be written"))
	for _, s := range later {
		notices <- subnet.Notice{Reason: fmt.Sprint("Later", s), Message: "x"}
	}
	all := func() (list []corev1.Event) {
		for _, s := range later {
			list = append(list, b.of(t, fmt.Sprint("Later", s))...)
		}
		return list
	}
	subnettest.Eventually(t, "what may pass is tried again", func() bool { return len(all()) == len(later) })
}
