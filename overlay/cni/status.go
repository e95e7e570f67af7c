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

// statusOfDevices looks for the device of each family: none at all is a node
// that is not ready (50); something amiss with what is there leaves the pods
// that run without their peers (51).
func (c Conf) statusOfDevices(ctx context.Context, env envfile.Env) error {
	if want, err := c.hasDevice(); err != nil || !want {
		return err
	}
	k, err := open(0)
	if err != nil {
		return err
	}
	defer k.Close()
	var amiss []string
	missing, families := 0, 0
	for _, f := range subnet.Families {
		if !env.Subnets[f].IsValid() {
			continue
		}
		families++
		address := netip.PrefixFrom(env.Subnets[f].Masked().Addr(), f.Bits())
		device, ok, err := deviceWith(ctx, k, address)
		switch {
		case err != nil:
			return ioFailure(err)
		case !ok:
			missing++
			amiss = append(amiss, fmt.Sprintf("no VXLAN device of twill has the address %s", address))
		case !device.Up:
			amiss = append(amiss, fmt.Sprintf("the VXLAN device %s is down", device.Name))
		}
	}
	if len(amiss) == 0 {
		return nil
	}
	code := types.ErrLimitedConnectivity
	if missing == families {
		code = types.ErrPluginNotAvailable
	}
	return types.NewError(code, "looking for the node's VXLAN device: "+strings.Join(amiss, ", "),
		`is twilld running and ready on this node? with a backend that makes no device, the network config says "device": "none"`)
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
