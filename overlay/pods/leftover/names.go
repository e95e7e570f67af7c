package leftover

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/subnet"
)

// The names that the reference plugins give are made in pkg/utils/utils.go,
// pkg/ip/ipmasq_*.go and pkg/link/spoofcheck.go of containernetworking/plugins,
// and in plugins/meta/{portmap,bandwidth}.

// Digest returns the first n hexadecimal digits of SHA-512.
func Digest(s string, n int) string {
	sum := sha512.Sum512([]byte(s))
	return hex.EncodeToString(sum[:])[:n]
}

// MasqueradeChain is where masquerading delegates put the rules of all
// networks with nftables.
var MasqueradeChain = kernel.Chain{Family: unix.NFPROTO_INET, Table: "cni_plugins_masquerade", Name: "masq_checks"}

// MasqueradeComment is what the comment of an attachment's rules there begins
// with, and with no container, that of all of a network.
func MasqueradeComment(a pods.Attachment) string {
	s := Digest(a.Network, 16) + "-"
	if a.Container != "" {
		s += Digest(a.IfName+":"+a.Container, 16)
	}
	return s
}

// RemoveMasquerade removes the rules of an attachment from MasqueradeChain.
func RemoveMasquerade(ctx context.Context, k *kernel.Kernel, a pods.Attachment) error {
	prefix := MasqueradeComment(a)
	return k.DeleteRules(ctx, MasqueradeChain, func(comment string) bool { return strings.HasPrefix(comment, prefix) })
}

// MACChain is the first of the chains that the bridge plugin makes for
// macspoofchk. Its name does not tell the network.
func MACChain(a pods.Attachment) kernel.Chain {
	return kernel.Chain{Family: unix.NFPROTO_BRIDGE, Table: "nat", Name: "cni-br-iface-" + a.Container + "-" + a.IfName}
}

// RemoveMACSpoofCheck removes what the bridge plugin made of macspoofchk. That
// does so itself only if the namespace is there, and only if the config says
// macspoofchk still.
func RemoveMACSpoofCheck(ctx context.Context, k *kernel.Kernel, a pods.Attachment) error {
	comment := "macspoofchk-" + a.Container + "-" + a.IfName
	from, first, second := MACChain(a), MACChain(a), MACChain(a)
	from.Name = "PREROUTING"
	second.Name += "-mac"
	return k.DeleteRules(ctx, from, func(c string) bool { return c == comment }, first, second)
}

// ipFamily is the family of nf_tables.
func ipFamily(f subnet.Family) byte {
	if f == subnet.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// portChains are where portmap puts the rules of all containers with nftables;
// their comments are the containers' IDs.
func portChains(f subnet.Family) (all []kernel.Chain) {
	for _, name := range []string{"hostports", "hostip_hostports", "masquerading"} {
		all = append(all, kernel.Chain{Family: ipFamily(f), Table: "cni_hostport", Name: name})
	}
	return all
}

// iptablesPorts is portmap's chain of one container with iptables, of 28
// characters.
func iptablesPorts(f subnet.Family, a pods.Attachment) kernel.Chain {
	return kernel.Chain{Family: ipFamily(f), Table: "nat", Name: "CNI-DN-" + Digest(a.Network+a.Container, 21)}
}

// shaper is the bandwidth plugin's device for what a container sends, of 15
// characters.
func shaper(a pods.Attachment) string { return "bwp" + Digest(a.Network+a.Container, 12) }
