package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/vxlan"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
)

// Kernel is where a host's settings are; backend/kernel has it.
type Kernel interface {
	Host(ctx context.Context) (backend.Host, error)
	Observe(ctx context.Context, sysctls []string) (backend.State, error)
	Apply(ctx context.Context, changes []backend.Change) []error
	RouteGet(ctx context.Context, addr netip.Addr) (link string, src netip.Addr, err error)
}

// Preparation is what a host needs before a daemon runs on it that may change
// neither sysctls nor load modules, as in a container which is not privileged.
type Preparation struct {
	Config     subnet.Config // the zero value: it is not known, and the host is prepared for each family that it has
	LoadModule func(ctx context.Context, name string) error
	Underlay   underlay.Options // by what the daemon chooses its interface, as far as it is known without a store
	SysctlRoot string           // "": /proc/sys
}

// bridgeModule lets the host's rules see what crosses a bridge.
const bridgeModule = "br_netfilter"

// BridgeSysctls are the settings with which the rules of kube-proxy see what
// one pod sends to another over the bridge that both hang on: a Service's
// answers come back by its address. They are there once br_netfilter is loaded.
func BridgeSysctls(cfg subnet.Config) []backend.Object {
	names := subnet.PerFamily[string]{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"}
	var objects []backend.Object
	for _, f := range subnet.Families {
		if cfg.Networks[f].Enabled() {
			objects = append(objects, backend.Sysctl{Name: names[f], Value: "1"})
		}
	}
	return objects
}

// Run loads the module and sets the sysctls, those which the daemon would set
// and BridgeSysctls, and returns what it changed. It goes on where something
// fails. What is right already is not written.
func (p Preparation) Run(ctx context.Context, k Kernel) (changed []string, err error) {
	unknown := p.Config == subnet.Config{}
	if unknown {
		p.Config = p.anyConfig()
	}
	var errs []error
	switch loaded, err := p.module(ctx); {
	case err != nil:
		errs = append(errs, err)
	case loaded:
		changed = append(changed, "module "+bridgeModule+": loaded")
	}
	host, err := k.Host(ctx)
	if err != nil {
		return changed, errors.Join(append(errs, err)...)
	}
	want := p.sysctls(host, p.uplinks(ctx, k, host), unknown)
	if err := errors.Join(errs...); err != nil { // without the module its settings are not there
		want = slices.DeleteFunc(want, func(o backend.Object) bool {
			return slices.Contains(BridgeSysctls(p.Config), o)
		})
	}
	done, err := set(ctx, k, want)
	return append(changed, done...), errors.Join(append(errs, err)...)
}

func (p Preparation) sysctlPath(name string) string {
	return filepath.Join(cmp.Or(p.SysctlRoot, "/proc/sys"), name)
}

// anyConfig stands for a config that is not known: it may have either family
// that this kernel has.
func (p Preparation) anyConfig() (c subnet.Config) {
	names := subnet.PerFamily[string]{"net/ipv4", "net/ipv6"}
	all := subnet.PerFamily[netip.Addr]{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	for f, name := range names {
		if _, err := os.Stat(p.sysctlPath(name)); err == nil {
			c.Networks[f].Network = netip.PrefixFrom(all[f], 0)
		}
	}
	return c
}

// module loads bridgeModule unless it is there, built in perhaps.
func (p Preparation) module(ctx context.Context) (loaded bool, err error) {
	there := func() error { _, err := os.Stat(p.sysctlPath("net/bridge")); return err }
	if err := there(); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := p.LoadModule(ctx, bridgeModule); err != nil {
		return false, fmt.Errorf("loading the module %s, without which pods of one node do not reach each other by a Service: %w", bridgeModule, err)
	}
	if err := there(); err != nil {
		return false, fmt.Errorf("loading the module %s: it is loaded, but has no settings in this network namespace: %w", bridgeModule, err)
	}
	return true, nil
}

// sysctls are the settings that the host is to have. Where the config is not
// known, they are those of every device of ours, and IPv6 is switched on nowhere.
func (p Preparation) sysctls(host backend.Host, uplinks []string, unknown bool) []backend.Object {
	want := BridgeSysctls(p.Config)
	add := func(objects ...backend.Object) {
		for _, o := range objects {
			if _, ok := o.(backend.Sysctl); ok && !slices.Contains(want, o) {
				want = append(want, o)
			}
		}
	}
	add(backend.HostObjects(p.Config, subnet.Lease{}, backend.Underlay{}, backend.HostOptions{})...)
	for _, uplink := range uplinks {
		add(backend.HostObjects(p.Config, subnet.Lease{}, backend.Underlay{Interface: uplink, TakesRA: true}, backend.HostOptions{})...)
	}
	if p.Config.Networks[subnet.IPv6].Enabled() {
		// The daemon's devices, and the pods' bridge, begin with what is here.
		add(backend.Sysctl{Name: "net/ipv6/conf/default/disable_ipv6", Value: "0"})
	}
	for _, i := range host.Interfaces {
		if !p.ours(i.Name, unknown) {
			continue
		}
		for _, f := range subnet.Families {
			if p.Config.Networks[f].Enabled() {
				add(vxlan.Settings(i.Name, f)...)
			}
		}
	}
	if unknown {
		want = slices.DeleteFunc(want, func(o backend.Object) bool { return strings.HasSuffix(o.(backend.Sysctl).Name, "/disable_ipv6") })
	}
	return want
}

// ours reports whether a device is one of the config's.
func (p Preparation) ours(device string, unknown bool) bool {
	if unknown {
		return vxlan.DevicePattern.MatchString(device)
	}
	return slices.ContainsFunc(subnet.Families[:], func(tunnel subnet.Family) bool { return device == vxlan.Device(tunnel, p.Config.Backend.VXLAN.VNI) })
}

// uplinks are the interfaces that would stop to take router advertisements when
// the host forwards, and must not: those with a default route of IPv6, and the
// one that the daemon would choose to face its peers.
func (p Preparation) uplinks(ctx context.Context, k Kernel, host backend.Host) []string {
	o := p.Underlay
	o.Ours = vxlan.DevicePattern.MatchString
	route := func(to netip.Addr) (string, netip.Addr, error) { return k.RouteGet(ctx, to) }
	chosen, _ := o.Select(host, route, backend.Underlay{}) // where there is none yet, the daemon says so
	var names []string
	for _, i := range host.Interfaces {
		hasDefault := slices.ContainsFunc(host.Routes, func(r backend.HostRoute) bool {
			return r.Link == i.Name && r.Dst.Addr().Is6() && r.Dst.Bits() == 0
		})
		if i.AcceptRA == 1 && !i.ForwardsIP6 && (hasDefault || i.Name == chosen.Interface) {
			names = append(names, i.Name)
		}
	}
	return names
}

// set makes the kernel have what is wanted, and looks whether it has.
func set(ctx context.Context, k Kernel, want []backend.Object) (changed []string, err error) {
	have, err := sysctlsOf(ctx, k, want)
	if err != nil {
		return nil, err
	}
	changes := backend.Diff(backend.NewState(want...), have)
	var errs []error
	for i, err := range k.Apply(ctx, changes) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		was := "(none)"
		if s, ok := changes[i].Have.(backend.Sysctl); ok {
			was = s.Value
		}
		now := changes[i].Want.(backend.Sysctl)
		changed = append(changed, fmt.Sprintf("sysctl %s: %s → %s", now.Name, was, now.Value))
	}
	if len(errs) > 0 {
		return changed, errors.Join(errs...)
	}
	have, err = sysctlsOf(ctx, k, want)
	for _, c := range backend.Diff(backend.NewState(want...), have) {
		errs = append(errs, fmt.Errorf("setting %s: the kernel took it, and has another value: something else sets it back", c.Want))
	}
	return changed, errors.Join(append(errs, err)...)
}

// sysctlsOf is what the kernel has of them.
func sysctlsOf(ctx context.Context, k Kernel, want []backend.Object) (backend.State, error) {
	names := make([]string, len(want))
	for i, o := range want {
		names[i] = o.(backend.Sysctl).Name
	}
	have, err := k.Observe(ctx, names)
	if err != nil {
		return nil, err
	}
	for key := range have {
		if key.Kind != backend.KindSysctl {
			delete(have, key)
		}
	}
	return have, nil
}
