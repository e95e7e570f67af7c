package subnet

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net/netip"
	"strconv"
	"strings"
)

// ConfigError is what ParseConfig returns of a member that it cannot use.
type ConfigError struct {
	Key   string // "Network", "Backend.VNI"
	Value string // as it stands in the document
	Want  string // what is allowed there
}

// Error implements error.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("network config: %s is %s; it must be %s", e.Key, e.Value, e.Want)
}

// The limits of the config.
const (
	defaultVNI  = 1
	defaultPort = 8472 // Linux's own VXLAN port, and flannel's
	maxVNI      = 1<<24 - 1
	minMTUv4    = 576 + 50  // outer; every IPv4 host takes 576 inside (RFC 791, 3.1)
	minMTUv6    = 1280 + 50 // outer; IPv6 needs 1280 inside (RFC 8200, 5)
	maxMTU      = 65535
	minSubnets  = 4
)

// familyKeys are the config's names for what each family has.
var familyKeys = PerFamily[struct {
	enable, network, length, first, last string
	defaultLen, maxLen                   int
}]{
	{"EnableIPv4", "Network", "SubnetLen", "SubnetMin", "SubnetMax", 24, 30},
	{"EnableIPv6", "IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", 64, 126},
}

// ParseConfig reads and validates net-conf.json as flannel defines it. Keys
// are matched without regard to case. The first thing that is wrong is an
// error which names the key, its value and what is allowed; the config is
// then not usable at all.
func ParseConfig(b []byte) (Config, error) {
	top, err := parseObject("", b)
	if err != nil {
		return Config{}, err
	}
	var c Config
	for _, f := range Families {
		if c.Networks[f], err = top.network(f); err != nil {
			return Config{}, err
		}
	}
	if !c.Networks[IPv4].Enabled() && !c.Networks[IPv6].Enabled() {
		return Config{}, &ConfigError{"EnableIPv4", "false", "true, or EnableIPv6 true: one family at least"}
	}
	if c.EnableNFTables, err = top.boolean("EnableNFTables", false); err != nil {
		return Config{}, err
	}
	minMTU := minMTUv4
	if c.Networks[IPv6].Enabled() {
		minMTU = minMTUv6
	}
	if c.Backend, err = top.backend(minMTU); err != nil {
		return Config{}, err
	}
	return c, top.unknown()
}

// network reads one family's range.
func (o *object) network(f Family) (Range, error) {
	k := familyKeys[f]
	on, err := o.boolean(k.enable, f == IPv4)
	if err != nil {
		return Range{}, err
	}
	n, given, err := o.prefix(k.network, f)
	if err != nil {
		return Range{}, err
	}
	if on && !given {
		return Range{}, &ConfigError{k.network, "missing", "the overlay network's CIDR, as " + k.enable + " is true"}
	}
	r := Range{Network: n}
	if given {
		if err := o.subnets(&r, f); err != nil {
			return Range{}, err
		}
	} else {
		for _, key := range []string{k.length, k.first, k.last} {
			if raw, ok := o.take(key); ok {
				return Range{}, &ConfigError{key, clip(raw), "left out without " + k.network}
			}
		}
	}
	if !on {
		return Range{}, nil
	}
	return r, nil
}

// subnets reads how the network is divided.
func (o *object) subnets(r *Range, f Family) error {
	k := familyKeys[f]
	bits := r.Network.Bits()
	def := k.defaultLen
	if bits > def-2 {
		def = bits + 2
	}
	var err error
	if def > k.maxLen {
		return &ConfigError{k.network, r.Network.String(),
			fmt.Sprintf("/%d or larger: it must hold %d subnets of /%d", k.maxLen-2, minSubnets, k.maxLen)}
	}
	if r.SubnetLen, err = o.integer(k.length, def, bits+2, k.maxLen); err != nil {
		return err
	}
	first, last := Range{Min: r.Network.Addr(), SubnetLen: r.SubnetLen}.at(1).Addr(),
		netip.PrefixFrom(lastAddr(r.Network), r.SubnetLen).Masked().Addr()
	if r.Min, err = o.subnetAddr(k.first, first, r, f); err != nil {
		return err
	}
	if r.Max, err = o.subnetAddr(k.last, last, r, f); err != nil {
		return err
	}
	if r.Max.Less(r.Min) {
		return &ConfigError{k.last, r.Max.String(), fmt.Sprintf("%s (%s) or above", r.Min, k.first)}
	}
	return nil
}

func (o *object) prefix(key string, f Family) (netip.Prefix, bool, error) {
	s, ok, err := o.text(key)
	if err != nil || !ok {
		return netip.Prefix{}, false, err
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6() || FamilyOf(p.Addr()) != f:
		return netip.Prefix{}, false, &ConfigError{key, strconv.Quote(s), "an " + f.String() + " CIDR such as " + exampleNetwork(f)}
	case p != p.Masked():
		return netip.Prefix{}, false, &ConfigError{key, strconv.Quote(s), "without host bits: " + p.Masked().String()}
	case !usable(p):
		return netip.Prefix{}, false, &ConfigError{key, strconv.Quote(s),
			"a unicast network: not multicast, loopback, link-local or unspecified; such as " + exampleNetwork(f)}
	}
	return p, true, nil
}

// usable refuses networks which overlap what can never be a pod's address.
func usable(p netip.Prefix) bool {
	for _, s := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"} {
		if p.Overlaps(netip.MustParsePrefix(s)) {
			return false
		}
	}
	return true
}

func exampleNetwork(f Family) string {
	if f == IPv6 {
		return "fd00:244::/48"
	}
	return "10.244.0.0/16"
}

// subnetAddr reads SubnetMin or SubnetMax: a subnet's first address.
func (o *object) subnetAddr(key string, def netip.Addr, r *Range, f Family) (netip.Addr, error) {
	s, ok, err := o.text(key)
	if err != nil || !ok {
		return def, err
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() || FamilyOf(a) != f || !r.Network.Contains(a) {
		return def, &ConfigError{key, strconv.Quote(s), "an address in " + r.Network.String()}
	}
	if aligned := netip.PrefixFrom(a, r.SubnetLen).Masked().Addr(); aligned != a {
		return def, &ConfigError{key, strconv.Quote(s), fmt.Sprintf("the first address of a /%d, such as %s", r.SubnetLen, aligned)}
	}
	return a, nil
}

// backend reads the Backend object.
func (o *object) backend(minMTU int) (Backend, error) {
	raw, ok := o.take("Backend")
	if !ok {
		raw = json.RawMessage("{}")
	}
	b, err := parseObject("Backend.", raw)
	if err != nil {
		return Backend{}, err
	}
	kind, given, err := b.text("Type")
	if err != nil {
		return Backend{}, err
	}
	if !given {
		kind = BackendVXLAN
	}
	switch strings.ToLower(kind) {
	case BackendVXLAN:
		v, err := b.vxlan(minMTU)
		if err != nil {
			return Backend{}, err
		}
		return Backend{Type: BackendVXLAN, VXLAN: v}, b.unknown()
	case BackendAlloc:
		return Backend{Type: BackendAlloc}, b.unknown()
	}
	return Backend{}, &ConfigError{"Backend.Type", strconv.Quote(kind), fmt.Sprintf("%q or %q", BackendVXLAN, BackendAlloc)}
}

func (o *object) vxlan(minMTU int) (v VXLAN, err error) {
	var vni, port int
	for _, n := range []struct {
		dst         *int
		key         string
		def, lo, hi int
	}{
		{&vni, "VNI", defaultVNI, 1, maxVNI},
		{&port, "Port", defaultPort, 1, 65535},
		{&v.MTU, "MTU", 0, minMTU, maxMTU},
	} {
		// 0 is flannel's way to say "the default" of the port and the MTU.
		if raw, ok := o.members[strings.ToLower(n.key)]; ok && string(raw) == "0" && n.key != "VNI" {
			o.take(n.key)
			*n.dst = n.def
			continue
		}
		if *n.dst, err = o.integer(n.key, n.def, n.lo, n.hi); err != nil {
			return VXLAN{}, err
		}
	}
	v.VNI, v.Port = uint32(vni), uint16(port)
	for _, n := range []struct {
		dst *bool
		key string
	}{{&v.GBP, "GBP"}, {&v.Learning, "Learning"}, {&v.DirectRouting, "DirectRouting"}} {
		if *n.dst, err = o.boolean(n.key, false); err != nil {
			return VXLAN{}, err
		}
	}
	return v, nil
}

// Capacity returns how many subnets the range leases.
func (r Range) Capacity() *big.Int {
	if !r.Enabled() {
		return new(big.Int)
	}
	d := new(big.Int).Sub(toInt(r.Max), toInt(r.Min))
	d.Rsh(d, uint(r.Min.BitLen()-r.SubnetLen))
	return d.Add(d, big.NewInt(1))
}
