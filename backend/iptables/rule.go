package iptables

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

// canonical returns a rule as it is read back.
func canonical(r masq.Rule, randomFully bool) masq.Rule {
	for _, p := range []*netip.Prefix{&r.Source, &r.Destination} {
		if p.Bits() <= 0 {
			*p = netip.Prefix{}
		}
	}
	if r.Verdict == masq.MasqueradeRandomFully && !randomFully {
		r.Verdict = masq.Masquerade
	}
	return r
}

// target is a verdict as iptables spells it.
func target(v masq.Verdict) []string {
	switch v {
	case masq.Accept:
		return []string{"ACCEPT"}
	case masq.Masquerade:
		return []string{"MASQUERADE"}
	case masq.MasqueradeRandomFully:
		return []string{"MASQUERADE", "--random-fully"}
	default:
		return []string{"RETURN"}
	}
}

// arguments returns a rule as arguments of iptables, without the chain
// (iptables(8), iptables-extensions(8)).
func arguments(r masq.Rule) []string {
	var args []string
	if r.Source.IsValid() {
		args = append(args, "-s", r.Source.String())
	}
	if r.Destination.IsValid() {
		args = append(args, "-d", r.Destination.String())
	}
	if r.Mark != (masq.Mark{}) {
		args = append(args, "-m", "mark", "--mark", r.Mark.String())
	}
	if r.Comment != "" {
		args = append(args, "-m", "comment", "--comment", r.Comment)
	}
	return append(append(args, "-j"), target(r.Verdict)...)
}

// jump returns the arguments of the jump to our chain.
func (p place) jump() []string {
	return []string{"-m", "comment", "--comment", p.comment, "-j", p.chain}
}

// parse returns the rule that arguments, as listed, describe, and false where
// they say anything that no rule of ours does. Matches may come in any order:
// versions of iptables differ.
func parse(f subnet.Family, args []string) (masq.Rule, bool) {
	r := masq.Rule{Family: f}
	for i := 0; i+1 < len(args); i += 2 {
		value, ok := args[i+1], false
		switch args[i] {
		case "-m":
			ok = value == "mark" || value == "comment" // its own option follows
		case "-s":
			r.Source, ok = parsePrefix(value)
		case "-d":
			r.Destination, ok = parsePrefix(value)
		case "--mark":
			r.Mark, ok = parseMark(value)
		case "--comment":
			r.Comment, ok = value, true
		case "-j":
			r.Verdict, ok = parseTarget(args[i+1:])
			i = len(args)
		}
		if !ok {
			return r, false
		}
	}
	return r, len(args) == len(arguments(r)) // nothing twice, nothing missing
}

func parsePrefix(s string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	return p, err == nil
}

func parseMark(s string) (masq.Mark, bool) {
	value, mask, masked := strings.Cut(s, "/")
	if !masked {
		mask = "0xffffffff"
	}
	v, err1 := strconv.ParseUint(value, 0, 32)
	m, err2 := strconv.ParseUint(mask, 0, 32)
	return masq.Mark{Value: uint32(v), Mask: uint32(m)}, err1 == nil && err2 == nil
}

func parseTarget(args []string) (masq.Verdict, bool) {
	for _, v := range []masq.Verdict{masq.Return, masq.Accept, masq.Masquerade, masq.MasqueradeRandomFully} {
		if strings.Join(target(v), " ") == strings.Join(args, " ") {
			return v, true
		}
	}
	return 0, false
}

// fields splits a line of `iptables -S` or of iptables-restore's input: words
// parted by blanks, quoted where need be, with \ before quotes and itself
// (xshared.c, add_param_to_argv).
func fields(line string) []string {
	var list []string
	var word strings.Builder
	inWord, quoted := false, false
	for i := 0; i < len(line); i++ {
		switch b := line[i]; {
		case quoted && b == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
		case b == '"':
			inWord, quoted = true, !quoted
		case !quoted && (b == ' ' || b == '\t' || b == '\n'):
			if inWord {
				list = append(list, word.String())
			}
			word.Reset()
			inWord = false
		default:
			inWord = true
			word.WriteByte(b)
		}
	}
	if inWord {
		list = append(list, word.String())
	}
	return list
}

// line is the reverse of fields. A line break, which would end a command of
// iptables-restore, becomes a blank.
func line(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if w != "" && !strings.ContainsAny(w, " \t\r\n\"'\\") {
			b.WriteString(w)
			continue
		}
		w = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ", "\r", " ").Replace(w)
		fmt.Fprintf(&b, `"%s"`, w)
	}
	return b.String()
}
