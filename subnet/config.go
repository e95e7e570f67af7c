package subnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Config is the validated network config, net-conf.json. It is an immutable,
// comparable value.
type Config struct {
	Networks       PerFamily[Range] // the zero Range where the family is off
	EnableNFTables Choice           // of the firewall that holds the rules: nftables or iptables
	Masquerade     PerFamily[bool]  // of use where the node masquerades at all
	NonMasquerade  CIDRs            // further destinations, of either family, that see the pods' addresses
	Backend        Backend
}

// Choice is a boolean that may be absent.
type Choice uint8

// The choices.
const (
	Unset Choice = iota
	Yes
	No
)

// CIDRs is a list of prefixes as a comparable value. The zero value is empty.
type CIDRs struct{ list string }

// NewCIDRs returns the list of these prefixes.
func NewCIDRs(prefixes ...netip.Prefix) CIDRs {
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return CIDRs{strings.Join(texts, ",")}
}

// All returns the prefixes in their order.
func (c CIDRs) All() []netip.Prefix {
	var prefixes []netip.Prefix
	for s := range strings.SplitSeq(c.list, ",") {
		if p, err := netip.ParsePrefix(s); err == nil { // fails for the empty list alone
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}

// String returns the prefixes, comma separated.
func (c CIDRs) String() string { return c.list }

// Range is the part of the config that one family has.
type Range struct {
	Network   netip.Prefix
	SubnetLen int        // of each node's subnet, bits
	Min, Max  netip.Addr // network addresses of the first and the last subnet to lease
}

// Enabled reports whether the family is on.
func (r Range) Enabled() bool { return r.Network.IsValid() }

// Backend says how peers are reached.
type Backend struct {
	Type  string // BackendVXLAN or BackendAlloc
	VXLAN VXLAN  // the zero value unless Type is BackendVXLAN
}

// The backend types, as in Backend.Type and in a lease's BackendType.
const (
	BackendVXLAN = "vxlan"
	BackendAlloc = "alloc" // only hold the lease
)

// VXLAN holds the options of the vxlan backend.
type VXLAN struct {
	VNI           uint32
	Port          uint16
	MTU           int // of the outer packet; 0: the external interface's
	GBP           bool
	Learning      bool
	DirectRouting bool // plain routes to peers that are on link
}

// ForLease returns the part of the config that a lease depends on.
func (c Config) ForLease() Config { return Config{Networks: c.Networks, Backend: c.Backend} }

// Covers reports, as an error that says why not, whether a lease fits the
// config: its subnets lie in the networks of the families that are on.
func (c Config) Covers(l Lease) error {
	fits := false
	for _, f := range Families {
		p, r := l.Subnets[f], c.Networks[f]
		switch {
		case !p.IsValid() || !r.Enabled():
		case !r.Covers(p):
			return fmt.Errorf("its subnet %s is not in the network %s", p, r.Network)
		default:
			fits = true
		}
	}
	if !fits {
		return errors.New("it has no subnet of a family that is on")
	}
	return nil
}
