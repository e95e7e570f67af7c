package netlab

import (
	"fmt"

	"github.com/twill-net/twill/subnet"
)

// Stack says which address families a network has.
type Stack string

// The three stacks.
const (
	IPv4Only  Stack = "ipv4"
	IPv6Only  Stack = "ipv6"
	DualStack Stack = "dual"
)

// Families returns the families of s, IPv4 first.
func (s Stack) Families() []subnet.Family {
	switch s {
	case IPv4Only:
		return []subnet.Family{subnet.IPv4}
	case IPv6Only:
		return []subnet.Family{subnet.IPv6}
	}
	return subnet.Families[:]
}

// Has reports whether s contains f.
func (s Stack) Has(f subnet.Family) bool {
	return s == DualStack || (s == IPv4Only) == (f == subnet.IPv4)
}

// String returns the stack's name; Set and Type make it a command line flag
// (pflag.Value).
func (s *Stack) String() string { return string(*s) }

// Set parses "ipv4", "ipv6" or "dual".
func (s *Stack) Set(v string) error {
	switch Stack(v) {
	case IPv4Only, IPv6Only, DualStack:
		*s = Stack(v)
		return nil
	}
	return fmt.Errorf("%q is no stack, must be ipv4, ipv6 or dual", v)
}

// Type names the values in a command's help.
func (s *Stack) Type() string { return "ipv4|ipv6|dual" }
