package subnet

import (
	"fmt"
	"net"
	"net/netip"
)

// Family is an address family. It indexes PerFamily, so that every rule is
// written once and looped over Families.
type Family uint8

// The two address families.
const (
	IPv4 Family = iota
	IPv6
)

// Families lists both families, IPv4 first.
var Families = [...]Family{IPv4, IPv6}

// PerFamily holds one T for each address family; it is comparable when T is.
type PerFamily[T any] [len(Families)]T

// String returns "IPv4" or "IPv6".
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// Bits returns the length of an address of the family: 32 or 128.
func (f Family) Bits() int {
	if f == IPv6 {
		return 128
	}
	return 32
}

// Other returns the other family.
func (f Family) Other() Family { return 1 - f }

// FamilyOf returns the family of a valid address; an IPv4-mapped IPv6 address
// counts as IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() || a.Is4In6() {
		return IPv4
	}
	return IPv6
}

// MAC is a 48-bit Ethernet address as a comparable value.
type MAC [6]byte

// ParseMAC parses a 48-bit address in the forms that net.ParseMAC takes; the
// error shows at most the first 64 bytes of another.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(MAC{}) {
		return MAC{}, fmt.Errorf("%s is not a MAC address of the form aa:bb:cc:dd:ee:ff", quote(s))
	}
	return MAC(hw), nil
}

// String returns the colon form in lower case.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsUnicast reports whether m names one station: not zero and the group bit
// (IEEE 802, lowest bit of the first octet) clear.
func (m MAC) IsUnicast() bool { return m != MAC{} && m[0]&1 == 0 }

// MarshalText implements encoding.TextMarshaler.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}
