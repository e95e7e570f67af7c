package pki

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
)

// loopback is what the store's own machine calls it; every server certificate
// has it.
var loopback = [...]string{"localhost", "127.0.0.1", "::1"}

// Hosts returns by what names this machine may be reached: its host name and
// all its addresses but link-local ones.
func Hosts() ([]string, error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("reading the host name: %w: give --host", err)
	}
	var hosts []string
	if isHost(name) {
		hosts = append(hosts, name)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing this machine's addresses: %w: give --host", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			hosts = append(hosts, p.Addr().String())
		}
	}
	return hosts, nil
}

// withLoopback adds the names of loopback, and drops what is there twice.
func withLoopback(hosts []string) []string {
	var all []string
	for _, h := range append(slices.Clone(hosts), loopback[:]...) {
		if !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all
}
