package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/pods"
)

// errAltered is the code of an attachment that is not as ADD left it; 100 and
// more are a plugin's own by the spec.
const errAltered uint = 100

// check looks at the attachment itself and then has the delegate look.
func (p Plugin) check(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := loadValid(args.StdinData)
	if err != nil {
		return err
	}
	_, result := conf.prevResult()
	if result == nil {
		return invalid(fmt.Errorf("checking container %s: prevResult is missing or no result of version %s: CHECK compares with it", args.ContainerID, conf.CNIVersion))
	}
	host, err := open(0)
	if err != nil {
		return err
	}
	defer host.Close()
	in, err := enter(host, args)
	if err != nil {
		return err
	}
	defer in.close()
	a := attachment{conf: conf, args: args, result: result, pair: in}
	if err := a.check(ctx); err != nil {
		var e *types.Error
		if errors.As(err, &e) {
			return e
		}
		return types.NewError(errAltered, fmt.Sprintf("checking interface %s of container %s: %v", args.IfName, args.ContainerID, err), "")
	}
	raw, err := a.forDelegate(ctx)
	if err != nil {
		return err
	}
	plugin, err := conf.attached(args, raw, nil)
	if err != nil {
		return err
	}
	return plugin.check(ctx)
}

// attachment is one that is checked.
type attachment struct {
	conf   Conf
	args   *skel.CmdArgs
	result *current.Result
	*pair
}

// check returns the first thing that is not as ADD left it.
func (a attachment) check(ctx context.Context) error {
	pod, err := a.pod.Interface(ctx, a.args.IfName)
	if errors.Is(err, unix.ENODEV) {
		return errors.New("the pod has no such interface")
	}
	if err != nil {
		return ioFailure(err)
	}
	if !pod.Up {
		return errors.New("it is down")
	}
	if err := a.checkAddresses(pod); err != nil {
		return err
	}
	if err := a.checkRoutes(ctx); err != nil {
		return err
	}
	mtu := a.mtu()
	if mtu != 0 && pod.MTU > mtu {
		return fmt.Errorf("its MTU is %d and not the %d that ADD gave it: larger packets are lost", pod.MTU, mtu)
	}
	name, err := a.hostEnd(ctx, a.args, a.result)
	if err != nil {
		return ioFailure(err)
	}
	if name == "" {
		return a.checkPeerless()
	}
	veth, err := a.host.Interface(ctx, name)
	if err != nil {
		return ioFailure(err)
	}
	if err := a.checkVeth(veth, pod, mtu); err != nil {
		return fmt.Errorf("its end on the host, %s: %w", name, err)
	}
	return a.checkBridge(ctx, veth)
}

// own returns the addresses that the result has for this interface.
func (a attachment) own() (all []netip.Prefix) {
	for _, ip := range a.result.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(a.result.Interfaces) && a.result.Interfaces[*i].Name != a.args.IfName {
			continue
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		ones, bits := ip.Address.Mask.Size()
		if ok && bits != 0 {
			all = append(all, netip.PrefixFrom(addr.Unmap(), ones))
		}
	}
	return all
}

func (a attachment) checkAddresses(pod backend.Interface) error {
	for _, want := range a.own() {
		if !has(pod, want) {
			return fmt.Errorf("it has not the address %s", want)
		}
	}
	return nil
}

// checkRoutes looks for the result's routes in the main table. Of two
// interfaces in one network, the first has the route.
func (a attachment) checkRoutes(ctx context.Context) error {
	host, err := a.pod.Host(ctx)
	if err != nil {
		return ioFailure(err)
	}
	for _, r := range a.result.Routes {
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		ones, bits := r.Dst.Mask.Size()
		if !ok || bits == 0 || r.Table != nil && *r.Table != unix.RT_TABLE_MAIN {
			continue
		}
		dst := netip.PrefixFrom(addr.Unmap(), ones).Masked()
		via, _ := netip.AddrFromSlice(r.GW)
		via = via.Unmap()
		if !slices.ContainsFunc(host.Routes, func(h backend.HostRoute) bool {
			return h.Dst == dst && (!via.IsValid() || h.Via == via)
		}) {
			if via.IsValid() {
				return fmt.Errorf("the pod has no route to %s via %s", dst, via)
			}
			return fmt.Errorf("the pod has no route to %s", dst)
		}
	}
	return nil
}

// mtu returns what mark wrote into the result, 0 if nothing. A plugin chained
// behind us may have lowered the pod's MTU since (tuning), not that of the
// host's end.
func (a attachment) mtu() int {
	for _, i := range a.result.Interfaces {
		if i.Name == a.args.IfName && i.Sandbox != "" {
			return i.Mtu
		}
	}
	return 0
}

// checkPeerless: a pair's other end cannot go by itself, but it can be moved.
func (a attachment) checkPeerless() error {
	if t, err := a.conf.delegateType(); err == nil && slices.Contains(masqueraders, t) {
		return errors.New("its other end is not on the host")
	}
	return nil
}

func (a attachment) checkVeth(veth, pod backend.Interface, mtu int) error {
	switch {
	case !veth.Up:
		return errors.New("is down")
	case mtu != 0 && veth.MTU != mtu:
		return fmt.Errorf("has MTU %d and not the %d that ADD gave it", veth.MTU, mtu)
	case veth.MTU < pod.MTU:
		return fmt.Errorf("has MTU %d, and the pod's has %d: larger packets are lost", veth.MTU, pod.MTU)
	}
	p, err := pods.Parse(veth.Alias)
	if err != nil || !p.Is(a.conf.Name, a.args.ContainerID, a.args.IfName) {
		want, _ := a.conf.alias(a.args, a.result)
		return fmt.Errorf("has the alias %q and not %q: twilld does not know whose it is", veth.Alias, want)
	}
	for _, addr := range p.Addresses {
		if addr.IsValid() && !slices.Contains(allAddresses(a.result), addr) {
			return fmt.Errorf("says by its alias that the pod has %s", addr)
		}
	}
	return nil
}

// checkBridge looks whether the pod hangs on its bridge and finds its gateways
// there.
func (a attachment) checkBridge(ctx context.Context, veth backend.Interface) error {
	if t, err := a.conf.delegateType(); err != nil || t != "bridge" {
		return err
	}
	name, gateway, err := a.conf.bridge()
	if err != nil {
		return invalid(err)
	}
	if veth.Master != name {
		return fmt.Errorf("its end on the host, %s, is not a port of bridge %s", veth.Name, name)
	}
	bridge, err := a.host.Interface(ctx, name)
	if err != nil {
		return ioFailure(err)
	}
	if !bridge.Up {
		return fmt.Errorf("bridge %s is down", name)
	}
	for _, ip := range a.result.IPs {
		addr, ok := netip.AddrFromSlice(ip.Gateway)
		addr = addr.Unmap()
		if gateway && ok && !slices.ContainsFunc(bridge.Addresses, func(b backend.InterfaceAddress) bool { return b.Prefix.Addr() == addr }) {
			return fmt.Errorf("its gateway %s is not on bridge %s", addr, name)
		}
	}
	return nil
}

// bridge returns the bridge's name, and whether it has the pods' gateway
// addresses: with VLANs another interface has.
func (c Conf) bridge() (name string, gateway bool, err error) {
	name, gateway = pods.DefaultBridge, true
	err = errors.Join(
		decode(c.delegate, "bridge", &name, "the name of a bridge"),
		decode(c.delegate, "isGateway", &gateway, "true or false"))
	var isDefault bool
	if decode(c.delegate, "isDefaultGateway", &isDefault, "") == nil && isDefault {
		gateway = true
	}
	for _, k := range []string{"vlan", "vlanTrunk"} {
		if _, ok := c.delegate[k]; ok {
			gateway = false
		}
	}
	return name, gateway, err
}

// forDelegate returns prevResult without the MAC addresses of bridges. A
// bridge has the lowest of its ports' addresses, and so another with each pod
// that comes and goes (net/bridge/br_stp_if.c), but the bridge plugin's CHECK
// compares it with what it was.
func (a attachment) forDelegate(ctx context.Context) (json.RawMessage, error) {
	r := *a.result
	r.Interfaces = nil
	for _, i := range a.result.Interfaces {
		i = i.Copy()
		if i.Sandbox == "" && i.Mac != "" {
			if link, err := a.host.Interface(ctx, i.Name); err == nil && link.Kind == "bridge" {
				i.Mac = ""
			}
		}
		r.Interfaces = append(r.Interfaces, i)
	}
	result, err := r.GetAsVersion(a.conf.CNIVersion)
	if err != nil {
		return nil, invalid(err)
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return nil, invalid(err)
	}
	return raw, nil
}

func has(i backend.Interface, p netip.Prefix) bool {
	return slices.ContainsFunc(i.Addresses, func(a backend.InterfaceAddress) bool { return a.Prefix == p })
}
