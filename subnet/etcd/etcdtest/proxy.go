package etcdtest

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/internal/serverprocess"
)

// Proxy is a way to a server that can be cut while the server runs on.
type Proxy struct {
	Endpoint string

	t      testing.TB
	target string
	mu     sync.Mutex
	listen net.Listener
	cut    bool
	conns  map[net.Conn]bool
	wg     sync.WaitGroup
}

// Proxy opens a way to the server, until the test ends.
func (s *Server) Proxy(t testing.TB) *Proxy {
	t.Helper()
	scheme, target, _ := strings.Cut(s.Endpoint, "://")
	p := &Proxy{t: t, target: target, conns: map[net.Conn]bool{}}
	p.open(fmt.Sprintf("127.0.0.1:%d", serverprocess.FreePort(t)))
	p.Endpoint = scheme + "://" + p.listen.Addr().String()
	t.Cleanup(func() {
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Cut ends all connections and refuses new ones.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	_ = p.listen.Close()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Heal takes connections again.
func (p *Proxy) Heal() {
	p.t.Helper()
	p.open(p.listen.Addr().String())
}

// Retarget leads new connections to another server.
func (p *Proxy) Retarget(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, p.target, _ = strings.Cut(s.Endpoint, "://")
}

func (p *Proxy) open(addr string) {
	p.t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(p.t, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listen, p.cut = l, false
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
}

func (p *Proxy) serve(c net.Conn) {
	defer c.Close()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	up, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	p.mu.Lock()
	cut := p.cut
	p.conns[c], p.conns[up] = true, true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
		delete(p.conns, up)
	}()
	if cut {
		return
	}
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{c, up}, {up, c}} {
		wg.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = c.Close()
			_ = up.Close()
		})
	}
	wg.Wait()
}
