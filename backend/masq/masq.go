// Package masq says, as data, which packets a node masquerades and which it
// forwards. One model serves both address families and every renderer
// (nftables, iptables).
//
// The matrix, per family; the first row that matches decides:
//
//	1  marked 0x4000/0x4000                     leave (kube-proxy masquerades it itself)
//	2  own subnet          -> overlay network   leave
//	3  overlay network     -> own subnet        leave
//	4  outside the network -> own subnet        leave (the pod sees its client: externalTrafficPolicy Local)
//	5  overlay network     -> any but multicast masquerade
//	   and NonMasqueradeCIDRs                   leave
//	6  outside the network -> overlay network   masquerade (the peer's pod can answer by way of us)
//
// What switches the rows:
//
//	--ip-masq=false (the default)       no row: nothing is masqueraded, and no NAT chain is there
//	MasqueradeIPv4 or IPv6 false        no row of that family
//	NonMasqueradeCIDRs                  further destinations of row 5 that see the pods' own addresses; they must
//	                                    have routes to the pods. Row 6 is not touched: it looks at no sources
//	--ip-masq-fully-random-disable      ports are kept where they are free
//	--iptables-forward-rules=false      no accepts of what is forwarded
//
// Replies follow their connection (conntrack), whatever the rules say by then:
// a change of rules, of their renderer too, touches new connections alone.
//
// Rows 4 and 6 part by the destination: 4 is our own subnet, 6 is the rest of
// the network. 3 and 4 together are "to own subnet, from anywhere". Once rows
// 1 to 5 have decided, a packet to the network can only come from outside, so
// 6 needs no "not from". Plan therefore emits an order without a single
// negation, which means the same, holds for several networks per family and
// needs neither sets nor jumps of a renderer.
//
// It is pure: it imports neither netlink, nftables, iptables nor a logger.
package masq

import (
	"net/netip"

	"github.com/twill-net/twill/subnet"
)

// Priorities of our base chains, of which the lower runs first
// (linux/netfilter_ipv4.h, enum nf_ip_hook_priorities).
const (
	PrioritySourceNAT = 100 // postrouting, where kube-proxy's and iptables' are too
	PriorityFilter    = 0   // forward
)

// KubeMasqueradeMark is the bit of the firewall mark by which kube-proxy marks
// packets that it masquerades itself (--iptables-masquerade-bit, default 14).
const KubeMasqueradeMark = 0x4000

// multicast is the group range of each family: RFC 5771, RFC 4291 section 2.7.
var multicast = subnet.PerFamily[netip.Prefix]{
	subnet.IPv4: netip.MustParsePrefix("224.0.0.0/4"),
	subnet.IPv6: netip.MustParsePrefix("ff00::/8"),
}

// Config is what the rules follow from. A family without a network or without
// an own subnet gets no rules.
type Config struct {
	Networks    subnet.PerFamily[[]netip.Prefix] // the overlay network
	Subnets     subnet.PerFamily[netip.Prefix]   // this node's slice of it
	Masquerade  subnet.PerFamily[bool]           // --ip-masq, and MasqueradeIPv4, MasqueradeIPv6
	RandomFully bool                             // source ports chosen at random, not kept where free
	Exclude     []netip.Prefix                   // NonMasqueradeCIDRs: further destinations, of either family, which see the pods' addresses
	Forward     bool                             // --iptables-forward-rules: accept what is forwarded from and to the network
	Renderer    Renderer                         // EnableNFTables
}

// Plan returns the rules for c. The same c gives the same rules.
func Plan(c Config) Rules {
	r := Rules{Renderer: c.Renderer}
	for _, f := range subnet.Families {
		if len(c.Networks[f]) == 0 || !c.Subnets[f].IsValid() {
			continue
		}
		if c.Masquerade[f] {
			r.Postrouting = append(r.Postrouting, c.postrouting(f)...)
		}
		if c.Forward {
			r.Forward = append(r.Forward, c.forward(f)...)
		}
	}
	return r
}

func (c Config) postrouting(f subnet.Family) []Rule {
	own, masquerade := c.Subnets[f].Masked(), Masquerade
	if c.RandomFully {
		masquerade = MasqueradeRandomFully
	}
	rules := []Rule{{
		Family: f, Mark: Mark{KubeMasqueradeMark, KubeMasqueradeMark}, Verdict: Return,
		Comment: "masqueraded by kube-proxy",
	}}
	for _, n := range c.Networks[f] {
		rules = append(rules, Rule{
			Family: f, Source: own, Destination: n.Masked(), Verdict: Return,
			Comment: "own pods inside the network",
		})
	}
	rules = append(rules,
		Rule{Family: f, Destination: own, Verdict: Return, Comment: "own pods see their clients"},
		Rule{Family: f, Destination: multicast[f], Verdict: Return, Comment: "multicast"},
	)
	for _, n := range c.Networks[f] {
		for _, x := range c.Exclude {
			if subnet.FamilyOf(x.Addr()) == f {
				rules = append(rules, Rule{
					Family: f, Source: n.Masked(), Destination: x.Masked(), Verdict: Return,
					Comment: "excluded by config",
				})
			}
		}
	}
	for _, n := range c.Networks[f] {
		rules = append(rules, Rule{
			Family: f, Source: n.Masked(), Verdict: masquerade,
			Comment: "pods to the outside",
		})
	}
	for _, n := range c.Networks[f] {
		rules = append(rules, Rule{
			Family: f, Destination: n.Masked(), Verdict: masquerade,
			Comment: "the outside to peers' pods",
		})
	}
	return rules
}

func (c Config) forward(f subnet.Family) []Rule {
	var rules []Rule
	for _, n := range c.Networks[f] {
		rules = append(rules,
			Rule{Family: f, Source: n.Masked(), Verdict: Accept, Comment: "from the network"},
			Rule{Family: f, Destination: n.Masked(), Verdict: Accept, Comment: "to the network"},
		)
	}
	return rules
}
