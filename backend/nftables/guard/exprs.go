package guard

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/nftables/internal/nft"
	"github.com/twill-net/twill/subnet"
)

// Registers: the first takes 16 octets, and what follows it in a concatenated
// key begins behind the octets in use (NFT_REG32_*, 4 octets each). The kernel
// calls NFT_REG32_04 NFT_REG_2 when it is read back (nft_dump_register).
const register = unix.NFT_REG_1

// follower returns the register behind n octets of the first.
func follower(n uint32) uint32 {
	if n == 16 {
		return unix.NFT_REG_2
	}
	return unix.NFT_REG32_00 + n/4
}

// field is a part of a packet: base, offset and length in octets.
type field struct {
	base   expr.PayloadBase
	offset uint32
	length uint32
}

// Where things are.
//
// VXLAN (RFC 7348 section 5), counted from the UDP header of 8 octets: flags
// and reserved 4, VNI 3, reserved 1, then the inner Ethernet header of 14.
var (
	upperLayer     = field{expr.PayloadBaseTransportHeader, 0, 1}
	udpDestination = field{expr.PayloadBaseTransportHeader, 2, 2}
	vxlanVNI       = field{expr.PayloadBaseTransportHeader, 8 + 4, 4} // with the reserved octet
	innerEtherType = field{expr.PayloadBaseTransportHeader, 8 + 8 + 12, 2}
	innerSource    = subnet.PerFamily[field]{
		{expr.PayloadBaseTransportHeader, 8 + 8 + 14 + 12, 4},
		{expr.PayloadBaseTransportHeader, 8 + 8 + 14 + 8, 16},
	}

	source      = subnet.PerFamily[field]{{expr.PayloadBaseNetworkHeader, 12, 4}, {expr.PayloadBaseNetworkHeader, 8, 16}}
	destination = subnet.PerFamily[field]{{expr.PayloadBaseNetworkHeader, 16, 4}, {expr.PayloadBaseNetworkHeader, 24, 16}}

	// As on the wire: the kernel puts a tag that it holds apart back for
	// such a load (nft_payload_copy_vlan).
	etherType   = field{expr.PayloadBaseLLHeader, 12, 2}
	arpFormat   = field{expr.PayloadBaseNetworkHeader, 0, 6} // RFC 826: hardware, protocol, their lengths
	arpSender   = field{expr.PayloadBaseNetworkHeader, 14, 4}
	icmpType    = field{expr.PayloadBaseTransportHeader, 0, 1}
	ndAdvertise = field{expr.PayloadBaseTransportHeader, 8, 16} // RFC 4861 section 4.4: the target
)

// ipType is the EtherType of each family.
var ipType = subnet.PerFamily[[]byte]{{0x08, 0x00}, {0x86, 0xdd}}

var nfproto = subnet.PerFamily[byte]{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6}

// match is a part of a rule.
type match []expr.Any

func load(f field, into uint32) expr.Any {
	return &expr.Payload{DestRegister: into, Base: f.base, Offset: f.offset, Len: f.length}
}

func compare(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: register, Data: data}
}

func is(f field, data ...byte) match {
	return match{load(f, register), compare(expr.CmpOpEq, data)}
}

func isNot(f field, data ...byte) match {
	return match{load(f, register), compare(expr.CmpOpNeq, data)}
}

// readable matches when there is such a field at all, whatever its value.
func readable(f field) match {
	return match{load(f, register), compare(expr.CmpOpGte, make([]byte, f.length))}
}

func meta(key expr.MetaKey, data byte) match {
	return match{&expr.Meta{Key: key, Register: register}, compare(expr.CmpOpEq, []byte{data})}
}

func family(f subnet.Family) match { return meta(expr.MetaKeyNFPROTO, nfproto[f]) }

func protocol(p byte) match { return meta(expr.MetaKeyL4PROTO, p) }

func notProtocol(p byte) match {
	return match{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, compare(expr.CmpOpNeq, []byte{p})}
}

func udpTo(port uint16) match {
	return append(protocol(unix.IPPROTO_UDP), is(udpDestination, binary.BigEndian.AppendUint16(nil, port)...)...)
}

// vni compares the VNI. It loads the reserved octet behind it and masks it: what
// is as long as a register and aligned is loaded, masked and compared without a
// function call (nft_do_chain), what is 3 octets long is not.
func vni(op expr.CmpOp, n uint32) match {
	m := append(match{load(vxlanVNI, register)}, mask(24, vxlanVNI.length, register)...)
	return append(m, compare(op, binary.BigEndian.AppendUint32(nil, n<<8)))
}

// mask keeps the first bits of an address in a register.
func mask(bits int, length, in uint32) match {
	if bits == int(8*length) {
		return nil
	}
	return match{&expr.Bitwise{
		SourceRegister: in, DestRegister: in, Len: length, Mask: net.CIDRMask(bits, int(8*length)), Xor: make([]byte, length),
	}}
}

// within matches an address in a prefix, or with CmpOpNeq one that is not.
func within(f field, op expr.CmpOp, p netip.Prefix) match {
	m := append(match{load(f, register)}, mask(p.Bits(), f.length, register)...)
	return append(m, compare(op, p.Masked().Addr().AsSlice()))
}

func in(s set) expr.Any {
	return &expr.Lookup{SourceRegister: register, SetName: s.name()}
}

func fieldIn(f field, s set) match { return match{load(f, register), in(s)} }

func port() expr.Any { return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register} }

// portAndFieldIn matches when the port that a frame came in by goes with the
// address.
func portAndFieldIn(f field, s set) match {
	return match{port(), load(f, follower(unix.IFNAMSIZ)), in(s)}
}

// fragment matches an IPv6 fragment, whatever else can be read of it.
func fragment() match {
	return append(family(subnet.IPv6),
		&expr.Exthdr{
			DestRegister: register, Type: unix.IPPROTO_FRAGMENT, Offset: 0, Len: 1,
			Flags: unix.NFT_EXTHDR_F_PRESENT, Op: expr.ExthdrOpIpv6,
		},
		compare(expr.CmpOpEq, []byte{1}))
}

// firstFragment matches one of offset 0 (RFC 8200 section 4.5).
func firstFragment() match {
	return append(family(subnet.IPv6),
		&expr.Exthdr{DestRegister: register, Type: unix.IPPROTO_FRAGMENT, Offset: 2, Len: 2, Op: expr.ExthdrOpIpv6},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 2, Mask: []byte{0xff, 0xf8}, Xor: []byte{0, 0}},
		compare(expr.CmpOpEq, []byte{0, 0}))
}

func accept() match { return match{&expr.Verdict{Kind: expr.VerdictAccept}} }

func goTo(chain string) match { return match{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }

// drop counts and drops.
func drop(r hygiene.Reason) match {
	return match{
		&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: string(r)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}

// newRule joins the parts of a rule. The comment is for people, and nft shows
// it.
func newRule(comment string, parts ...match) nft.Rule {
	return nft.Rule{Exprs: slices.Concat(parts...), Userdata: nft.Userdata(comment)}
}

// form returns a rule as comparable octets.
func form(r nft.Rule, family byte) string {
	form := r.Userdata
	for _, e := range r.Exprs {
		if e == nil { // nothing that we render
			return ""
		}
		b, err := expr.Marshal(family, e)
		if err != nil {
			return ""
		}
		form += "\x00" + string(b)
	}
	return form
}
