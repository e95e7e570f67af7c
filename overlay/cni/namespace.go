package cni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/overlay/pods"
)

// open opens a network namespace, 0 for our own. The pattern spares the kernel
// package a compilation each time.
func open(netns int) (*kernel.Kernel, error) {
	k, err := kernel.New(kernel.Config{NetNS: netns})
	if err != nil {
		return nil, ioFailure(err)
	}
	return k, nil
}

// pair is the host's namespace, which the caller closes, and a pod's.
type pair struct {
	host, pod *kernel.Kernel
	netns     *os.File
}

// enter opens a pod's; the error's code is 3 when the pod is gone, and 8 when the
// namespace is the host's, which skel refuses too, but after the deed.
func enter(host *kernel.Kernel, args *skel.CmdArgs) (*pair, error) {
	netns, err := os.Open(args.Netns)
	if err != nil || !isNamespace(args.Netns) {
		if netns != nil {
			netns.Close()
		}
		return nil, types.NewError(types.ErrUnknownContainer,
			fmt.Sprintf("opening the network namespace of container %s: %s is not one: the container is gone", args.ContainerID, args.Netns), "")
	}
	if isOwn(netns) && !overridden(args) {
		netns.Close()
		return nil, types.NewError(types.ErrInvalidNetNS,
			fmt.Sprintf("opening the network namespace of container %s: %s is the host's own", args.ContainerID, args.Netns), "")
	}
	pod, err := open(int(netns.Fd()))
	if err != nil {
		netns.Close()
		return nil, err
	}
	return &pair{host: host, pod: pod, netns: netns}, nil
}

func (p *pair) close() {
	p.pod.Close()
	p.netns.Close()
}

// isOwn reports whether a namespace is the plugin's own, the host's.
func isOwn(netns *os.File) bool {
	theirs, err := netns.Stat()
	if err != nil {
		return false
	}
	ours, err := os.Stat("/proc/self/ns/net")
	return err == nil && os.SameFile(ours, theirs)
}

// overridden is skel's test of CNI_NETNS_OVERRIDE, by which a runtime says that
// it means the host's namespace.
func overridden(args *skel.CmdArgs) bool {
	return strings.EqualFold(args.NetnsOverride, "true") || args.NetnsOverride == "1"
}

// locate empties args.Netns, the spec's way to say that a namespace is gone,
// where it does not lead to the attachment: to nothing, to the host, or to an
// interface that is another attachment by its alias, which is returned then. A
// path such as /proc/PID/ns/net leads to whatever has got the number since.
func (c Conf) locate(ctx context.Context, host *kernel.Kernel, args *skel.CmdArgs) (other pods.Pod, err error) {
	p, err := enter(host, args)
	var e *types.Error
	if errors.As(err, &e) && (e.Code == types.ErrUnknownContainer || e.Code == types.ErrInvalidNetNS) {
		args.Netns = ""
		return pods.Pod{}, nil
	}
	if err != nil {
		return pods.Pod{}, err
	}
	defer p.close()
	var end backend.Interface
	name, ok, err := p.host.HostEnd(ctx, p.pod, args.IfName)
	if err == nil && ok {
		end, err = p.host.Interface(ctx, name)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return pods.Pod{}, ioFailure(err)
	}
	// Without an alias it is an attachment of flannel's plugin, or of an ADD
	// that was cut off.
	if other, err = pods.Parse(end.Alias); err != nil || other.Is(c.Name, args.ContainerID, args.IfName) {
		return pods.Pod{}, nil
	}
	args.Netns = ""
	return other, nil
}

// vacant enters a container that has no interface of the name wanted. The spec
// has ADD fail where there is one: it is another attachment's, which neither
// the delegate nor the DEL after its failure must touch.
func vacant(ctx context.Context, host *kernel.Kernel, args *skel.CmdArgs) (*pair, error) {
	p, err := enter(host, args)
	if err != nil {
		return nil, err
	}
	switch _, err = p.pod.Interface(ctx, args.IfName); {
	case errors.Is(err, unix.ENODEV):
		return p, nil
	case err == nil:
		err = types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("adding interface %s to container %s: it has an interface of that name already", args.IfName, args.ContainerID),
			"a repeated ADD needs a DEL before it, a second network another CNI_IFNAME")
	default:
		err = ioFailure(err)
	}
	p.close()
	return nil, err
}

// hostEnd returns the host's end of the attachment, "" when it has none
// (macvlan) or has one that the delegate did not list, which is somebody
// else's (host-device). A result before version 0.3.0 lists nothing.
func (p *pair) hostEnd(ctx context.Context, args *skel.CmdArgs, r *current.Result) (string, error) {
	name, ok, err := p.host.HostEnd(ctx, p.pod, args.IfName)
	if err != nil || !ok {
		return "", err
	}
	for _, i := range r.Interfaces {
		if i.Name == name && i.Sandbox == "" {
			return name, nil
		}
	}
	if len(r.Interfaces) == 0 {
		return name, nil
	}
	return "", nil
}

// mark writes who the pod is into the alias of the host veth, if there is one,
// and tells the MTU that the pod has, which CHECK then holds it to.
func (c Conf) mark(ctx context.Context, p *pair, args *skel.CmdArgs, r *current.Result) error {
	alias, err := c.alias(args, r)
	if err != nil {
		return err
	}
	link, err := p.hostEnd(ctx, args, r)
	if err != nil {
		return ioFailure(err)
	}
	if link != "" {
		if err := p.host.SetAlias(ctx, link, alias); err != nil {
			return ioFailure(fmt.Errorf("marking the pod: %w", err))
		}
	}
	for _, i := range r.Interfaces {
		if i.Name == args.IfName && i.Sandbox != "" && i.Mtu == 0 {
			eth0, err := p.pod.Interface(ctx, args.IfName)
			if err != nil {
				return ioFailure(err)
			}
			i.Mtu = eth0.MTU
		}
	}
	return nil
}

// alias returns the alias of the attachment. It has no addresses where the
// daemon is not to guard the pod: that is asked for, or the pod has several
// addresses of a family, which an alias does not hold.
func (c Conf) alias(args *skel.CmdArgs, r *current.Result) (string, error) {
	guarded, err := c.spoofCheck()
	if err != nil {
		return "", invalid(err)
	}
	pod := pods.Named(c.Name, args.ContainerID, args.IfName)
	if addresses, single := addressesOf(r); guarded && single {
		pod.Addresses = addresses
	}
	alias, err := pods.Format(pod)
	if err != nil {
		return "", types.NewError(types.ErrInvalidEnvironmentVariables, err.Error(), "")
	}
	return alias, nil
}

// unlink deletes the host's end of a pod whose namespace was not given or is
// not where it was, but is alive: something still holds it open, and with it
// the addresses that are about to be released.
func (c Conf) unlink(ctx context.Context, host *kernel.Kernel, args *skel.CmdArgs) error {
	interfaces, err := host.Interfaces(ctx)
	if err != nil {
		return ioFailure(fmt.Errorf("looking for the veth of container %s: %w", args.ContainerID, err))
	}
	var errs []error
	for _, p := range pods.From(interfaces) {
		if p.Is(c.Name, args.ContainerID, args.IfName) {
			errs = append(errs, host.DeleteVeth(ctx, p.Link))
		}
	}
	if err := errors.Join(errs...); err != nil && !errors.Is(err, unix.ENODEV) {
		return ioFailure(err)
	}
	return nil
}

func ioFailure(err error) error { return types.NewError(types.ErrIOFailure, err.Error(), "") }
