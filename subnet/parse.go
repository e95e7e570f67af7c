package subnet

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ConfigError is what ParseConfig returns of a member that it cannot use.
type ConfigError struct {
	Key   string // "Network", "Backend.VNI"
	Value string // as it stands in the document, shortened; "missing"; "" where Key is none
	Want  string // what is allowed there
	Keys  string // where Key is none, the keys that there are, comma separated
	Meant string // which of them may be meant, if any
}

// Error implements error.
func (e *ConfigError) Error() string {
	switch {
	case e.Meant != "":
		return fmt.Sprintf("%s is not a key; did you mean %s? Keys: %s", e.Key, e.Meant, e.Keys)
	case e.Keys != "":
		return fmt.Sprintf("%s is not a key. Keys: %s", e.Key, e.Keys)
	}
	return fmt.Sprintf("%s is %s; it must be %s", e.Key, e.Value, e.Want)
}

// The limits of the config.
const (
	defaultVNI  = 1
	defaultPort = 8472 // Linux's own VXLAN port, and flannel's
	maxVNI      = 1<<24 - 1
	minMTUv4    = 576 + 50  // outer; every IPv4 host takes 576 inside (RFC 791, 3.1)
	minMTUv6    = 1280 + 50 // outer; IPv6 needs 1280 inside (RFC 8200, 5)
	maxMTU      = 65535
	maxCIDRs    = 64 // each is a rule that every new connection of a pod may be compared with
)

const nonMasquerade = "NonMasqueradeCIDRs"

// familyKeys are the config's names for what each family has.
var familyKeys = PerFamily[struct {
	enable, network, length, first, last, masquerade string
	defaultLen, maxLen                               int
}]{
	{"EnableIPv4", "Network", "SubnetLen", "SubnetMin", "SubnetMax", "MasqueradeIPv4", 24, 30},
	{"EnableIPv6", "IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", "MasqueradeIPv6", 64, 126},
}

var exampleNetworks = PerFamily[string]{"10.244.0.0/16", "fd00:244::/48"}

// ParseConfig reads and validates net-conf.json as flannel defines it. Keys
// are matched without regard to case; null counts as absent. The first thing
// that is wrong is an error which names the key, its value and what is
// allowed; the config is then not usable at all.
func ParseConfig(b []byte) (Config, error) {
	o := parseObject("", b)
	var keys []string
	for _, k := range familyKeys {
		keys = append(keys, k.enable, k.network, k.length, k.first, k.last)
	}
	for _, k := range familyKeys {
		keys = append(keys, k.masquerade)
	}
	o.only(append(keys, nonMasquerade, "EnableNFTables", "Backend")...)

	var c Config
	for _, f := range Families {
		c.Networks[f] = o.network(f)
	}
	minMTU := minMTUv4
	switch {
	case c.Networks[IPv6].Enabled():
		minMTU = minMTUv6
	case !c.Networks[IPv4].Enabled():
		o.fail(familyKeys[IPv4].enable, "false", "true, or EnableIPv6 true: one family at least")
	}
	c.EnableNFTables = o.choice("EnableNFTables")
	for _, f := range Families {
		c.Masquerade[f] = o.boolean(familyKeys[f].masquerade, true)
	}
	c.NonMasquerade = o.cidrs(nonMasquerade)
	c.Backend = o.backend(minMTU)
	if o.err != nil {
		return Config{}, o.err
	}
	return c, nil
}

// network reads one family's range. That of a family which is off is checked
// too, so that switching it on later is no surprise.
func (o *object) network(f Family) Range {
	k := familyKeys[f]
	on := o.boolean(k.enable, f == IPv4)
	network, given := o.prefix(k.network, f)
	if !given {
		if on {
			o.fail(k.network, "missing", "the overlay network's CIDR, as "+k.enable+" is true")
		}
		for _, key := range []string{k.length, k.first, k.last} {
			if raw, ok := o.get(key); ok {
				o.fail(key, clip(raw), "left out without "+k.network)
			}
		}
		return Range{}
	}
	if r := o.divide(network, f); on {
		return r
	}
	return Range{}
}

// prefix reads a network's CIDR, which no host bits may blur.
func (o *object) prefix(key string, f Family) (p netip.Prefix, given bool) {
	s, ok := o.text(key)
	if !ok {
		return p, false
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6() || FamilyOf(p.Addr()) != f:
		o.fail(key, quote(s), fmt.Sprintf("an %s CIDR such as %s", f, exampleNetworks[f]))
	case p != p.Masked():
		o.fail(key, quote(s), "without host bits: "+p.Masked().String())
	default:
		for _, special := range unusable {
			if p.Overlaps(special.prefix) {
				o.fail(key, quote(s), fmt.Sprintf("clear of %s (%s), such as %s", special.prefix, special.what, exampleNetworks[f]))
			}
		}
	}
	return p, true
}

// cidrs reads a list of destinations, of either family. Those of a family that
// is off are of no use, and no error.
func (o *object) cidrs(key string) CIDRs {
	raw, ok := o.get(key)
	if !ok {
		return CIDRs{}
	}
	var texts []string
	if json.Unmarshal(raw, &texts) != nil {
		o.fail(key, clip(raw), `a list of CIDRs such as ["192.168.0.0/16", "2001:db8::/32"]`)
		return CIDRs{}
	}
	if len(texts) > maxCIDRs {
		o.fail(key, fmt.Sprintf("a list of %d", len(texts)), fmt.Sprintf("one of at most %d CIDRs", maxCIDRs))
		return CIDRs{}
	}
	list := make([]netip.Prefix, 0, len(texts))
	for i, s := range texts {
		p, err := netip.ParsePrefix(s)
		entry := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case err != nil || p.Addr().Is4In6():
			o.fail(entry, quote(s), "an IPv4 or IPv6 CIDR such as 192.168.0.0/16 or 2001:db8::/32")
		case p != p.Masked():
			o.fail(entry, quote(s), "without host bits: "+p.Masked().String())
		case p.Bits() == 0:
			o.fail(entry, quote(s), "/1 or smaller: for all destinations there is "+familyKeys[FamilyOf(p.Addr())].masquerade+" false")
		case slices.Contains(list, p):
			o.fail(entry, quote(s), "given once")
		}
		list = append(list, p)
	}
	if o.err != nil {
		return CIDRs{}
	}
	return NewCIDRs(list...)
}

// unusable is what can never be a pod's address (RFC 6890; IPv6 RFC 4291).
// Class E, 240.0.0.0/4, is not here: Linux routes it and some clusters use it.
var unusable = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("::/8"), "unspecified, loopback, IPv4-mapped"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// divide reads how the network is cut into subnets.
func (o *object) divide(network netip.Prefix, f Family) Range {
	if o.err != nil {
		return Range{}
	}
	k := familyKeys[f]
	const spare = 2 // bits: at least four subnets, as the first is not leased by default
	shortest := network.Bits() + spare
	if shortest > k.maxLen {
		o.fail(k.network, quote(network.String()), fmt.Sprintf("/%d or larger: it must hold %d subnets of /%d", k.maxLen-spare, 1<<spare, k.maxLen))
		return Range{}
	}
	r := Range{Network: network, SubnetLen: o.integerOr0(k.length, max(k.defaultLen, shortest), shortest, k.maxLen)}

	// The first subnet is left out because its network address is also that
	// of the whole network.
	second := lastAddr(netip.PrefixFrom(network.Addr(), r.SubnetLen)).Next()
	last := netip.PrefixFrom(lastAddr(network), r.SubnetLen).Masked().Addr()
	r.Min = o.subnetAddr(k.first, second, r)
	r.Max = o.subnetAddr(k.last, last, r)
	if r.Max.Less(r.Min) {
		o.fail(k.last, quote(r.Max.String()), fmt.Sprintf("%s (%s) or above", r.Min, k.first))
	}
	return r
}

// subnetAddr reads SubnetMin or SubnetMax: a subnet's first address.
func (o *object) subnetAddr(key string, def netip.Addr, r Range) netip.Addr {
	s, ok := o.text(key)
	if !ok {
		return def
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !r.Network.Contains(a) {
		o.fail(key, quote(s), "an address in "+r.Network.String())
		return def
	}
	if aligned := netip.PrefixFrom(a, r.SubnetLen).Masked().Addr(); aligned != a {
		o.fail(key, quote(s), fmt.Sprintf("the first address of a /%d, such as %s", r.SubnetLen, aligned))
	}
	return a
}

// backend reads the Backend object.
func (o *object) backend(minMTU int) Backend {
	raw, ok := o.get("Backend")
	if o.err != nil {
		return Backend{}
	}
	b := &object{path: "Backend."}
	if ok {
		var err error
		if b.members, err = members(raw); err != nil {
			o.fail("Backend", clip(raw), "an object such as {\"Type\": \"vxlan\"}")
			return Backend{}
		}
	}
	kind, given := b.text("Type")
	if !given {
		kind = BackendVXLAN
	}
	c := Backend{Type: strings.ToLower(kind)}
	switch c.Type {
	case BackendVXLAN:
		c.VXLAN = b.vxlan(minMTU)
	case BackendAlloc:
		b.only("Type")
	default:
		b.fail("Type", quote(kind), fmt.Sprintf("%q or %q", BackendVXLAN, BackendAlloc))
	}
	o.err = b.err
	return c
}

func (o *object) vxlan(minMTU int) VXLAN {
	o.only("Type", "VNI", "Port", "MTU", "GBP", "Learning", "DirectRouting")
	return VXLAN{
		VNI:           uint32(o.integer("VNI", defaultVNI, 1, maxVNI)),
		Port:          uint16(o.integerOr0("Port", defaultPort, 1, 65535)),
		MTU:           o.integerOr0("MTU", 0, minMTU, maxMTU),
		GBP:           o.boolean("GBP", false),
		Learning:      o.boolean("Learning", false),
		DirectRouting: o.boolean("DirectRouting", false),
	}
}
