// Package vxlan plans the vxlan backend: which devices this node has, and
// which neighbour, FDB entry and route lead to each peer. It is pure: it
// imports neither netlink, etcd, Kubernetes nor a logger.
package vxlan

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// Overhead is what a tunnel adds to an inner packet, by the tunnel's family,
// bytes: inner Ethernet 14, VXLAN 8 (RFC 7348), UDP 8, IP 20 or 40.
var Overhead = subnet.PerFamily[int]{subnet.IPv4: 50, subnet.IPv6: 70}

// minMTU is what a device needs to carry pods of a family, bytes: below 68 the
// kernel takes IPv4 off it (net/ipv4/devinet.c, inetdev_valid_mtu); IPv6 as of
// RFC 8200, 5.
var minMTU = subnet.PerFamily[int]{subnet.IPv4: 68, subnet.IPv6: 1280}

// maxName is the longest name of a device, bytes (linux/if.h, IFNAMSIZ).
const maxName = 15

// Planner plans for one network config on one underlay. It is immutable.
type Planner struct {
	cfg      subnet.Config
	underlay backend.Underlay
	tunnels  subnet.PerFamily[tunnel]
}

// tunnel is a VXLAN device of ours, by the family of its outer packets.
type tunnel struct {
	on     bool
	device string
	mac    subnet.MAC
	mtu    int // of the device, which is what its pods may send
}

// New returns the planner of the node. It fails when the underlay has no
// address or too small an MTU, or when the VNI is too long for a device's name.
//
// Pods of a family travel in a tunnel of the same family where the underlay
// has it, else in the other one: then one device carries both. A node has no
// tunnel that its own pods do not need.
func New(cfg subnet.Config, underlay backend.Underlay, node string) (*Planner, error) {
	p := &Planner{cfg: cfg, underlay: underlay}
	outer, limit := underlay.MTU, "the MTU of interface "+underlay.Interface
	if m := cfg.Backend.VXLAN.MTU; m != 0 && m < outer {
		outer, limit = m, "Backend.MTU"
	}
	for _, f := range subnet.Families {
		if !cfg.Networks[f].Enabled() {
			continue
		}
		t := f
		if !underlay.Addresses[t].IsValid() {
			t = f.Other()
		}
		if !underlay.Addresses[t].IsValid() {
			return nil, fmt.Errorf("interface %s has no address for tunnels: give it one or choose another with --iface", underlay.Interface)
		}
		device := Device(t, cfg.Backend.VXLAN.VNI)
		if len(device) > maxName {
			return nil, fmt.Errorf("the device of an %s tunnel would be called %s, and Linux takes %d characters: choose a shorter Backend.VNI", t, device, maxName)
		}
		p.tunnels[t] = tunnel{on: true, device: device, mac: mac(node, t), mtu: outer - Overhead[t]}
		if left := outer - Overhead[t]; left < minMTU[f] {
			return nil, fmt.Errorf("%s, %d, leaves %d bytes for pods, and %s needs %d: raise it to %d or more",
				limit, outer, left, f, minMTU[f], minMTU[f]+Overhead[t])
		}
	}
	return p, nil
}

// Device returns the name of the device for tunnels of a family.
func Device(tunnel subnet.Family, vni uint32) string {
	if tunnel == subnet.IPv6 {
		return fmt.Sprintf("twill-v6.%d", vni)
	}
	return fmt.Sprintf("twill.%d", vni)
}

// DevicePattern matches the names that Device gives, and no others.
var DevicePattern = regexp.MustCompile(`^twill(-v6)?\.[0-9]+$`)

// mac derives the VTEP's address from the node's name, so that a reboot or a
// new device does not change it: locally administered and unicast (IEEE 802).
func mac(node string, tunnel subnet.Family) subnet.MAC {
	h := sha256.Sum256([]byte("twill vtep " + tunnel.String() + " " + node))
	m := subnet.MAC(h[:6])
	m[0] = m[0]&^1 | 2
	return m
}

// carrier returns the tunnel of ours that carries pods of a family.
func (p *Planner) carrier(f subnet.Family) tunnel {
	if p.tunnels[f].on {
		return p.tunnels[f]
	}
	return p.tunnels[f.Other()]
}

// MTU returns what pods of each family may send; 0 where the family is off.
func (p *Planner) MTU() subnet.PerFamily[int] {
	var mtu subnet.PerFamily[int]
	for _, f := range subnet.Families {
		if p.cfg.Networks[f].Enabled() {
			mtu[f] = p.carrier(f).mtu
		}
	}
	return mtu
}

// Announce fills in what peers must know of this node's tunnels.
func (p *Planner) Announce(c subnet.Claim) subnet.Claim {
	c.BackendType = subnet.BackendVXLAN
	c.PublicIPs, c.Sources, c.BackendData = subnet.PerFamily[netip.Addr]{}, subnet.PerFamily[netip.Addr]{}, subnet.PerFamily[string]{}
	for f, t := range p.tunnels {
		if t.on {
			c.PublicIPs[f] = p.underlay.PublicIPs[f]
			if own := p.underlay.Addresses[f]; own != c.PublicIPs[f] {
				c.Sources[f] = own
			}
			c.BackendData[f] = Data{VNI: p.cfg.Backend.VXLAN.VNI, VtepMAC: t.mac}.Encode()
		}
	}
	return c
}

// Host returns this node's own devices, with their addresses and settings.
//
// Each device has the address of each family: pods of one family go through
// the other family's tunnel to a peer that has no other, and without an address
// there the kernel would send what this node itself has to say from an address
// of the underlay (net/ipv4/devinet.c, inet_select_addr).
func (p *Planner) Host(own subnet.Lease) []backend.Object {
	v := p.cfg.Backend.VXLAN
	var objects []backend.Object
	for t, tun := range p.tunnels {
		if !tun.on {
			continue
		}
		objects = append(objects,
			backend.Link{
				Name: tun.device, MTU: tun.mtu, MAC: tun.mac, Up: true,
				Parent: p.underlay.Interface, Local: p.underlay.Addresses[t],
				VXLAN: backend.VXLAN{VNI: v.VNI, Port: v.Port, Learning: v.Learning, GBP: v.GBP},
			})
		for _, f := range subnet.Families {
			if addr := own.Subnets[f].Addr(); addr.IsValid() && p.cfg.Networks[f].Enabled() {
				objects = append(objects, Settings(tun.device, f)...)
				objects = append(objects, backend.Address{Link: tun.device, Prefix: netip.PrefixFrom(addr, addr.BitLen())})
			}
		}
	}
	return objects
}

// Settings returns the sysctls that a device needs to carry pods of a family.
func Settings(device string, f subnet.Family) []backend.Object {
	if f == subnet.IPv6 {
		return []backend.Object{
			// Some distributions switch IPv6 off for new devices.
			backend.Sysctl{Name: "net/ipv6/conf/" + device + "/disable_ipv6", Value: "0"},
			backend.Sysctl{Name: "net/ipv6/conf/" + device + "/accept_ra", Value: "0"},
		}
	}
	// Loose: with direct routes the way back may be another one. The kernel
	// takes the larger of this and conf/all (ip-sysctl).
	return []backend.Object{backend.Sysctl{Name: "net/ipv4/conf/" + device + "/rp_filter", Value: "2"}}
}

// Peer returns what leads to a peer that Check accepts. What still fails is a
// family that the two nodes cannot talk in: the objects of the other one are
// returned with the error.
func (p *Planner) Peer(_, peer subnet.Lease) ([]backend.Object, error) {
	var objects []backend.Object
	var failed error
	for _, f := range subnet.Families {
		if !p.cfg.Networks[f].Enabled() || !peer.Subnets[f].IsValid() {
			continue
		}
		way, err := p.way(f, peer)
		if err != nil && failed != nil {
			err = fmt.Errorf("%w; %w", failed, err)
		}
		if err != nil {
			failed = err
		}
		objects = append(objects, way...)
	}
	return objects, failed
}

// way returns what leads to the peer's pods of one family.
func (p *Planner) way(f subnet.Family, peer subnet.Lease) ([]backend.Object, error) {
	route := backend.Route{Dst: peer.Subnets[f], Metric: backend.RouteMetric(peer.Subnets[f])}
	if ip := peer.PublicIPs[f]; p.cfg.Backend.VXLAN.DirectRouting {
		if link, ok := p.underlay.Reaches(ip); ok {
			route.Link, route.Via = link, ip
			return []backend.Object{route}, nil
		}
	}
	for _, t := range []subnet.Family{f, f.Other()} {
		if !p.tunnels[t].on || !endpoint(peer, t) || t != f && isFlannel(peer) {
			continue
		}
		data, err := DecodeData(peer.BackendData[t])
		if err != nil {
			return nil, fmt.Errorf("reading %s of node %s: %w", members[t], peer.ID(), err)
		}
		device := p.tunnels[t].device
		route.Link, route.Via, route.OnLink = device, route.Dst.Addr(), true
		return []backend.Object{
			backend.Neighbor{Link: device, IP: route.Dst.Addr(), MAC: data.VtepMAC},
			backend.FDB{Link: device, MAC: data.VtepMAC, Dst: peer.PublicIPs[t]},
			route,
		}, nil
	}
	return nil, p.noWay(f, peer)
}

// noWay says why no tunnel leads to a peer's pods of a family.
func (p *Planner) noWay(f subnet.Family, peer subnet.Lease) error {
	var ours, theirs []string
	for _, t := range subnet.Families {
		if p.tunnels[t].on {
			ours = append(ours, t.String())
		}
		if endpoint(peer, t) {
			theirs = append(theirs, t.String())
		}
	}
	hint := ""
	if isFlannel(peer) {
		hint = fmt.Sprintf(", and flannel takes %s pods in %s tunnels only", f, f)
	}
	return fmt.Errorf("no tunnel for %s pods of node %s: this node has %s tunnels, the peer %s%s",
		f, peer.ID(), strings.Join(ours, " and "), strings.Join(theirs, " and "), hint)
}
