package masq

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-net/twill/subnet"
)

// Rules are the rules of each hook, in order; the first that matches decides,
// and a packet that none matches passes unchanged.
type Rules struct {
	Postrouting []Rule // after routing, once per connection
	Forward     []Rule // on each forwarded packet
	Renderer    Renderer
}

// Equal reports whether both are the same rules by the same renderer.
func (r Rules) Equal(x Rules) bool {
	return r.Renderer == x.Renderer && slices.Equal(r.Postrouting, x.Postrouting) && slices.Equal(r.Forward, x.Forward)
}

// Renderer says which of the kernel's two firewalls the network config asks
// for.
type Renderer uint8

// The renderers.
const (
	AnyRenderer Renderer = iota // nftables where the kernel has it, else iptables
	NFTables
	IPTables
)

// Report is what became of rules.
type Report struct {
	Changed bool      // something had to be written
	Proper  bool      // and it was in the rules proper, not only in accepts in chains of others
	Mode    string    // who renders them: nftables, iptables-nft, iptables-legacy
	Forward []string  // other programs' chains that have our accepts, sorted: "ip filter FORWARD (iptables-nft)"
	Blocked []Blocked // chains that drop what is forwarded, and cannot be given our accepts
}

// Blocked is such a chain.
type Blocked struct {
	Chain  string // "inet firewalld filter_FORWARD"
	Reason string // why, and what to do about it
}

// Rule is one comparable rule. All that it names must match; zero values match
// anything.
type Rule struct {
	Family      subnet.Family
	Mark        Mark
	Source      netip.Prefix // masked
	Destination netip.Prefix // masked
	Verdict     Verdict
	Comment     string // for the administrator who lists the rules; at most 127 bytes, the limit of nft
}

// Mark matches packets whose firewall mark, masked, equals Value. The zero
// Mark matches all.
type Mark struct{ Value, Mask uint32 }

// Verdict is what happens to a packet that a Rule matches.
type Verdict uint8

// The verdicts.
const (
	Return                Verdict = iota // leave it as it is
	Accept                               // let it pass
	Masquerade                           // send it from our address on the outgoing interface
	MasqueradeRandomFully                // the same, from a random port, which avoids clashes of ports under load
)

// String returns the verdict as nft spells it.
func (v Verdict) String() string {
	switch v {
	case Return:
		return "return"
	case Accept:
		return "accept"
	case Masquerade:
		return "masquerade"
	case MasqueradeRandomFully:
		return "masquerade fully-random"
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// String returns the mark as value/mask.
func (m Mark) String() string { return fmt.Sprintf("%#x/%#x", m.Value, m.Mask) }

// String returns the rule on one line, such as
// `IPv4 from 10.244.0.0/16: masquerade (pods to the outside)`.
func (r Rule) String() string {
	var b strings.Builder
	b.WriteString(r.Family.String())
	if r.Mark != (Mark{}) {
		fmt.Fprintf(&b, " mark %s", r.Mark)
	}
	if r.Source.IsValid() {
		fmt.Fprintf(&b, " from %s", r.Source)
	}
	if r.Destination.IsValid() {
		fmt.Fprintf(&b, " to %s", r.Destination)
	}
	fmt.Fprintf(&b, ": %s", r.Verdict)
	if r.Comment != "" {
		fmt.Fprintf(&b, " (%s)", r.Comment)
	}
	return b.String()
}

// String returns one line per rule, each led by its hook.
func (r Rules) String() string {
	var b strings.Builder
	for _, rule := range r.Postrouting {
		fmt.Fprintf(&b, "postrouting %s\n", rule)
	}
	for _, rule := range r.Forward {
		fmt.Fprintf(&b, "forward %s\n", rule)
	}
	return b.String()
}
