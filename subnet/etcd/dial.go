package etcd

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// connections are the open TCP connections to etcd.
type connections struct {
	mu   sync.Mutex
	open map[*connection]bool
}

// connection is one of them until it is closed.
type connection struct {
	net.Conn
	all *connections
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}

// dial bounds the TCP handshake apart from TLS's, which a loaded etcd may take
// its time for: to a network that drops packets the kernel sends the second
// SYN after 1 s and the third after 3 s, too late to find out that it is back.
func (all *connections) dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: synTimeout}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return d.DialContext(ctx, "unix", strings.TrimPrefix(path, "//"))
	}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &connection{conn, all}
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.open == nil {
		all.open = map[*connection]bool{}
	}
	all.open[c] = true
	return c, nil
}

// dropStranded closes the connections whose own address the host has no more.
// The kernel keeps them and sends from that address, to which no answer comes;
// TCP would find out after minutes, and our pings after 15 s.
func (all *connections) dropStranded() {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return // the pings will tell
	}
	here := map[netip.Addr]bool{}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			here[p.Addr().Unmap()] = true
		}
	}
	all.mu.Lock()
	var stranded []*connection
	for c := range all.open {
		local, ok := c.LocalAddr().(*net.TCPAddr)
		if ok && !here[local.AddrPort().Addr().Unmap().WithZone("")] && !local.IP.IsLoopback() {
			stranded = append(stranded, c)
		}
	}
	all.mu.Unlock()
	for _, c := range stranded {
		_ = c.Close() // gRPC makes a new one
	}
}
