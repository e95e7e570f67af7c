package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/overlay/pods/leftover"
	"github.com/twill-net/twill/subnet"
)

// With ipMasq the reference plugins masquerade each pod by rules of its own,
// which they name by hashes of network, container and interface
// (pkg/ip/ipmasq_*.go, pkg/utils/utils.go of containernetworking/plugins). On
// DEL they remove them only if the namespace is there and still has the
// interface, and only if the config says ipMasq then; and one of two
// interfaces of a container takes the iptables chain of both with it. So they
// are not asked to: what there is, is found by name and removed here, whatever
// has become of the rest. Where there is nothing, that costs a question to the
// kernel and no process, and with nftables never one.

const masqPlugin = "nftables" // ipMasqBackend

// masqueraders are the delegates that use those rules.
var masqueraders = []string{"bridge", "ptp"}

// iptablesChain is the chain of a container, of all its interfaces.
func iptablesChain(network, container string) string {
	return "CNI-" + leftover.Digest(network+container, 24)
}

// gone names an attachment for package leftover.
func gone(network string, a types.GCAttachment) pods.Attachment {
	return pods.Attachment{Network: network, Container: a.ContainerID, IfName: a.IfName}
}

// nftUsable reports whether the delegate can masquerade by nftables. Its rules
// are found again by container and interface, and by GC, which those of
// iptables are not.
func nftUsable(ctx context.Context, k *kernel.Kernel) bool {
	if _, err := exec.LookPath("nft"); err != nil {
		return false
	}
	_, err := k.Chains(ctx, leftover.MasqueradeChain)
	return err == nil
}

// rules are those of one attachment that a delegate may have made: for its
// masquerade, and for macspoofchk.
type rules struct {
	lost       pods.Attachment
	chain      string // of iptables
	masquerade bool
	nat        []natTable
	macs       bool
}

// findRules looks for the rules of an attachment. DEL does so before it deletes
// anything: to close the socket takes a grace period of RCU, some 10 ms, when
// somebody has just deleted something of nf_tables (nft_rcv_nl_event), and a
// pod's veth takes its elements of sets along.
func findRules(ctx context.Context, k *kernel.Kernel, network string, a types.GCAttachment) (rules, error) {
	r := rules{lost: gone(network, a), chain: iptablesChain(network, a.ContainerID)}
	there, err := k.Chains(ctx,
		leftover.MasqueradeChain,
		kernel.Chain{Family: unix.NFPROTO_IPV4, Table: "nat", Name: r.chain},
		kernel.Chain{Family: unix.NFPROTO_IPV6, Table: "nat", Name: r.chain},
		leftover.MACChain(r.lost))
	if err != nil {
		return rules{}, err
	}
	r.masquerade, r.macs = there[0], there[3]
	for _, f := range subnet.Families {
		r.nat = append(r.nat, natTables(f, there[1+int(f)])...)
	}
	return r, nil
}

// remove removes the rules of the attachment, whose addresses are known or nil.
func (r rules) remove(ctx context.Context, k *kernel.Kernel, addresses []netip.Addr) error {
	var errs []error
	if r.masquerade {
		errs = append(errs, leftover.RemoveMasquerade(ctx, k, r.lost))
	}
	for _, t := range r.nat {
		errs = append(errs, t.remove(ctx, r.chain, addresses))
	}
	if r.macs {
		errs = append(errs, leftover.RemoveMACSpoofCheck(ctx, k, r.lost))
	}
	return errors.Join(errs...)
}

// collectMasquerade removes the rules of all attachments to a network but
// those that stay.
func collectMasquerade(ctx context.Context, k *kernel.Kernel, network string, stay []types.GCAttachment) error {
	const hook = "POSTROUTING"
	there, err := k.Chains(ctx,
		leftover.MasqueradeChain,
		kernel.Chain{Family: unix.NFPROTO_IPV4, Table: "nat", Name: hook},
		kernel.Chain{Family: unix.NFPROTO_IPV6, Table: "nat", Name: hook})
	if err != nil {
		return err
	}
	var errs []error
	if there[0] {
		errs = append(errs, k.DeleteRules(ctx, leftover.MasqueradeChain, func(comment string) bool {
			return strings.HasPrefix(comment, leftover.MasqueradeComment(pods.Attachment{Network: network})) &&
				!slices.ContainsFunc(stay, func(a types.GCAttachment) bool {
					return strings.HasPrefix(comment, leftover.MasqueradeComment(gone(network, a)))
				})
		}))
	}
	for _, f := range subnet.Families {
		for _, t := range natTables(f, there[1+int(f)]) {
			errs = append(errs, t.collect(ctx, network, stay))
		}
	}
	return errors.Join(errs...)
}

// tool runs a command of the host's firewall.
func tool(ctx context.Context, stdin, name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("removing rules of a masquerading delegate: %w", err)
	}
	out, stderr, err := child(ctx, path, []byte(stdin), os.Environ(), args...)
	if err != nil {
		return "", fmt.Errorf("removing rules of a masquerading delegate: %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(stderr)))
	}
	return string(out), nil
}
