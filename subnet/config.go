package subnet

import (
	"errors"
	"fmt"
	"net/netip"
)

// Config is the validated network config, net-conf.json. It is an immutable,
// comparable value.
type Config struct {
	Networks       PerFamily[Range] // the zero Range where the family is off
	EnableNFTables bool
	Backend        Backend
}

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

// Covers reports, as an error that says why not, whether a lease fits the
// config: its subnets lie in the networks of the families that are on.
func (c Config) Covers(l Lease) error {
	fits := false
	for _, f := range Families {
		p, r := l.Subnets[f], c.Networks[f]
		switch {
		case !p.IsValid() || !r.Enabled():
		case p.Bits() < r.Network.Bits() || !r.Network.Contains(p.Addr()):
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
