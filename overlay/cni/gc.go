package cni

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/overlay/pods/leftover"
	"github.com/twill-net/twill/subnet/envfile"
)

// validKeys are the names under which the list of valid attachments comes: the
// spec's, and the one that an earlier text of it had. libcni writes both.
var validKeys = []string{"cni.dev/valid-attachments", "cni.dev/attachments"}

// gc releases what nobody holds: neither the runtime by its list, nor a pod
// that is there by the kernel. So a runtime that shares the network with
// another, or whose list is wrong, costs no living pod its address. Without a
// list, reality alone counts, for what is ten minutes old, as with the daemon's
// own sweep; the delegate, which would have the list alone to go by, is not run.
func (p Plugin) gc(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := Load(args.StdinData)
	if err != nil {
		return invalid(err)
	}
	valid, listed, err := conf.validAttachments()
	if err != nil {
		return invalid(err)
	}
	host, err := open(0)
	if err != nil {
		return err
	}
	defer host.Close()
	var errs []error
	if listed {
		errs = append(errs, conf.delegateGC(ctx, args))
	}
	stay, err := conf.release(ctx, host, args, valid, listed)
	errs = append(errs, err)
	if listed && err == nil {
		errs = append(errs, collectMasquerade(ctx, host, conf.Name, stay))
	}
	return oneError(errs)
}

// validAttachments returns the runtime's list, and whether there is one. null
// is a list: libcni writes a list of none so.
func (c Conf) validAttachments() (valid []types.GCAttachment, listed bool, err error) {
	for _, k := range validKeys {
		raw, ok := c.keys[k]
		if !ok {
			continue
		}
		if err := decode(c.keys, k, &valid, `a list such as [{"containerID":"4c01db0b339c","ifname":"eth0"}]`); err != nil {
			return nil, false, err
		}
		for _, a := range valid {
			if a.ContainerID == "" || a.IfName == "" {
				return nil, false, unlike(k, raw, "containerID and ifname of each")
			}
		}
		return valid, true, nil
	}
	return nil, false, nil
}

// delegateGC hands the list on, as the spec has it. A plugin that does not
// know the verb answers with code 4.
func (c Conf) delegateGC(ctx context.Context, args *skel.CmdArgs) error {
	list := object{}
	for _, k := range validKeys {
		if raw, ok := c.keys[k]; ok {
			list[k] = raw
		}
	}
	plugin, err := c.attached(args, nil, list)
	if err != nil {
		return err
	}
	_, err = plugin.exec(ctx, "GC", "")
	var e *types.Error
	if errors.As(err, &e) && e.Code == types.ErrInvalidEnvironmentVariables {
		return nil
	}
	return err
}

// release releases stale reservations of host-local, and returns the
// attachments that stay: those listed, and those that are there.
func (c Conf) release(ctx context.Context, k *kernel.Kernel, args *skel.CmdArgs, valid []types.GCAttachment, listed bool) ([]types.GCAttachment, error) {
	ground := c.ground()
	inv, err := pods.Read(ctx, k, ground)
	if err != nil {
		return nil, err
	}
	stay := slices.Clone(valid)
	for _, p := range inv.Pods {
		if p.Is(c.Name, p.Container, p.IfName) {
			stay = append(stay, types.GCAttachment{ContainerID: p.Container, IfName: p.IfName})
		}
	}
	network, ok := c.reservations(listed)
	if !ok {
		return stay, nil
	}
	bandwidth, _ := findPlugin("bandwidth", args.Path)
	sweeper := pods.Sweeper{Leftovers: leftover.Host{Kernel: k, Bandwidth: bandwidth}, Inventory: func(ctx context.Context) (pods.Inventory, error) {
		inv, err := pods.Read(ctx, k, ground)
		for _, a := range valid {
			inv.Pods = append(inv.Pods, pods.Named(c.Name, a.ContainerID, a.IfName))
		}
		return inv, err
	}}
	if listed {
		sweeper.MinAge = -1 // the spec: a runtime runs no ADD beside GC
	}
	_, err = sweeper.Sweep(ctx, []pods.Network{network})
	return stay, err
}

// ground is what tells veths without an alias that may be ours from others.
func (c Conf) ground() pods.Ground {
	var g pods.Ground
	if env, err := envfile.Read(c.SubnetFile); err == nil {
		g.Overlay = slices.Concat(env.Networks[0], env.Networks[1])
	}
	var bridge string
	if decode(c.delegate, "bridge", &bridge, "") == nil && bridge != "" {
		g.Bridges = []string{bridge}
	}
	return g
}

// reservations returns where host-local keeps those of this network. A
// delegate whose pods have no veth is for a runtime's list alone.
func (c Conf) reservations(listed bool) (pods.Network, bool) {
	raw, err := json.Marshal(c.keys)
	if err != nil {
		return pods.Network{}, false
	}
	if n, err := pods.NetworkOf(c.Name, raw); err == nil {
		return n, true
	}
	t, err := c.ipamType()
	if err != nil || t != "host-local" || !listed {
		return pods.Network{}, false
	}
	dir := pods.DefaultDataDir
	if decode(c.ipam, "dataDir", &dir, "") != nil || !filepath.IsAbs(dir) {
		return pods.Network{}, false
	}
	return pods.Network{Name: c.Name, Dir: filepath.Join(dir, c.Name)}, true
}

// oneError joins errors into one of the spec, with the code of the first that
// has one.
func oneError(errs []error) error {
	joined := errors.Join(errs...)
	if joined == nil {
		return nil
	}
	code := types.ErrInternal
	if e := (*types.Error)(nil); errors.As(joined, &e) {
		code = e.Code
	}
	return types.NewError(code, joined.Error(), "")
}
