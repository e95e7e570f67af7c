package guard

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/nftables/internal/nft"
	"github.com/twill-net/twill/subnet"
)

func baseChain(name string, hook *nftables.ChainHook, priority int32, rules ...nft.Rule) nft.Chain {
	return nft.BaseChain(name, nftables.ChainTypeFilter, hook, priority, rules...)
}

// chainNames lists the chains of a table, those that are jumped to first.
func chainNames(table nfnetlink.Table) []string {
	var names []string
	for _, c := range allChains(table) {
		names = append(names, c.Name)
	}
	return names
}

// allChains returns the chains that a table may have, those that are jumped to
// first. What is in them is of no Guard.
func allChains(table nfnetlink.Table) []nft.Chain {
	return render(table, hygiene.Guard{Routed: true}, nil)
}

// counters returns the reasons that a table counts.
func counters(table nfnetlink.Table) []hygiene.Reason {
	if table == pods() {
		return []hygiene.Reason{hygiene.ReasonPodToVTEP, hygiene.ReasonSpoofedSource}
	}
	return hygiene.Reasons[:]
}

// render returns the chains of a table, those that are jumped to first.
// Among sets, those of inner sources get a rule each.
func render(table nfnetlink.Table, g hygiene.Guard, sets []set) []nft.Chain {
	if table == pods() {
		return renderPods(g)
	}
	return renderVTEP(g, sets)
}

func renderVTEP(g hygiene.Guard, sets []set) []nft.Chain {
	peers := func(f subnet.Family) set { return set{table: vtep(), role: rolePeers, outer: f} }
	var fromPods, toPeers []nft.Rule
	for _, f := range subnet.Families {
		if n := g.Networks[f]; n.IsValid() {
			fromPods = append(fromPods, newRule("from a pod", family(f), within(source[f], expr.CmpOpEq, n), drop(hygiene.ReasonPodToVTEP)))
			toPeers = append(toPeers,
				newRule("a pod to a peer", family(f), within(source[f], expr.CmpOpEq, n),
					fieldIn(destination[f], peers(f)), drop(hygiene.ReasonPodToVTEP)),
				newRule("a pod in our name to an address that a peer may have too", family(f), within(source[f], expr.CmpOpEq, n),
					vni(expr.CmpOpEq, g.VNI), within(destination[f], expr.CmpOpNeq, n), drop(hygiene.ReasonPodToVTEP)))
		}
	}
	chains := []nft.Chain{
		innerChain(subnet.IPv4, g),
		innerChain(subnet.IPv6, g),
		{Name: "inner", Rules: []nft.Rule{
			newRule("ARP", is(innerEtherType, 0x08, 0x06), accept()),
			newRule("IPv4", is(innerEtherType, ipType[subnet.IPv4]...), goTo("inner-ipv4")),
			newRule("IPv6", is(innerEtherType, ipType[subnet.IPv6]...), goTo("inner-ipv6")),
			newRule("anything else, and what is tagged", drop(hygiene.ReasonInnerProtocol)),
		}},
		{Name: "peer", Rules: []nft.Rule{
			newRule("", family(subnet.IPv4), fieldIn(source[subnet.IPv4], peers(subnet.IPv4)), goTo("inner")),
			newRule("", family(subnet.IPv6), fieldIn(source[subnet.IPv6], peers(subnet.IPv6)), goTo("inner")),
			newRule("no peer", drop(hygiene.ReasonStranger)),
		}},
		{Name: "vtep", Rules: append(append(fromPeersPods(g, sets), fromPods...),
			newRule("foreign VNI", vni(expr.CmpOpNeq, g.VNI), accept()),
			newRule("our VNI", vni(expr.CmpOpEq, g.VNI), goTo("peer")),
			newRule("VNI in another fragment", fragment(), drop(hygiene.ReasonFragment)),
		)},
		{Name: "pod-to-vtep", Rules: toPeers},
		// A first fragment may end before the UDP header. Nobody needs such
		// (RFC 7112); Linux drops them by itself since 5.11.
		{Name: "fragment", Rules: []nft.Rule{
			newRule("another protocol or port", readable(upperLayer), accept()),
			newRule("header in another fragment", drop(hygiene.ReasonFragment)),
		}},
		baseChain("input", nftables.ChainHookInput, hygiene.PriorityInput,
			newRule(describeGuard(g), udpTo(g.Port), goTo("vtep")),
			newRule("first fragments", firstFragment(), goTo("fragment")),
		),
		baseChain("forward", nftables.ChainHookForward, hygiene.PriorityInput,
			newRule("", udpTo(g.Port), goTo("pod-to-vtep")),
		),
	}
	if !g.Routed {
		return chains
	}
	return append(chains, podChain(g), baseChain("prerouting", nftables.ChainHookPrerouting, hygiene.PriorityPrerouting,
		newRule("pods on no bridge", fromGuardedPort(vtep()), goTo("pod"))))
}

// fromPeersPods accepts, by one look-up, what nearly all packets are: from a
// pod in a subnet of that peer. The chains behind it decide about the rest.
func fromPeersPods(g hygiene.Guard, sets []set) (rules []nft.Rule) {
	for _, s := range sortSets(sets) {
		if s.role != roleInner || !g.Networks[s.inner].IsValid() {
			continue
		}
		outer, second := source[s.outer], follower(source[s.outer].length)
		parts := []match{family(s.outer)}
		if n := g.Networks[s.outer]; n.IsValid() {
			parts = append(parts, within(outer, expr.CmpOpNeq, n))
		}
		rules = append(rules, newRule("", append(parts,
			vni(expr.CmpOpEq, g.VNI), is(innerEtherType, ipType[s.inner]...),
			match{load(outer, register), load(innerSource[s.inner], second)},
			mask(s.bits, innerSource[s.inner].length, second), match{in(s)}, accept())...))
	}
	return rules
}

// innerChain decides by the source address of an inner packet of a family that
// is not from a pod of that peer.
func innerChain(f subnet.Family, g hygiene.Guard) nft.Chain {
	c := nft.Chain{Name: "inner-" + familyName[f]}
	n := g.Networks[f]
	if !n.IsValid() {
		c.Rules = []nft.Rule{newRule("no overlay network", accept())}
		return c
	}
	c.Rules = []nft.Rule{
		newRule("not from a pod", within(innerSource[f], expr.CmpOpNeq, n), accept()),
		newRule("not in that peer's subnet", drop(hygiene.ReasonInnerSource)),
	}
	return c
}

// podChain checks what comes from a pod that is on no bridge. Its ARP and
// neighbour discovery tell nobody but this node, on the pod's own link.
func podChain(g hygiene.Guard) nft.Chain {
	c := nft.Chain{Name: "pod"}
	for _, f := range subnet.Families {
		c.Rules = append(c.Rules, newRule("its own", family(f), portAndFieldIn(source[f], set{table: vtep(), role: rolePods, inner: f}), accept()))
		c.Rules = append(c.Rules, otherSource(f, g.Port, accept(), family(f))...)
	}
	c.Rules = append(c.Rules, newRule("not its own", drop(hygiene.ReasonSpoofedSource)))
	return c
}

var unspecified = subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("0.0.0.0/32"), netip.MustParsePrefix("::/128")}

// linkLocal addresses are made up by pods themselves (RFC 4862, RFC 7217), so
// that nobody can tell which are theirs.
var linkLocal = netip.MustParsePrefix("fe80::/10")

// otherSource returns the rules for source addresses that a pod may use besides
// its own. They do not tell that a pod sends, so that a VTEP must not meet them:
// the input hook knows pods by their addresses.
func otherSource(f subnet.Family, port uint16, then match, first ...match) []nft.Rule {
	begin := slices.Concat(first...)
	rules := []nft.Rule{
		newRule("to a VTEP", begin, udpTo(port), drop(hygiene.ReasonPodToVTEP)),
		newRule("none yet", begin, within(source[f], expr.CmpOpEq, unspecified[f]), then),
	}
	if f == subnet.IPv6 {
		rules = append(rules, newRule("link-local", begin, within(source[f], expr.CmpOpEq, linkLocal), then))
	}
	return rules
}

func fromGuardedPort(table nfnetlink.Table) match {
	return match{port(), in(set{table: table, role: rolePorts})}
}

// renderPods returns the chains that see frames where they come in from a
// bridge's port.
func renderPods(g hygiene.Guard) []nft.Chain {
	deny := drop(hygiene.ReasonSpoofedSource)
	own := func(f subnet.Family) set { return set{table: pods(), role: rolePods, inner: f} }
	return []nft.Chain{
		{Name: "neighbour", Rules: []nft.Rule{ // ICMPv6 types: RFC 4861
			newRule("router advertisement", protocol(unix.IPPROTO_ICMPV6), is(icmpType, 134), deny),
			newRule("redirect", protocol(unix.IPPROTO_ICMPV6), is(icmpType, 137), deny),
			newRule("its own", protocol(unix.IPPROTO_ICMPV6), is(icmpType, 136), portAndFieldIn(ndAdvertise, own(subnet.IPv6)), accept()),
			newRule("link-local", protocol(unix.IPPROTO_ICMPV6), is(icmpType, 136), within(ndAdvertise, expr.CmpOpEq, linkLocal), accept()),
			newRule("neighbour advertisement", protocol(unix.IPPROTO_ICMPV6), is(icmpType, 136), deny),
		}},
		{Name: "ipv6", Rules: slices.Concat(
			[]nft.Rule{newRule("its own", portAndFieldIn(source[subnet.IPv6], own(subnet.IPv6)), goTo("neighbour"))},
			otherSource(subnet.IPv6, g.Port, goTo("neighbour")), []nft.Rule{newRule("not its own", deny)})},
		{Name: "ipv4", Rules: append(otherSource(subnet.IPv4, g.Port, accept()), newRule("not its own", deny))},
		{Name: "arp", Rules: []nft.Rule{
			newRule("not IPv4 on Ethernet", isNot(arpFormat, 0, 1, 8, 0, 6, 4), deny),
			newRule("its own", portAndFieldIn(arpSender, own(subnet.IPv4)), accept()),
			newRule("a probe (RFC 5227)", within(arpSender, expr.CmpOpEq, unspecified[subnet.IPv4]), accept()),
			newRule("not its own", deny),
		}},
		{Name: "pod", Rules: []nft.Rule{
			newRule("", is(etherType, ipType[subnet.IPv4]...), goTo("ipv4")),
			newRule("", is(etherType, ipType[subnet.IPv6]...), goTo("ipv6")),
			newRule("", is(etherType, 0x08, 0x06), goTo("arp")),
			newRule("802.1Q: what is inside is not checked", is(etherType, 0x81, 0x00), deny),
			newRule("802.1ad", is(etherType, 0x88, 0xa8), deny),
		}},
		// First what nearly all frames are, with one look-up.
		baseChain("prerouting", nftables.ChainHookPrerouting, hygiene.PriorityBridge,
			newRule("its own", is(etherType, ipType[subnet.IPv4]...), portAndFieldIn(source[subnet.IPv4], own(subnet.IPv4)), accept()),
			newRule("its own", is(etherType, ipType[subnet.IPv6]...), notProtocol(unix.IPPROTO_ICMPV6),
				portAndFieldIn(source[subnet.IPv6], own(subnet.IPv6)), accept()),
			newRule("", fromGuardedPort(pods()), goTo("pod"))),
	}
}

// sortSets returns sets in an order that depends on nothing but them.
func sortSets(sets []set) []set {
	return slices.SortedFunc(slices.Values(sets), func(a, b set) int { return cmp.Compare(a.name(), b.name()) })
}

const routedWord = "routed"

// describeGuard says what a Guard is, for people and for parseGuard: nft shows
// it as the comment of the first rule on input. It fits in the 128 octets that
// nft takes for a comment.
func describeGuard(g hygiene.Guard) string {
	words := []string{"vni", strconv.FormatUint(uint64(g.VNI), 10), "port", strconv.FormatUint(uint64(g.Port), 10), "network"}
	for _, n := range g.Networks {
		if n.IsValid() {
			words = append(words, n.String())
		}
	}
	if g.Routed {
		words = append(words, routedWord)
	}
	return strings.Join(words, " ")
}

// parseGuard is the reverse of describeGuard. Whoever renders what it returns,
// and compares, knows whether the comment lies.
func parseGuard(comment string) (g hygiene.Guard, ok bool) {
	words := strings.Fields(comment)
	if len(words) < 5 {
		return hygiene.Guard{}, false
	}
	n, err := strconv.ParseUint(words[1], 10, 24)
	if err != nil {
		return hygiene.Guard{}, false
	}
	p, err := strconv.ParseUint(words[3], 10, 16)
	if err != nil {
		return hygiene.Guard{}, false
	}
	g.VNI, g.Port = uint32(n), uint16(p)
	for _, w := range words[5:] {
		if w == routedWord {
			g.Routed = true
			continue
		}
		network, err := netip.ParsePrefix(w)
		if err != nil {
			return hygiene.Guard{}, false
		}
		g.Networks[familyOf(network.Addr())] = network
	}
	return g, describeGuard(g) == comment
}
