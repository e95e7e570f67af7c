package overlay

import (
	"fmt"
	"net/netip"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// takeRoutes notes the host's own routes that lie in the overlay network.
func (a *Agent) takeRoutes(host backend.Host) {
	s := a.state
	s.foreign = nil
	if s.config == nil {
		return
	}
	for _, r := range host.Routes {
		if n := s.config.Networks[subnet.FamilyOf(r.Dst.Addr())]; n.Enabled() && n.Network.Overlaps(r.Dst) {
			s.foreign = append(s.foreign, r)
		}
	}
}

// showShadows names the routes to peers that have no effect, as the host has
// one which the kernel prefers: of the same destination and a smaller metric,
// or to a part of it.
func (a *Agent) showShadows() {
	s := a.state
	shadows := map[backend.Key]string{}
	for _, r := range s.foreign {
		network := s.active.Networks[subnet.FamilyOf(r.Dst.Addr())]
		if r.Dst.Bits() < network.SubnetLen {
			continue
		}
		dst := netip.PrefixFrom(r.Dst.Addr(), network.SubnetLen).Masked()
		want, ok := a.desired.get(backend.Route{Dst: dst, Metric: backend.RouteMetric(dst)}.Key()).(backend.Route)
		if !ok || r.Dst == dst && r.Metric >= want.Metric {
			continue
		}
		shadows[want.Key()] = fmt.Sprintf("a foreign %s takes its place: remove that one (ip route delete %s dev %s metric %d) or choose another network",
			backend.Route{Dst: r.Dst, Link: r.Link, Via: r.Via, Metric: r.Metric}, r.Dst, r.Link, r.Metric)
	}
	for k, why := range a.board.shadows(shadows) {
		a.cfg.Log.WithField("object", k.String()).Warn(why)
	}
}
