package subnet

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// noIPv4 stands in a key for the IPv4 subnet that an IPv6 node does not have:
// flannel's reader insists on one.
var noIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// EncodeKey returns flannel's key of a lease, below "<prefix>/subnets/":
// "10.5.52.0-24", with IPv6 "10.5.52.0-24&fd00:12:13::-56", and for IPv6 alone
// "0.0.0.0-0&fd00:12:13::-56".
func EncodeKey(subnets PerFamily[netip.Prefix]) string {
	v4, v6 := subnets[IPv4], subnets[IPv6]
	if !v4.IsValid() {
		v4 = noIPv4
	}
	key := appendPrefix(make([]byte, 0, 64), v4)
	if v6.IsValid() {
		key = appendPrefix(append(key, '&'), v6)
	}
	return string(key)
}

func appendPrefix(b []byte, p netip.Prefix) []byte {
	return strconv.AppendInt(append(p.Addr().AppendTo(b), '-'), int64(p.Bits()), 10)
}

// DecodeKey is the inverse of EncodeKey; it also takes an IPv6 subnet alone,
// and any spelling of an address. Subnets with host bits set are refused.
func DecodeKey(key string) (PerFamily[netip.Prefix], error) {
	bad := func(format string, args ...any) (PerFamily[netip.Prefix], error) {
		return PerFamily[netip.Prefix]{}, fmt.Errorf("lease key %s: %s (want 10.5.52.0-24 or 10.5.52.0-24&fd00:12:13::-56)",
			quote(key), fmt.Sprintf(format, args...))
	}
	var subnets PerFamily[netip.Prefix]
	next := IPv4
	for part := range strings.SplitSeq(key, "&") {
		i := strings.LastIndex(part, "-")
		if i < 0 {
			return bad("%s lacks the prefix length", quote(part))
		}
		p, err := netip.ParsePrefix(part[:i] + "/" + part[i+1:])
		if err != nil || p.Addr().Is4In6() {
			return bad("%s is not an address and a prefix length", quote(part))
		}
		if p != p.Masked() {
			return bad("%s has host bits set; its subnet is %s", p, p.Masked())
		}
		f := FamilyOf(p.Addr())
		if f < next {
			return bad("%s is out of place: at most one IPv4 subnet, then one IPv6 subnet", p)
		}
		next = f + 1
		if p != noIPv4 {
			subnets[f] = p
		}
	}
	if subnets == (PerFamily[netip.Prefix]{}) {
		return bad("it names no subnet")
	}
	return subnets, nil
}
