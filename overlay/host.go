package overlay

import (
	"context"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/backend"
)

// takeHost looks at the host's interfaces again, and at its routes, of which
// there may be many, if those changed, or an interface that matters: a link
// that goes down and an address that goes take routes along without a word. It
// reports whether the underlay and whether the pods are others than before. It
// returns nil when nothing had to be looked at, or it could not be.
func (a *Agent) takeHost(ctx context.Context) (seen []backend.Interface, underlay, pods bool) {
	s := a.state
	if s.host && !s.routes {
		interfaces, err := a.kernel.Interfaces(ctx)
		if err != nil {
			return nil, a.noUnderlay(ctx, err), false
		}
		if slices.EqualFunc(a.mattering(interfaces), s.interfaces, sameInterface) {
			s.host = false
			return interfaces, false, a.takePods(interfaces)
		}
		s.routes = true
	}
	if !s.routes {
		return nil, false, false
	}
	started := time.Now()
	host, err := a.kernel.Host(ctx)
	if err != nil {
		return nil, a.noUnderlay(ctx, err), false
	}
	a.inbox.routesRead(time.Since(started))
	s.host, s.routes = false, false
	s.interfaces = a.mattering(host.Interfaces)
	a.board.readBack(time.Now())
	a.takeRoutes(host)
	return host.Interfaces, a.takeUnderlay(ctx, host), a.takePods(host.Interfaces)
}

// mattering returns the interfaces that the underlay is chosen from: all but
// our own and what leads to pods, veths without an address that peers could
// know.
func (a *Agent) mattering(all []backend.Interface) []backend.Interface {
	var out []backend.Interface
	for _, i := range all {
		usable := slices.ContainsFunc(i.Addresses, func(a backend.InterfaceAddress) bool { return a.Usable })
		chosen := a.state.underlay != nil && a.state.underlay.Interface == i.Name
		ours := a.cfg.Underlay.Ours != nil && a.cfg.Underlay.Ours(i.Name)
		if ours || i.Kind == "veth" && !usable && !chosen {
			continue
		}
		out = append(out, i)
	}
	return out
}

// sameInterface compares what kernel.Interfaces tells, but for the alias.
func sameInterface(a, b backend.Interface) bool {
	return a.Name == b.Name && a.Kind == b.Kind && a.MTU == b.MTU && a.Up == b.Up && a.Loopback == b.Loopback &&
		a.Master == b.Master && slices.Equal(a.Addresses, b.Addresses)
}

func (a *Agent) noUnderlay(ctx context.Context, err error) (changed bool) {
	if a.board.problem(partUnderlay, err) && ctx.Err() == nil {
		a.cfg.Log.WithError(err).Warn("the underlay could not be chosen, will look again when it changes")
	}
	return false
}

// takeUnderlay chooses the underlay again, and reports whether it changed. One
// that cannot be chosen now, while a link flaps, say, leaves the old one.
func (a *Agent) takeUnderlay(ctx context.Context, host backend.Host) bool {
	s := a.state
	var before backend.Underlay
	if s.underlay != nil {
		before = *s.underlay
	}
	u, err := a.cfg.Underlay.Select(host, a.cfg.Route, before)
	if err != nil {
		return a.noUnderlay(ctx, err)
	}
	if s.config == nil || !s.config.Backend.VXLAN.DirectRouting {
		u.OnLink = nil // does not matter, and changes with every pod
	}
	a.board.underlayChosen(u)
	if s.underlay != nil && s.underlay.Equal(u) {
		return false
	}
	if s.underlay == nil || s.underlay.Interface != u.Interface || s.underlay.PublicIPs != u.PublicIPs || s.underlay.MTU != u.MTU {
		a.cfg.Log.WithFields(logrus.Fields{"interface": u.Interface, "mtu": u.MTU, "public_ips": addrs(u.PublicIPs)}).Info("underlay chosen")
	}
	s.underlay = &u
	return true
}
