package netlab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// SourceSeen sends a datagram from one host to an address of another and
// returns the source address that the receiver sees: whether, and as whom,
// traffic is masqueraded. Lost datagrams are sent again until ctx is done.
func SourceSeen(ctx context.Context, from, to *Host, addr netip.Addr) (netip.Addr, error) {
	server, err := to.listenUDP(ctx, addr)
	if err != nil {
		return netip.Addr{}, err
	}
	defer server.Close()
	client, err := from.DialContext(ctx, "udp", server.LocalAddr().String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer client.Close()
	for {
		_, err := client.Write([]byte("who am I?"))
		if err == nil {
			_ = server.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			var source net.Addr
			if _, source, err = server.ReadFrom(make([]byte, 16)); err == nil {
				return source.(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
			}
		}
		if ctx.Err() != nil {
			return netip.Addr{}, fmt.Errorf("sending a datagram from %s to %s on %s: %w: %w", from.Name, server.LocalAddr(), to.Name, ctx.Err(), err)
		}
	}
}

// listenUDP opens a socket on a free port of the host.
func (h *Host) listenUDP(ctx context.Context, addr netip.Addr) (conn net.PacketConn, err error) {
	err = h.inNetns(func() (err error) {
		conn, err = new(net.ListenConfig).ListenPacket(ctx, "udp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	return conn, err
}
