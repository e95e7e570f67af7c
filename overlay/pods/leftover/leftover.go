// Package leftover removes from a host what the reference plugins have left
// there for an attachment that is gone: after a power cut, or where a runtime
// never made its DEL (containerd forgets a sandbox whose ADD failed, whatever
// becomes of the DEL). Plugins name what they make by hashes of network,
// container and interface; the names are here, and of what has no such name
// nothing is touched. Who is gone is for package pods to say.
//
// It needs CAP_NET_ADMIN and no programs of the host, so that a daemon in a
// container does it too; what that costs is written at Host.Remove. It imports
// netlink by way of backend/kernel alone, and neither a logger nor the agent.
package leftover

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/subnet"
)

// DefaultBandwidth is where the bandwidth plugin is, on a host and in our image.
const DefaultBandwidth = "/opt/cni/bin/bandwidth"

// Host is a node. It is what its kernel is, too: see package overlay.
type Host struct {
	*kernel.Kernel
	// Bandwidth is the path of the bandwidth plugin, which removes its own
	// devices; "": DefaultBandwidth.
	Bandwidth string
}

// Remove removes what is left of an attachment:
//
//   - portmap's rules of nftables, which lead its host ports to an address
//     that another pod may get;
//   - what portmap's chain of iptables-nft holds. The chain itself stays, empty,
//     with the rule that leads to it, until the node boots: only iptables can tell
//     which rule that is. Those of iptables-legacy are out of reach;
//   - the rules of nftables by which a delegate masquerades, and those of its
//     macspoofchk;
//   - the device of the bandwidth plugin, by that plugin where there is one: the
//     device carries nothing and harms nobody.
//
// What has gone is no error.
func (h Host) Remove(ctx context.Context, a pods.Attachment) error {
	errs := []error{RemoveMasquerade(ctx, h.Kernel, a)}
	if a.Last {
		errs = append(errs,
			RemoveMACSpoofCheck(ctx, h.Kernel, a),
			h.removePorts(ctx, a),
			h.removeShaper(ctx, a))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing what is left of container %s in network %s: %w", a.Container, a.Network, err)
	}
	return nil
}

func (h Host) removePorts(ctx context.Context, a pods.Attachment) error {
	var errs []error
	for _, f := range subnet.Families {
		for _, c := range portChains(f) {
			errs = append(errs, h.DeleteRules(ctx, c, func(comment string) bool { return comment == a.Container }))
		}
		errs = append(errs, h.DeleteRules(ctx, iptablesPorts(f, a), func(string) bool { return true }))
	}
	return errors.Join(errs...)
}

func (h Host) removeShaper(ctx context.Context, a pods.Attachment) error {
	interfaces, err := h.Interfaces(ctx)
	if err != nil {
		return err
	}
	name := shaper(a)
	if !slices.ContainsFunc(interfaces, func(i backend.Interface) bool { return i.Name == name && i.Kind == "ifb" }) {
		return nil
	}
	return h.deleted(ctx, a)
}

// pluginTime bounds a plugin that hangs: until it has ended, no pod gets an
// address of the network.
const pluginTime = 10 * time.Second

// deleted has the bandwidth plugin do what a DEL by the runtime would have.
func (h Host) deleted(ctx context.Context, a pods.Attachment) error {
	ctx, cancel := context.WithTimeout(ctx, pluginTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, cmp.Or(h.Bandwidth, DefaultBandwidth))
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "CNI_COMMAND=DEL", "CNI_CONTAINERID="+a.Container, "CNI_IFNAME="+a.IfName, "CNI_NETNS=", "CNI_PATH="+filepath.Dir(cmd.Path))
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"type":"bandwidth"}`, a.Network))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("deleting %s by the plugin %s: %w: %s", shaper(a), cmd.Path, err, bytes.TrimSpace(out))
	}
	return nil
}
