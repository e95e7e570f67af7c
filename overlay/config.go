package overlay

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/alloc"
	"github.com/twill-net/twill/backend/vxlan"
	"github.com/twill-net/twill/subnet"
)

// takeConfig takes a new network config if it can be used, and reports whether
// it did. One that cannot leaves the old one at work and is told in the
// status.
func (a *Agent) takeConfig(raw []byte, recalled bool) bool {
	if raw == nil {
		return false
	}
	s := a.state
	next, err := subnet.ParseConfig(bytes.TrimSpace(raw))
	if err == nil && s.held != nil && s.planner != nil && !s.configRecalled {
		err = admissible(s.active, next, *s.held)
		if swallows := apart(next, *s.underlay); err != nil && swallows != nil {
			err = fmt.Errorf("%w; a restart of twilld before that leaves this node without a network", swallows)
		}
	}
	if err != nil && s.config != nil {
		err = fmt.Errorf("%w; the old config stays at work", err)
	}
	a.board.configTaken(err)
	if err != nil {
		a.cfg.Log.WithError(err).Warn("network config refused")
		return false
	}
	confirmed := s.configRecalled && !recalled
	s.configRecalled = recalled
	a.usable.Store(&raw)
	if s.config != nil && *s.config == next {
		return confirmed // it is announced now
	}
	s.config = &next
	s.routes = true // what of the underlay matters depends on the config
	a.board.config(next)
	a.cfg.Log.WithField("backend", next.Backend.Type).Info("network config taken")
	return true
}

// admissible says why a running node cannot take over a config: what would
// need another lease, and so cut its pods off, wants a restart.
func admissible(old, next subnet.Config, own subnet.Held) error {
	if old.Backend.Type != next.Backend.Type {
		return fmt.Errorf("Backend.Type changed from %s to %s; it takes effect when twilld is restarted", old.Backend.Type, next.Backend.Type)
	}
	for _, f := range subnet.Families {
		was, is := old.Networks[f], next.Networks[f]
		fits := is.Contains
		if own.Reserved() {
			fits = is.Covers
		}
		switch {
		case was.Enabled() != is.Enabled():
			return fmt.Errorf("%s was switched %s; it takes effect when twilld is restarted", f, onOff(is.Enabled()))
		case is.Enabled() && !fits(own.Lease.Subnets[f]):
			return fmt.Errorf("%s network %s no longer leases this node's subnet %s; restarting twilld takes this node's subnet away, and its pods must be made anew then",
				f, is.Network, own.Lease.Subnets[f])
		}
	}
	return nil
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// apart says which network holds an address of the node itself.
func apart(cfg subnet.Config, u backend.Underlay) error {
	for _, f := range subnet.Families {
		for _, ip := range []netip.Addr{u.Addresses[f], u.PublicIPs[f]} {
			if n := cfg.Networks[f]; n.Enabled() && ip.IsValid() && n.Network.Contains(ip) {
				return fmt.Errorf("network %s holds the node's own address %s on %s: pods and nodes need networks apart, choose another Network",
					n.Network, ip, u.Interface)
			}
		}
	}
	return nil
}

// newPlanner makes the planner that the config asks for.
func newPlanner(cfg subnet.Config, u backend.Underlay, node string) (Planner, error) {
	if err := apart(cfg, u); err != nil {
		return nil, err
	}
	if cfg.Backend.Type == subnet.BackendAlloc {
		return alloc.New(cfg, u), nil
	}
	return vxlan.New(cfg, u, node)
}
