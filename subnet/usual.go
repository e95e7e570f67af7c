package subnet

import (
	"encoding/json"
	"net/netip"
	"strings"
)

// decodeUsual reads a value that is spelled as flannel and Twill spell theirs:
// members in this order, no space, no escapes. All others, and all that is
// wrong, it leaves to decodeAny, which takes some ten times as long: that counts
// where a node that starts reads 20 000 of them. The lease's strings are parts
// of one copy of the value.
func decodeUsual(subnets PerFamily[netip.Prefix], b []byte) (Lease, bool) {
	u := usual{json: b, text: string(b)}
	l := Lease{Subnets: subnets}
	ok := u.pass(`{"PublicIP":`) && u.host(&l.PublicIPs[IPv4], IPv4) &&
		u.pass(`,"PublicIPv6":`) && (u.pass("null") || u.host(&l.PublicIPs[IPv6], IPv6)) &&
		(!u.pass(`,"BackendType":`) || u.word(&l.BackendType)) &&
		(!u.pass(`,"BackendData":`) || u.object(&l.BackendData[IPv4])) &&
		(!u.pass(`,"BackendV6Data":`) || u.object(&l.BackendData[IPv6])) &&
		(!u.pass(`,"SourceIP":`) || u.host(&l.Sources[IPv4], IPv4)) &&
		(!u.pass(`,"SourceIPv6":`) || u.host(&l.Sources[IPv6], IPv6)) &&
		(!u.pass(`,"NodeName":`) || u.word(&l.Node)) &&
		(!u.pass(`,"MachineID":`) || u.word(&l.MachineID)) &&
		u.pass("}") && u.text == ""
	return l, ok
}

// usual is what is left of a value, twice. Its methods take what is next and
// report whether that was as it usually is.
type usual struct {
	json []byte
	text string
}

// next takes n bytes.
func (u *usual) next(n int) (text string) {
	text, u.text, u.json = u.text[:n], u.text[n:], u.json[n:]
	return text
}

// pass takes a literal; where something else stands it takes nothing.
func (u *usual) pass(literal string) bool {
	if !strings.HasPrefix(u.text, literal) {
		return false
	}
	u.next(len(literal))
	return true
}

// plain takes a string of plain characters.
func (u *usual) plain() (s string, ok bool) {
	if !u.pass(`"`) {
		return "", false
	}
	end := strings.IndexByte(u.text, '"')
	if end < 0 || !plain(u.text[:end]) {
		return "", false
	}
	s = u.next(end)
	return s, u.pass(`"`)
}

func (u *usual) word(dst *string) bool {
	s, ok := u.plain()
	*dst = s
	return ok && len(s) <= longestWord
}

func (u *usual) host(dst *netip.Addr, f Family) bool {
	s, ok := u.plain()
	if !ok {
		return false
	}
	a, err := netip.ParseAddr(s)
	if err != nil || FamilyOf(a) != f || a.Is4In6() || a.Zone() != "" {
		return false
	}
	if a.IsUnspecified() { // what flannel writes for none
		return true
	}
	*dst = a
	return !wrongHost(a, f)
}

// object takes a JSON object without space between its tokens, and without
// any in its strings.
func (u *usual) object(dst *string) bool {
	depth, quoted := 0, false
	for i := range len(u.text) {
		c := u.text[i]
		switch {
		case c <= ' ' || c == '\\':
			return false
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if depth == 0 {
			if c != '}' || !json.Valid(u.json[:i+1]) {
				return false
			}
			*dst = u.next(i + 1)
			return true
		}
	}
	return false
}

// plain reports whether a string stands in JSON as it is, and is printable
// ASCII without spaces.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
