package guard

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/subnet"
)

// role says what the elements of a set are.
type role uint8

const (
	rolePeers role = iota // outer addresses of peers
	roleInner             // (outer address of a peer, its subnet's address), for subnets of one length
	rolePorts             // names of guarded host veths
	rolePods              // (name of a host veth, address of its pod)
)

// set identifies one of our sets.
type set struct {
	table nfnetlink.Table
	role  role
	outer subnet.Family // of peers and inner
	inner subnet.Family // of inner and pods
	bits  int           // of inner
}

var familyName = subnet.PerFamily[string]{"ipv4", "ipv6"}

// name returns the set's name: peers-ipv4, ipv6-64-in-ipv4, pod-ports,
// pods-ipv6.
func (s set) name() string {
	switch s.role {
	case rolePeers:
		return "peers-" + familyName[s.outer]
	case roleInner:
		return fmt.Sprintf("%s-%d-in-%s", familyName[s.inner], s.bits, familyName[s.outer])
	case rolePorts:
		return "pod-ports"
	}
	return "pods-" + familyName[s.inner]
}

// parseSet returns the set of ours that has a name in a table.
func parseSet(table nfnetlink.Table, name string) (set, bool) {
	for _, s := range baseSets(table) {
		if s.name() == name {
			return s, true
		}
	}
	inner, rest, _ := strings.Cut(name, "-")
	length, outer, _ := strings.Cut(rest, "-in-")
	bits, err := strconv.Atoi(length)
	if err != nil || table != vtep() {
		return set{}, false
	}
	for _, i := range subnet.Families {
		for _, o := range subnet.Families {
			s := set{table: table, role: roleInner, outer: o, inner: i, bits: bits}
			if familyName[i] == inner && familyName[o] == outer && bits >= 0 && bits <= i.Bits() && s.name() == name {
				return s, true
			}
		}
	}
	return set{}, false
}

// baseSets returns the sets that a table has whatever is in them.
func baseSets(table nfnetlink.Table) []set {
	sets := []set{{table: table, role: rolePorts}}
	for _, f := range subnet.Families {
		sets = append(sets, set{table: table, role: rolePods, inner: f})
		if table == vtep() {
			sets = append(sets, set{table: table, role: rolePeers, outer: f})
		}
	}
	return sets
}

var addressType = subnet.PerFamily[nftables.SetDatatype]{nftables.TypeIPAddr, nftables.TypeIP6Addr}

// fields returns the types that a key is made of.
func (s set) fields() []nftables.SetDatatype {
	switch s.role {
	case rolePeers:
		return []nftables.SetDatatype{addressType[s.outer]}
	case roleInner:
		return []nftables.SetDatatype{addressType[s.outer], addressType[s.inner]}
	case rolePorts:
		return []nftables.SetDatatype{nftables.TypeIFName}
	}
	return []nftables.SetDatatype{nftables.TypeIFName, addressType[s.inner]}
}

// keyLen returns the length of a key in octets. All fields fill registers of 4
// octets, so that none is padded.
func (s set) keyLen() int {
	switch s.role {
	case rolePeers:
		return s.outer.Bits() / 8
	case roleInner:
		return s.outer.Bits()/8 + s.inner.Bits()/8
	case rolePorts:
		return unix.IFNAMSIZ
	}
	return unix.IFNAMSIZ + s.inner.Bits()/8
}

// maxKey is the length in octets of the longest key: two addresses of IPv6, or
// an interface's name and one.
const maxKey = 32

// element is a key in a set.
type element struct {
	set set
	key [maxKey]byte // of which keyLen octets count
}

// octets returns the key.
func (e *element) octets() []byte { return e.key[:e.set.keyLen()] }

// putAddr writes an address and returns what is behind it.
func putAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		octets := a.As4()
		return b[copy(b, octets[:]):]
	}
	octets := a.As16()
	return b[copy(b, octets[:]):]
}

// takeAddr reads an address of a family.
func takeAddr(b []byte, f subnet.Family) netip.Addr {
	if f == subnet.IPv4 {
		return netip.AddrFrom4([4]byte(b))
	}
	return netip.AddrFrom16([16]byte(b))
}

// familyOf tells by length: a mapped address in an IPv6 set is not ours, and
// must be named as it is to be deleted.
func familyOf(a netip.Addr) subnet.Family {
	if a.Is4() {
		return subnet.IPv4
	}
	return subnet.IPv6
}

func permitElement(p hygiene.Permit) element {
	e := element{set: set{table: vtep(), role: rolePeers, outer: familyOf(p.Outer)}}
	rest := putAddr(e.key[:], p.Outer)
	if p.Inner.IsValid() {
		e.set.role, e.set.inner, e.set.bits = roleInner, familyOf(p.Inner.Addr()), p.Inner.Bits()
		putAddr(rest, p.Inner.Addr())
	}
	return e
}

// permit returns what an element of peers or inner says.
func (e *element) permit() hygiene.Permit {
	p := hygiene.Permit{Outer: takeAddr(e.key[:], e.set.outer)}
	if e.set.role == roleInner {
		p.Inner = netip.PrefixFrom(takeAddr(e.key[e.set.outer.Bits()/8:], e.set.inner), e.set.bits)
	}
	return p
}

// podElements returns what a Pod is made of in the tables.
func podElements(p hygiene.Pod, tables []nfnetlink.Table) []element {
	var elements []element
	for _, t := range tables {
		port := element{set: set{table: t, role: rolePorts}}
		copy(port.key[:unix.IFNAMSIZ], p.Link)
		elements = append(elements, port)
		for f, a := range p.Addresses {
			if a.IsValid() {
				e := element{set{table: t, role: rolePods, inner: subnet.Family(f)}, port.key}
				putAddr(e.key[unix.IFNAMSIZ:], a)
				elements = append(elements, e)
			}
		}
	}
	return elements
}

// ofPod reports whether the element is part of a Pod, rather than a Permit.
func (e *element) ofPod() bool { return e.set.role == rolePorts || e.set.role == rolePods }

// link returns the host veth of an element of ports or pods.
func (e *element) link() string { return text(e.key[:unix.IFNAMSIZ]) }

// assemble returns the Pods that the elements make up, by link.
func assemble(elements []element, tables []nfnetlink.Table) map[string]hygiene.Pod {
	byLink := map[string]map[element]bool{}
	pods := map[string]hygiene.Pod{}
	for _, e := range elements {
		link := e.link()
		if byLink[link] == nil {
			byLink[link] = map[element]bool{}
		}
		byLink[link][e] = true
		p := pods[link]
		p.Link = link
		if e.set.role == rolePods {
			p.Addresses[e.set.inner] = takeAddr(e.key[unix.IFNAMSIZ:], e.set.inner)
		}
		pods[link] = p
	}
	for link, have := range byLink {
		want := podElements(pods[link], tables)
		whole := len(want) == len(have)
		for _, e := range want {
			whole = whole && have[e]
		}
		if !whole {
			pods[link] = hygiene.Pod{Link: link, Altered: true}
		}
	}
	return pods
}
