package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

// Plugin answers the verbs of the CNI spec
// (https://github.com/containernetworking/cni/blob/main/SPEC.md).
type Plugin struct {
	// Wait is how long ADD waits for subnet.env.
	Wait time.Duration
	// Settle is how long STATUS looks again before it says that a device is
	// missing or down: the daemon repairs that in less than a second.
	Settle time.Duration
}

// Funcs returns the verbs for skel.PluginMainFuncs. Errors are *types.Error
// with a code of the spec, or the delegate's.
func (p Plugin) Funcs(ctx context.Context) skel.CNIFuncs {
	return skel.CNIFuncs{
		Add:    func(args *skel.CmdArgs) error { return ofPod(args, p.add(ctx, args)) },
		Check:  func(args *skel.CmdArgs) error { return ofPod(args, p.check(ctx, args)) },
		Del:    func(args *skel.CmdArgs) error { return ofPod(args, p.del(ctx, args)) },
		GC:     func(args *skel.CmdArgs) error { return p.gc(ctx, args) },
		Status: func(args *skel.CmdArgs) error { return p.status(ctx, args) },
	}
}

// ofPod puts the pod's name before the error, where the runtime has told it, as
// those of Kubernetes do: its log knows a container's ID alone.
func ofPod(args *skel.CmdArgs, err error) error {
	namespace, name := "", ""
	for _, arg := range strings.Split(args.Args, ";") {
		switch k, v, _ := strings.Cut(arg, "="); k {
		case "K8S_POD_NAMESPACE":
			namespace = v
		case "K8S_POD_NAME":
			name = v
		}
	}
	var e *types.Error
	if err == nil || namespace == "" || name == "" || !errors.As(err, &e) {
		return err
	}
	return types.NewError(e.Code, fmt.Sprintf("pod %s/%s: %s", namespace, name, e.Msg), e.Details)
}

func (p Plugin) add(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := loadValid(args.StdinData)
	if err != nil {
		return err
	}
	env, err := awaitEnv(ctx, conf.SubnetFile, p.Wait)
	if err != nil {
		return err
	}
	host, err := open(0)
	if err != nil {
		return err
	}
	defer host.Close()
	plugin, err := conf.toAdd(ctx, host, args, env)
	if err != nil {
		return err
	}
	in, err := vacant(ctx, host, args)
	if err != nil {
		return err // and nothing is undone: what is there is not ours to delete
	}
	defer in.close()
	result, err := plugin.add(ctx, conf.CNIVersion)
	var now *current.Result
	if err == nil {
		if now, err = current.NewResultFromResult(result); err != nil {
			err = plugin.failed("ADD", types.NewError(types.ErrDecodingFailure, err.Error(), ""))
		}
	}
	if err == nil {
		err = conf.mark(ctx, in, args, now)
	}
	if err != nil {
		// The spec, section 4: a plugin whose delegate fails on ADD runs it
		// again with DEL, so that nothing stays behind. Should that fail too,
		// the runtime's own DEL after a failed ADD is the retry.
		_ = p.del(ctx, args)
		return err
	}
	return types.PrintResult(now, conf.CNIVersion)
}

func (c Conf) toAdd(ctx context.Context, host *kernel.Kernel, args *skel.CmdArgs, env envfile.Env) (run, error) {
	backend := ""
	if c.masquerades(env) && nftUsable(ctx, host) {
		backend = masqPlugin
	}
	d, err := c.Delegate(env, backend)
	if err != nil {
		return run{}, invalid(err)
	}
	return find(d, args)
}

// del does not need subnet.env, nor does CHECK: a pod is what it is, also
// while the node has no subnet or has another one.
func (p Plugin) del(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := Load(args.StdinData)
	if err != nil {
		return invalid(err)
	}
	raw, result := conf.prevResult()
	plugin, err := conf.attached(args, raw, nil)
	if err != nil {
		return err
	}
	host, err := open(0)
	if err != nil {
		return err
	}
	defer host.Close()
	other, err := conf.locate(ctx, host, args)
	if err != nil {
		return err
	}
	attachment := types.GCAttachment{ContainerID: args.ContainerID, IfName: args.IfName}
	var rules rules
	var unknown error
	if raw != nil {
		rules, unknown = findRules(ctx, host, conf.Name, attachment)
	}
	if args.Netns == "" {
		if err := conf.unlink(ctx, host, args); err != nil {
			return err
		}
	}
	if err := plugin.del(ctx); err != nil {
		return err
	}
	if raw == nil {
		// The ADD was cut off, perhaps: what its delegate had begun to run, nft or
		// iptables, may have ended only now.
		rules, unknown = findRules(ctx, host, conf.Name, attachment)
	}
	if unknown != nil { // and the address is not kept for it
		return ioFailure(unknown)
	}
	// The names of macspoofchk's rules say nothing of the network: those of
	// another one's live attachment with the same container and interface stay.
	if other.Is(other.Network, args.ContainerID, args.IfName) {
		rules.macs = false
	}
	if err := rules.remove(ctx, host, allAddresses(result)); err != nil {
		return ioFailure(err)
	}
	return nil
}

// prevResult returns the request's prevResult, nil where it is not one: a
// runtime's cache may have been cut off by a power loss.
func (c Conf) prevResult() (json.RawMessage, *current.Result) {
	raw, ok := c.keys["prevResult"]
	if !ok {
		return nil, nil
	}
	// A runtime writes the version into the result; libcni's own check is the
	// same.
	result, err := create.Create(c.CNIVersion, raw)
	if err != nil {
		return nil, nil
	}
	now, err := current.NewResultFromResult(result)
	if err != nil {
		return nil, nil
	}
	return raw, now
}

func (c Conf) attached(args *skel.CmdArgs, prevResult json.RawMessage, more object) (run, error) {
	var known *envfile.Env
	if env, err := envfile.Read(c.SubnetFile); err == nil {
		known = &env
	}
	delegate, err := c.Attached(known, prevResult, more)
	if err != nil {
		return run{}, invalid(err)
	}
	return find(delegate, args)
}

// allAddresses returns those of a result, nil of nil.
func allAddresses(r *current.Result) (all []netip.Addr) {
	if r == nil {
		return nil
	}
	for _, ip := range r.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// addressesOf returns the addresses of a result by family, and whether it has
// at most one of each.
func addressesOf(r *current.Result) (by subnet.PerFamily[netip.Addr], single bool) {
	single = true
	for _, a := range allAddresses(r) {
		f := subnet.FamilyOf(a)
		single = single && !by[f].IsValid()
		by[f] = a
	}
	return by, single
}

func loadValid(stdin []byte) (Conf, error) {
	conf, err := Load(stdin)
	if err == nil {
		err = conf.Validate()
	}
	if err != nil {
		return Conf{}, invalid(err)
	}
	return conf, nil
}

func invalid(err error) error {
	var e *types.Error
	if errors.As(err, &e) {
		return e
	}
	return types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
}
