// Package alloc plans the alloc backend: the node holds its lease, and
// something else carries the packets. It is pure: it imports neither netlink,
// etcd, Kubernetes nor a logger.
package alloc

import (
	"net/netip"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// Planner plans nothing for peers. It is immutable.
type Planner struct {
	cfg      subnet.Config
	underlay backend.Underlay
}

// New returns the planner.
func New(cfg subnet.Config, underlay backend.Underlay) *Planner {
	return &Planner{cfg: cfg, underlay: underlay}
}

// MTU returns the external interface's for each family that is on.
func (p *Planner) MTU() subnet.PerFamily[int] {
	var mtu subnet.PerFamily[int]
	for _, f := range subnet.Families {
		if p.cfg.Networks[f].Enabled() {
			mtu[f] = p.underlay.MTU
		}
	}
	return mtu
}

// Announce fills in what peers must know of this node: its public IPs.
func (p *Planner) Announce(c subnet.Claim) subnet.Claim {
	c.BackendType = subnet.BackendAlloc
	c.PublicIPs, c.BackendData = p.underlay.PublicIPs, subnet.PerFamily[string]{}
	for _, f := range subnet.Families {
		if p.underlay.PublicIPs[f.Other()].IsValid() && !p.cfg.Networks[f].Enabled() {
			c.PublicIPs[f] = netip.Addr{}
		}
	}
	return c
}

// Host returns nothing: no device is ours.
func (p *Planner) Host(subnet.Lease) []backend.Object { return nil }

// Peer returns nothing: no way to a peer is ours.
func (p *Planner) Peer(_, _ subnet.Lease) ([]backend.Object, error) { return nil, nil }

// Check accepts every lease within the network; it is the subnet.Check of this
// backend.
func (p *Planner) Check(peer subnet.Lease) ([]string, error) { return nil, p.cfg.Covers(peer) }
