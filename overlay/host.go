package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/underlay"
)

// takeHost looks at the host's interfaces again, and at its routes, of which
// there may be many, if those changed, or an interface that matters: a link
// that goes down and an address that goes take routes along without a word. It
// reports whether the underlay and whether the pods are others than before. It
// returns nil when nothing had to be looked at, or it could not be.
func (a *Agent) takeHost(ctx context.Context) (seen []backend.Interface, underlay, pods bool) {
	s := a.state
	started := time.Now()
	if s.host && !s.routes {
		interfaces, err := a.kernel.Interfaces(ctx)
		a.inbox.hostRead(time.Since(started))
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
	started = time.Now()
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
	if a.board.problem(partUnderlay, err) && ctx.Err() == nil && !errors.Is(err, errNoWord) {
		a.cfg.Log.WithError(err).Warn("the underlay could not be chosen, will look again when it changes")
	}
	return false
}

// errNoWord is no trouble at a start.
var errNoWord = errors.New("waiting for what the cluster says of this node's addresses")

// options returns what the underlay is chosen by, and what there is to say of it.
//
// An InternalIP that was on this host and is not any more does not mean that
// the node is behind NAT now: it got another address, and the cluster will say
// so.
func (a *Agent) options(host backend.Host) (o underlay.Options, notes []string, err error) {
	s := a.state
	o = a.cfg.Underlay
	if a.cfg.NodeAddresses == nil {
		return o, nil, nil
	}
	if s.node == nil {
		return o, nil, errNoWord
	}
	doubted := s.doubted
	// Also what an earlier run knew: a machine that boots starts kubelet and daemon
	// at once, and the Node may be without addresses for a moment.
	o.Node, s.nodeAt = s.belief.Take(*s.node, host, time.Now())
	if s.doubted = !s.nodeAt.IsZero(); s.doubted && !doubted {
		a.cfg.Log.WithField("internal_ips", addrs(o.Node.Internal)).Info("the Node's InternalIP is another one or none: the one before counts for some seconds more")
	}
	for f, ip := range o.Node.Internal {
		switch {
		case !ip.IsValid():
		case underlay.Holder(host, ip) != "":
			s.onHost[f] = ip
		case s.onHost[f] == ip:
			o.Node.Internal[f] = netip.Addr{}
			notes = append(notes, fmt.Sprintf("the Node's InternalIP %s is on this host no more: it does not count until the cluster says another", ip))
		}
	}
	return o, notes, nil
}

// passedOver says which annotations of the Node cannot be used, and what is used
// in their place; nil for none.
func passedOver(n underlay.Node, u backend.Underlay) error {
	var all []string
	for f, why := range n.Unusable {
		switch ip := u.PublicIPs[f]; {
		case why == "":
		case ip.IsValid():
			all = append(all, fmt.Sprintf("%s; still using %s", why, ip))
		default:
			all = append(all, why)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return errors.New(strings.Join(all, "; "))
}

// takeUnderlay chooses the underlay again, and reports whether it changed. One
// that cannot be chosen now, while a link flaps, say, leaves the old one.
func (a *Agent) takeUnderlay(ctx context.Context, host backend.Host) bool {
	s := a.state
	var before backend.Underlay
	if s.underlay != nil {
		before = *s.underlay
	}
	options, notes, err := a.options(host)
	if err != nil {
		return a.noUnderlay(ctx, err)
	}
	u, err := options.Select(host, a.cfg.Route, before)
	if err != nil && s.underlay != nil {
		err = fmt.Errorf("%w; still using %s on %s; were twilld restarted now, the node would not be ready", err, strings.Join(addrs(before.PublicIPs), ", "), before.Interface)
	}
	if err != nil {
		a.board.problem(partAddress, passedOver(options.Node, before))
		return a.noUnderlay(ctx, err)
	}
	a.board.problem(partAddress, passedOver(options.Node, u))
	by, more := options.Explain(host, u)
	if notes = append(notes, more...); a.board.underlayChosen(u, by, notes) && len(notes) > 0 {
		a.cfg.Log.WithField("interface", u.Interface).Warn(strings.Join(notes, "; "))
	}
	if s.config == nil || !s.config.Backend.VXLAN.DirectRouting {
		u.OnLink = nil // does not matter, and changes with every pod
	}
	if s.underlay != nil && s.underlay.Equal(u) {
		return false
	}
	if s.underlay == nil || s.underlay.Interface != u.Interface || s.underlay.PublicIPs != u.PublicIPs || s.underlay.MTU != u.MTU {
		a.cfg.Log.WithFields(logrus.Fields{"interface": u.Interface, "mtu": u.MTU, "by": by, "public_ips": addrs(u.PublicIPs)}).Info("underlay chosen")
	}
	s.underlay = &u
	return true
}
