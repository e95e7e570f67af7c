package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/backend/vxlan"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

// status asks the node and not the daemon, so that an upgrade or a crash of
// twilld does not turn a node that works NotReady: the lease is what subnet.env
// says, the device is in the kernel.
func (p Plugin) status(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := loadValid(args.StdinData)
	if err != nil {
		return err
	}
	env, err := envfile.Read(conf.SubnetFile)
	if err != nil {
		return unavailable(err.Error(), "is twilld running and ready on this node? `twill status` says what it waits for")
	}
	delegate, err := conf.Delegate(env, "")
	if err != nil {
		return invalid(err)
	}
	ipam, err := conf.ipamType()
	if err != nil {
		return invalid(err)
	}
	for _, name := range []string{delegate.Type, ipam} {
		if _, ok := findPlugin(name, args.Path); !ok {
			return unavailable(fmt.Sprintf("finding the plugin %s: it is not in CNI_PATH, which is %s", name, args.Path),
				"install the CNI reference plugins beside twill")
		}
	}
	if err := conf.settled(ctx, env, p.Settle); err != nil {
		return err
	}
	if ipam == "host-local" && slices.Contains(askIPAM, delegate.Type) {
		return nil
	}
	plugin, err := find(delegate, args)
	if err != nil {
		return err
	}
	return plugin.status(ctx)
}

// askIPAM are the delegates of which STATUS asks the IPAM plugin and no more.
// host-local does not know it, so that two of the processes that a runtime starts
// every five seconds would have nothing to say.
var askIPAM = []string{"bridge", "ptp"}

// status asks the delegate, which asks its IPAM plugin. One that does not know
// the verb answers with code 4, and is as able as it ever was.
func (r run) status(ctx context.Context) error {
	_, err := r.exec(ctx, "STATUS", "")
	var e *types.Error
	if !errors.As(err, &e) || e.Code == types.ErrInvalidEnvironmentVariables {
		return nil
	}
	if e.Code != types.ErrLimitedConnectivity {
		e.Code = types.ErrPluginNotAvailable
	}
	return e
}

// settled looks for the devices until nothing is amiss with them, at most so
// long: a runtime asks every few seconds, and one moment in which a device is
// being repaired or replaced must not turn the node NotReady.
func (c Conf) settled(ctx context.Context, env envfile.Env, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := c.statusOfDevices(context.WithoutCancel(ctx), env)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// statusOfDevices looks for the devices: none at all is a node that is not
// ready (50); something amiss with what is there leaves the pods that run
// without their peers (51).
func (c Conf) statusOfDevices(ctx context.Context, env envfile.Env) error {
	if want, err := c.hasDevice(); err != nil || !want {
		return err
	}
	k, err := open(0)
	if err != nil {
		return err
	}
	defer k.Close()
	look := addressed
	if len(env.Devices) > 0 {
		look = named
	}
	amiss, unable, err := look(ctx, k, env)
	if err != nil {
		return ioFailure(err)
	}
	if len(amiss) == 0 {
		return nil
	}
	code := types.ErrLimitedConnectivity
	if unable {
		code = types.ErrPluginNotAvailable
	}
	return types.NewError(code, "looking for the node's VXLAN device: "+strings.Join(amiss, ", "),
		`is twilld running and ready on this node? with a backend that makes no device, the network config says "device": "none"`)
}

// named looks for the devices that the daemon decided on, and says what is amiss,
// and whether none of them is in its place. Each carries the addresses of both
// families (vxlan.Planner), so that an address alone tells nothing of the second.
func named(ctx context.Context, k *kernel.Kernel, env envfile.Env) (amiss []string, unable bool, err error) {
	away := 0
	for _, name := range env.Devices {
		i, err := k.Interface(ctx, name)
		lacks, without := lacking(i, env)
		switch {
		case errors.Is(err, unix.ENODEV) || err == nil && i.Kind != "vxlan":
			away++
			amiss = append(amiss, "there is no VXLAN device "+name)
		case err != nil:
			return nil, false, err
		case !i.Up: // then the kernel has taken its IPv6 address, too
			amiss = append(amiss, fmt.Sprintf("the VXLAN device %s is down", name))
		case without:
			away++
			amiss = append(amiss, fmt.Sprintf("the VXLAN device %s has not the address %s", name, lacks))
		}
	}
	return amiss, away == len(env.Devices), nil
}

// lacking returns the first address of the node's subnets that an interface has
// not.
func lacking(i backend.Interface, env envfile.Env) (a netip.Prefix, lacks bool) {
	for _, f := range subnet.Families {
		a, used := address(env, f)
		if used && !slices.ContainsFunc(i.Addresses, func(have backend.InterfaceAddress) bool { return have.Prefix == a }) {
			return a, true
		}
	}
	return netip.Prefix{}, false
}

// address returns what a device of ours has of a family, where that is in use.
func address(env envfile.Env, f subnet.Family) (a netip.Prefix, used bool) {
	if !env.Subnets[f].IsValid() {
		return a, false
	}
	return netip.PrefixFrom(env.Subnets[f].Masked().Addr(), f.Bits()), true
}

// addressed is named for a file that names no devices: one with the address of
// each family is enough.
func addressed(ctx context.Context, k *kernel.Kernel, env envfile.Env) (amiss []string, unable bool, err error) {
	unable = true
	for _, f := range subnet.Families {
		a, used := address(env, f)
		if !used {
			continue
		}
		device, ok, err := deviceWith(ctx, k, a)
		switch {
		case err != nil:
			return nil, false, err
		case !ok:
			amiss = append(amiss, fmt.Sprintf("no VXLAN device of twill has the address %s", a))
			continue
		case !device.Up:
			amiss = append(amiss, fmt.Sprintf("the VXLAN device %s is down", device.Name))
		}
		unable = false
	}
	return amiss, unable, nil
}

func deviceWith(ctx context.Context, k *kernel.Kernel, address netip.Prefix) (backend.Interface, bool, error) {
	all, err := k.Carrying(ctx, address)
	if err != nil {
		return backend.Interface{}, false, err
	}
	for _, i := range all {
		if i.Kind == "vxlan" && vxlan.DevicePattern.MatchString(i.Name) {
			return i, true, nil
		}
	}
	return backend.Interface{}, false, nil
}

func unavailable(message, details string) error {
	return types.NewError(types.ErrPluginNotAvailable, message, details)
}
