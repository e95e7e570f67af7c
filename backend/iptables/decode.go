package iptables

import (
	"encoding/binary"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

// What unix lacks of linux/netfilter/nf_tables_compat.h and linux/netfilter.h.
const (
	nftaTargetName = 1 // of an xtables target in nf_tables
	nftaMatchName  = 1 // of an xtables match in nf_tables

	nfDrop   = 0
	nfAccept = 1
	nfQueue  = 3
)

func decodeRule(from nfnetlink.Rule) (kernelRule, error) {
	r := kernelRule{content: binary.BigEndian.AppendUint64(nil, from.Handle)}
	conditional := false
	for _, e := range from.Expressions {
		r.content = append(r.content, e.Name...)
		if e.Name != "counter" {
			r.content = append(r.content, e.Data...)
		}
		unconditional, err := decodeExpr(e, &r.step)
		if err != nil {
			return r, err
		}
		conditional = !unconditional || conditional
	}
	r.content = append(r.content, from.Userdata...)
	r.step = r.step.under(conditional)
	return r, nil
}

// decodeExpr notes in s what an expression does to each packet. It returns false
// if it may stop the rule, or is not known.
func decodeExpr(e nfnetlink.Expression, s *step) (unconditional bool, err error) {
	switch e.Name {
	case "counter", "log":
		return true, nil
	case "reject":
		s.fate = drops
		return true, nil
	case "masq", "nat", "redir":
		s.fate = accepts
		return true, nil
	}
	data, err := nfnetlink.Attributes(e.Data)
	if err != nil {
		return false, err
	}
	switch e.Name {
	case "immediate":
		decodeVerdict(data, s)
		unconditional = true
	case "match":
		unconditional = decodeName(data, nftaMatchName) == "comment"
	case "target":
		s.fate, unconditional = fateOf(decodeName(data, nftaTargetName)), true
	}
	return unconditional, data.Err()
}

// decodeName returns the attribute attr, a string.
func decodeName(attrs *netlink.AttributeDecoder, attr uint16) (name string) {
	for attrs.Next() {
		if attrs.Type() == attr {
			name = attrs.String()
		}
	}
	return name
}

// decodeVerdict decodes an immediate expression into s. One that loads other
// data does nothing to a packet.
func decodeVerdict(attrs *netlink.AttributeDecoder, s *step) {
	within(attrs, unix.NFTA_IMMEDIATE_DATA, func(data *netlink.AttributeDecoder) {
		within(data, unix.NFTA_DATA_VERDICT, func(verdict *netlink.AttributeDecoder) {
			for verdict.Next() {
				switch verdict.Type() {
				case unix.NFTA_VERDICT_CODE:
					decodeCode(int32(verdict.Uint32()), s)
				case unix.NFTA_VERDICT_CHAIN:
					s.chain = verdict.String()
				}
			}
		})
	})
}

func decodeCode(code int32, s *step) {
	switch code {
	case nfDrop:
		s.fate = drops
	case nfAccept, nfQueue:
		s.fate = accepts
	case unix.NFT_RETURN, unix.NFT_GOTO:
		s.leaves = true
	}
}

// within calls f with what is nested in attributes of one type.
func within(attrs *netlink.AttributeDecoder, attr uint16, f func(*netlink.AttributeDecoder)) {
	for attrs.Next() {
		if attrs.Type() == attr {
			attrs.Nested(func(nested *netlink.AttributeDecoder) error {
				f(nested)
				return nil
			})
		}
	}
}
