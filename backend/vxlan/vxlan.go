// Package vxlan plans the vxlan backend: which devices this node has, and
// which neighbour, FDB entry and route lead to each peer. It is pure: it
// imports neither netlink, etcd, Kubernetes nor a logger.
package vxlan

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// Overhead is what a tunnel adds to an inner packet, by the tunnel's family,
// bytes: inner Ethernet 14, VXLAN 8 (RFC 7348), UDP 8, IP 20 or 40.
var Overhead = subnet.PerFamily[int]{subnet.IPv4: 50, subnet.IPv6: 70}

const minIPv6MTU = 1280 // RFC 8200, 5

// Planner plans for one network config on one underlay. It is immutable.
type Planner struct {
	cfg      subnet.Config
	underlay backend.Underlay
	node     string
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
// address, or too small an MTU.
//
// Pods of a family travel in a tunnel of the same family where the underlay
// has it, else in the other one: then one device carries both.
func New(cfg subnet.Config, underlay backend.Underlay, node string) (*Planner, error) {
	p := &Planner{cfg: cfg, underlay: underlay, node: node}
	wanted := subnet.PerFamily[bool]{}
	for _, f := range subnet.Families {
		if !cfg.Networks[f].Enabled() {
			continue
		}
		switch {
		case underlay.Addresses[f].IsValid():
			wanted[f] = true
		case underlay.Addresses[f.Other()].IsValid():
			wanted[f.Other()] = true
		default:
			return nil, fmt.Errorf("interface %s has no address for tunnels: give it one or choose another with --iface", underlay.Interface)
		}
	}
	outer := underlay.MTU
	if m := cfg.Backend.VXLAN.MTU; m != 0 && m < outer {
		outer = m
	}
	for _, t := range subnet.Families {
		if wanted[t] {
			p.tunnels[t] = tunnel{on: true, device: Device(t, cfg.Backend.VXLAN.VNI), mac: mac(node, t), mtu: outer - Overhead[t]}
		}
	}
	if cfg.Networks[subnet.IPv6].Enabled() {
		if t := p.carrier(subnet.IPv6); t.mtu < minIPv6MTU {
			return nil, fmt.Errorf("an MTU of %d on %s leaves %d bytes for pods, and IPv6 needs %d: raise the interface's MTU (or Backend.MTU)",
				outer, underlay.Interface, t.mtu, minIPv6MTU)
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
	c.PublicIPs, c.BackendData = subnet.PerFamily[netip.Addr]{}, subnet.PerFamily[string]{}
	for f, t := range p.tunnels {
		if t.on {
			c.PublicIPs[f] = p.underlay.PublicIPs[f]
			c.BackendData[f] = Data{VNI: p.cfg.Backend.VXLAN.VNI, VtepMAC: t.mac}.Encode()
		}
	}
	return c
}

// Host returns this node's own devices, with their addresses and settings.
func (p *Planner) Host(own subnet.Lease) []backend.Object {
	v := p.cfg.Backend.VXLAN
	var objects []backend.Object
	for f, t := range p.tunnels {
		if !t.on {
			continue
		}
		objects = append(objects,
			backend.Link{
				Name: t.device, MTU: t.mtu, MAC: t.mac, Up: true,
				Parent: p.underlay.Interface, Local: p.underlay.Addresses[f],
				VXLAN: backend.VXLAN{VNI: v.VNI, Port: v.Port, Learning: v.Learning, GBP: v.GBP},
			})
	}
	for _, f := range subnet.Families {
		subnetOf, device := own.Subnets[f], p.carrier(f).device
		if !subnetOf.IsValid() || !p.cfg.Networks[f].Enabled() {
			continue
		}
		addr := subnetOf.Addr()
		objects = append(objects, backend.Address{Link: device, Prefix: netip.PrefixFrom(addr, addr.BitLen())})
		switch f {
		case subnet.IPv4:
			// Loose: with direct routes the way back may be another one. The
			// kernel takes the larger of this and conf/all (ip-sysctl).
			objects = append(objects, backend.Sysctl{Name: "net/ipv4/conf/" + device + "/rp_filter", Value: "2"})
		case subnet.IPv6:
			objects = append(objects,
				// Distributions switch IPv6 off by default for new devices.
				backend.Sysctl{Name: "net/ipv6/conf/" + device + "/disable_ipv6", Value: "0"},
				backend.Sysctl{Name: "net/ipv6/conf/" + device + "/accept_ra", Value: "0"})
		}
	}
	return objects
}

// Peer returns what leads to a peer. The peer is one that Check accepts; what
// still fails is one family that the two nodes cannot talk in: the objects of
// the other are returned with the error.
func (p *Planner) Peer(_, peer subnet.Lease) ([]backend.Object, error) {
	var objects []backend.Object
	var failed error
	for _, f := range subnet.Families {
		if !p.cfg.Networks[f].Enabled() || !peer.Subnets[f].IsValid() {
			continue
		}
		way, err := p.way(f, peer)
		if err != nil {
			failed = err
			continue
		}
		objects = append(objects, way...)
	}
	return objects, failed
}

// way returns what leads to the peer's pods of one family.
func (p *Planner) way(f subnet.Family, peer subnet.Lease) ([]backend.Object, error) {
	route := backend.Route{Dst: peer.Subnets[f], Metric: backend.RouteMetric(f)}
	if ip := peer.PublicIPs[f]; p.cfg.Backend.VXLAN.DirectRouting && ip.IsValid() {
		if link, ok := p.underlay.Reaches(ip); ok {
			route.Link, route.Via = link, ip
			return []backend.Object{route}, nil
		}
	}
	for _, t := range []subnet.Family{f, f.Other()} {
		if !p.tunnels[t].on || !peer.PublicIPs[t].IsValid() || peer.BackendData[t] == "" {
			continue
		}
		data, err := DecodeData(peer.BackendData[t])
		if err != nil {
			return nil, err
		}
		device := p.tunnels[t].device
		route.Link, route.Via, route.OnLink = device, route.Dst.Addr(), true
		return []backend.Object{
			backend.Neighbor{Link: device, IP: route.Dst.Addr(), MAC: data.VtepMAC},
			backend.FDB{Link: device, MAC: data.VtepMAC, Dst: peer.PublicIPs[t]},
			route,
		}, nil
	}
	return nil, fmt.Errorf("node %s and this one have no underlay family in common for %s pods (peer: %s)", peer.ID(), f, addresses(peer))
}

// addresses lists a peer's public IPs for errors.
func addresses(l subnet.Lease) string {
	s := ""
	for _, ip := range l.PublicIPs {
		if ip.IsValid() {
			s += " " + ip.String()
		}
	}
	if s == "" {
		return "no public IP"
	}
	return s[1:]
}

// Check says whether a peer's record is sound, and which VTEP addresses it
// claims; it is the subnet.Check of this backend.
func (p *Planner) Check(peer subnet.Lease) (claims []string, err error) {
	if err := p.cfg.Covers(peer); err != nil {
		return nil, err
	}
	if peer.BackendType != subnet.BackendVXLAN {
		return nil, fmt.Errorf("its backend type %q is not %s", peer.BackendType, subnet.BackendVXLAN)
	}
	for f, raw := range peer.BackendData {
		if raw == "" {
			continue
		}
		data, err := DecodeData(raw)
		if err != nil {
			return nil, err
		}
		if data.VNI != p.cfg.Backend.VXLAN.VNI {
			return nil, fmt.Errorf("its VNI %d is not this network's %d", data.VNI, p.cfg.Backend.VXLAN.VNI)
		}
		claims = append(claims, fmt.Sprintf("VTEP MAC %s (%s tunnel)", data.VtepMAC, subnet.Family(f)))
	}
	if len(claims) == 0 {
		return nil, fmt.Errorf("it has no BackendData")
	}
	return claims, nil
}
