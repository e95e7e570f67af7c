package envfile

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/twill-net/twill/subnet"
)

// Bounds of FLANNEL_MTU in bytes. Below 1280 the kernel takes IPv6 off an
// interface (RFC 8200, section 5); 68 is IPv4's smallest (RFC 791).
const (
	minMTU     = 68
	minMTUIPv6 = 1280
	maxMTU     = 65535
)

// Env is what subnet.env says. A family that is not in use has no network and
// the zero subnet.
type Env struct {
	// Networks are the overlay networks, the CIDRs that pods reach through us.
	Networks subnet.PerFamily[[]netip.Prefix]
	// Subnets hold the node's first host address with the subnet's length, as
	// Gateway gives it: 10.5.52.1/24 for the subnet 10.5.52.0/24.
	Subnets subnet.PerFamily[netip.Prefix]
	// MTU is that of the pods, in bytes.
	MTU int
	// IPMasq is true when the daemon masquerades, so that the CNI delegate
	// must not.
	IPMasq bool
}

// Gateway returns the first host address of a subnet with the subnet's length:
// 10.5.52.1/24 for 10.5.52.0/24. It is the address of the bridge, and what
// FLANNEL_SUBNET holds.
func Gateway(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits())
}

// Validate reports the first value that subnet.env cannot hold; the error
// names the key, the value and what is allowed.
func (e Env) Validate() error {
	var used subnet.PerFamily[bool]
	for _, f := range subnet.Families {
		used[f] = e.Subnets[f] != netip.Prefix{} || len(e.Networks[f]) > 0
		if !used[f] {
			continue
		}
		if err := validateFamily(f, e.Networks[f], e.Subnets[f]); err != nil {
			return err
		}
	}
	if used == (subnet.PerFamily[bool]{}) {
		return missing(key(subnet.IPv4, "SUBNET"), "want FLANNEL_NETWORK and FLANNEL_SUBNET, FLANNEL_IPV6_NETWORK and FLANNEL_IPV6_SUBNET, or all four")
	}
	low := minMTU
	if used[subnet.IPv6] {
		low = minMTUIPv6
	}
	if e.MTU < low || e.MTU > maxMTU {
		return refuse("FLANNEL_MTU", strconv.Itoa(e.MTU), "want %d to %d bytes", low, maxMTU)
	}
	return nil
}

func validateFamily(f subnet.Family, networks []netip.Prefix, sub netip.Prefix) error {
	network, sn := key(f, "NETWORK"), key(f, "SUBNET")
	if len(networks) == 0 {
		return missing(network, "%s needs it", sn)
	}
	for _, n := range networks {
		if err := validateCIDR(f, network, n); err != nil {
			return err
		}
		if n != n.Masked() {
			return refuse(network, n.String(), "the address has bits outside of the prefix; want %s", n.Masked())
		}
	}
	if sub == (netip.Prefix{}) {
		return missing(sn, "%s needs it", network)
	}
	if err := validateCIDR(f, sn, sub); err != nil {
		return err
	}
	if longest := f.Bits() - 2; sub.Bits() > longest {
		return refuse(sn, sub.String(), "the subnet is too small for pods; want a prefix length of at most %d", longest)
	}
	if sub != Gateway(sub) {
		return refuse(sn, sub.String(), "want the first host address with the subnet's length, %s", Gateway(sub))
	}
	for _, n := range networks {
		if n.Bits() <= sub.Bits() && n.Contains(sub.Addr()) {
			return nil
		}
	}
	return refuse(sn, sub.String(), "want a subnet of %s, which is %s", network, joinCIDRs(networks))
}

func validateCIDR(f subnet.Family, key string, p netip.Prefix) error {
	if !p.IsValid() || p.Addr().Is4In6() || subnet.FamilyOf(p.Addr()) != f {
		return refuse(key, p.String(), "want an %s CIDR such as %s", f, exampleCIDR(f))
	}
	return nil
}

// MarshalText returns the file's content, in flannel's order of keys. Values
// which Parse would refuse are an error.
func (e Env) MarshalText() ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	var b strings.Builder
	for _, f := range subnet.Families {
		if e.Subnets[f].IsValid() {
			fmt.Fprintf(&b, "%s=%s\n", key(f, "NETWORK"), joinCIDRs(e.Networks[f]))
			fmt.Fprintf(&b, "%s=%s\n", key(f, "SUBNET"), e.Subnets[f])
		}
	}
	fmt.Fprintf(&b, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", e.MTU, e.IPMasq)
	return []byte(b.String()), nil
}

// key returns flannel's name of a family's key: FLANNEL_SUBNET,
// FLANNEL_IPV6_SUBNET.
func key(f subnet.Family, name string) string {
	if f == subnet.IPv6 {
		return "FLANNEL_IPV6_" + name
	}
	return "FLANNEL_" + name
}

func exampleCIDR(f subnet.Family) string {
	if f == subnet.IPv6 {
		return "fd00:5::/48"
	}
	return "10.5.0.0/16"
}

func joinCIDRs(ps []netip.Prefix) string {
	s := make([]string, len(ps))
	for i, p := range ps {
		s[i] = p.String()
	}
	return strings.Join(s, ",")
}
