package iptables

import (
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

func decodeRule(m netlink.Message) (kernelRule, error) {
	var r kernelRule
	attrs, err := nfnetlink.Decode(m)
	if err != nil {
		return r, err
	}
	conditional := false
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_RULE_HANDLE, unix.NFTA_RULE_COMPAT, unix.NFTA_RULE_USERDATA:
			r.content = append(r.content, attrs.Bytes()...)
		case unix.NFTA_RULE_EXPRESSIONS:
			attrs.Nested(func(list *netlink.AttributeDecoder) error {
				within(list, unix.NFTA_LIST_ELEM, func(e *netlink.AttributeDecoder) {
					conditional = !decodeExpr(e, &r) || conditional
				})
				return nil
			})
		}
	}
	if conditional {
		r.step = step{}
	}
	return r, attrs.Err()
}

// decodeExpr notes in r what an expression is and what it does to each packet.
// It returns false if it may stop the rule, or is not known.
func decodeExpr(attrs *netlink.AttributeDecoder, r *kernelRule) bool {
	var name string
	unconditional := false
	for attrs.Next() { // the name comes first (nf_tables_fill_expr_info)
		switch attrs.Type() {
		case unix.NFTA_EXPR_NAME:
			name = attrs.String()
			r.content = append(r.content, name...)
			switch name {
			case "counter", "log":
				unconditional = true
			case "reject":
				r.step.fate, unconditional = drops, true
			case "masq", "nat", "redir":
				r.step.fate, unconditional = accepts, true
			}
		case unix.NFTA_EXPR_DATA:
			if name != "counter" {
				r.content = append(r.content, attrs.Bytes()...)
			}
			attrs.Nested(func(data *netlink.AttributeDecoder) error {
				switch name {
				case "immediate":
					decodeVerdict(data, &r.step)
					unconditional = true
				case "match":
					unconditional = decodeName(data, nftaMatchName) == "comment"
				case "target":
					r.step.fate, unconditional = fateOf(decodeName(data, nftaTargetName)), true
				}
				return nil
			})
		}
	}
	return unconditional
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
