package vxlan

import (
	"errors"
	"fmt"

	"github.com/twill-net/twill/subnet"
)

// Check says whether a peer's record is sound, and which VTEP addresses it
// claims; it is the subnet.Check of this backend.
func (p *Planner) Check(peer subnet.Lease) (claims []string, err error) {
	if err := p.cfg.Covers(peer); err != nil {
		return nil, err
	}
	if peer.BackendType != subnet.BackendVXLAN {
		return nil, fmt.Errorf("its backend type %q is not %q", peer.BackendType, subnet.BackendVXLAN)
	}
	if err := p.clear(peer); err != nil {
		return nil, err
	}
	for t, raw := range peer.BackendData {
		if raw == "" {
			continue
		}
		data, err := DecodeData(raw)
		if err != nil {
			return nil, fmt.Errorf("its %s: %w", members[t], err)
		}
		if data.VNI != p.cfg.Backend.VXLAN.VNI {
			return nil, fmt.Errorf("its %s: VNI %d is not this network's %d", members[t], data.VNI, p.cfg.Backend.VXLAN.VNI)
		}
		claims = append(claims, "VTEP MAC "+data.VtepMAC.String()+" ("+subnet.Family(t).String()+" tunnel)")
	}
	switch {
	case len(claims) == 0:
		return nil, errors.New("it has no BackendData")
	case !endpoint(peer, subnet.IPv4) && !endpoint(peer, subnet.IPv6):
		return nil, errors.New("it has no public IP of the family of its BackendData")
	}
	return claims, nil
}

// clear refuses a peer whose subnet would draw the underlay into the overlay:
// the way to a tunnel's end must not lead through that tunnel.
func (p *Planner) clear(peer subnet.Lease) error {
	for _, s := range peer.Subnets {
		for f := range subnet.Families {
			if ip := peer.PublicIPs[f]; s.Contains(ip) {
				return fmt.Errorf("its subnet %s holds its own public IP %s", s, ip)
			}
			if ip := p.underlay.Addresses[f]; s.Contains(ip) {
				return fmt.Errorf("its subnet %s holds this node's address %s", s, ip)
			}
		}
	}
	return nil
}

// endpoint reports whether the peer announces all that a tunnel of a family
// leads to.
func endpoint(peer subnet.Lease, t subnet.Family) bool {
	return peer.BackendData[t] != "" && peer.PublicIPs[t].IsValid()
}

// isFlannel reports whether the record is a flannel node's. Those send and
// take pods of a family in tunnels of that family only.
func isFlannel(peer subnet.Lease) bool { return peer.Node == "" }
