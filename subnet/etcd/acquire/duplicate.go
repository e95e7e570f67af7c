package acquire

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/twill-net/twill/subnet"
)

// DuplicateError says that another machine holds a lease under our node's
// name. Nothing was written.
type DuplicateError struct {
	Claim subnet.Claim
	Other subnet.Record
}

// Error names both machines and what to do.
func (e *DuplicateError) Error() string {
	return fmt.Sprintf("the node name %q belongs to two machines: this one (public IP %s, machine ID %s) "+
		"and the holder of lease %s (public IP %s, machine ID %s); give one of them another --node-name, "+
		"or, if that machine is gone for good, run: twill release %s",
		e.Claim.Node, addresses(e.Claim.PublicIPs), e.Claim.MachineID,
		e.Other.Key, addresses(e.Other.Lease.PublicIPs), e.Other.Lease.MachineID, e.Claim.Node)
}

// Unwrap lets errors.Is find subnet.ErrDuplicate.
func (e *DuplicateError) Unwrap() error { return subnet.ErrDuplicate }

func addresses(ips subnet.PerFamily[netip.Addr]) string {
	var s []string
	for _, ip := range ips {
		if ip.IsValid() {
			s = append(s, ip.String())
		}
	}
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, " and ")
}
