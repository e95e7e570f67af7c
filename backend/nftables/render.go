package nftables

import (
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/nftables/internal/nft"
	"github.com/twill-net/twill/subnet"
)

// register is the one that all our rules load into and compare from.
const register = unix.NFT_REG_1

// render returns the chains of our table in the order they are written. There
// is none on the forward hook: accepts there change no packet's fate (see
// Foreign for those that do), and cost each packet 2 % of its way from pod to
// pod.
func render(r masq.Rules) []nft.Chain {
	if len(r.Postrouting) == 0 {
		return nil
	}
	return []nft.Chain{
		nft.BaseChain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, masq.PrioritySourceNAT, renderRules(r.Postrouting)...),
	}
}

func names(chains []nft.Chain) []string {
	var list []string
	for _, c := range chains {
		list = append(list, c.Name)
	}
	return list
}

func renderRules(list []masq.Rule) []nft.Rule {
	var rules []nft.Rule
	for _, r := range list {
		rules = append(rules, nft.Rule{Exprs: exprs(r), Userdata: nft.Userdata(r.Comment)})
	}
	return rules
}

// exprs returns a rule for a table of family inet.
func exprs(r masq.Rule) []expr.Any {
	return append(matchFamily(r.Family), familyExprs(r)...)
}

// familyExprs returns a rule for a table of its own family.
func familyExprs(r masq.Rule) []expr.Any {
	var e []expr.Any
	if r.Mark != (masq.Mark{}) {
		e = append(e, matchMark(r.Mark)...)
	}
	if r.Source.IsValid() {
		e = append(e, matchPrefix(r.Source, sourceOffset[r.Family])...)
	}
	if r.Destination.IsValid() {
		e = append(e, matchPrefix(r.Destination, destinationOffset[r.Family])...)
	}
	return append(e, verdict(r.Verdict))
}

// Where the addresses lie in the network header, in bytes: RFC 791 section
// 3.1, RFC 8200 section 3.
var (
	sourceOffset      = subnet.PerFamily[uint32]{subnet.IPv4: 12, subnet.IPv6: 8}
	destinationOffset = subnet.PerFamily[uint32]{subnet.IPv4: 16, subnet.IPv6: 24}
	nfproto           = subnet.PerFamily[byte]{subnet.IPv4: unix.NFPROTO_IPV4, subnet.IPv6: unix.NFPROTO_IPV6}
)

// matchFamily is needed in a table of family inet, where the network header
// may be of either.
func matchFamily(f subnet.Family) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{nfproto[f]}},
	}
}

// matchMark compares in host byte order, in which the kernel loads the mark.
func matchMark(m masq.Mark) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(m.Mask), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.NativeEndian.PutUint32(m.Value)},
	}
}

// matchPrefix compares the address at offset. As nft does, it loads only the
// octets that the prefix covers, and where it ends inside an octet the whole
// address, masked; nft can show no other form as a prefix. The prefix of length
// 0 needs no match: the family says it.
func matchPrefix(p netip.Prefix, offset uint32) []expr.Any {
	bits, address := p.Bits(), p.Masked().Addr().AsSlice()
	if bits == 0 {
		return nil
	}
	length := bits / 8
	if bits%8 != 0 {
		length = len(address)
	}
	e := []expr.Any{&expr.Payload{
		DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(length),
	}}
	if bits%8 != 0 {
		e = append(e, &expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: uint32(length),
			Mask: net.CIDRMask(bits, 8*length), Xor: make([]byte, length),
		})
	}
	return append(e, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: address[:length]})
}

func verdict(v masq.Verdict) expr.Any {
	switch v {
	case masq.Accept:
		return &expr.Verdict{Kind: expr.VerdictAccept}
	case masq.Masquerade:
		return &expr.Masq{}
	case masq.MasqueradeRandomFully:
		return &expr.Masq{FullyRandom: true}
	default:
		return &expr.Verdict{Kind: expr.VerdictReturn}
	}
}
