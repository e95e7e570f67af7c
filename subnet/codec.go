package subnet

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
)

// A lease value is flannel's: PublicIP, 0.0.0.0 for none as flannel's reader
// takes no null; PublicIPv6, null for none; BackendType, BackendData and
// BackendV6Data, left out for none. SourceIP, SourceIPv6, NodeName and MachineID
// are Twill's own; flannel's reader passes over them.
var valueMembers = []string{"PublicIP", "PublicIPv6", "BackendType", "BackendData", "BackendV6Data", "SourceIP", "SourceIPv6", "NodeName", "MachineID"}

// EncodeValue returns the lease as flannel and Twill write it under its key.
// Members that we do not know (Extra) are kept. A lease that DecodeValue would
// not take is an error.
func EncodeValue(l Lease) ([]byte, error) { return AppendValue(make([]byte, 0, 256), l) }

// AppendValue is EncodeValue, but appends to b.
func AppendValue(b []byte, l Lease) ([]byte, error) {
	start := len(b)
	b, err := appendMembers(b, l)
	if err == nil && (l.Extra != "" || l.doubtful()) {
		_, err = DecodeValue(l.Subnets, b[start:])
	}
	if err != nil {
		return nil, fmt.Errorf("encoding the lease of %s: %w", quote(l.ID()), err)
	}
	return b, nil
}

func appendMembers(b []byte, l Lease) ([]byte, error) {
	b = appendHost(append(b, `{"PublicIP":`...), cmp.Or(l.PublicIPs[IPv4], netip.IPv4Unspecified()))
	b = append(b, `,"PublicIPv6":`...)
	if a := l.PublicIPs[IPv6]; a.IsValid() {
		b = appendHost(b, a)
	} else {
		b = append(b, "null"...)
	}
	b = appendWord(b, `,"BackendType":`, l.BackendType)
	for f, name := range [...]string{`,"BackendData":`, `,"BackendV6Data":`} {
		if l.BackendData[f] == "" {
			continue
		}
		var err error
		if b, err = appendCompact(append(b, name...), l.BackendData[f]); err != nil {
			return nil, fmt.Errorf("lease value, %s: %w", valueMembers[3+f], err)
		}
	}
	for f, name := range [...]string{`,"SourceIP":`, `,"SourceIPv6":`} {
		if a := l.Sources[f]; a.IsValid() {
			b = appendHost(append(b, name...), a)
		}
	}
	b = appendWord(b, `,"NodeName":`, l.Node)
	b = appendWord(b, `,"MachineID":`, l.MachineID)
	if l.Extra != "" && l.Extra != "{}" {
		return append(append(b, ','), l.Extra[1:]...), nil
	}
	return append(b, '}'), nil
}

// appendCompact appends a JSON value without insignificant space.
func appendCompact(b []byte, data string) ([]byte, error) {
	start := len(b)
	b = append(b, data...)
	if u := (usual{json: b[start:], text: data}); u.object(&data) && u.text == "" {
		return b, nil
	}
	var compact bytes.Buffer
	err := json.Compact(&compact, b[start:])
	return append(b[:start], compact.Bytes()...), err
}

func appendHost(b []byte, a netip.Addr) []byte {
	return append(a.AppendTo(append(b, '"')), '"')
}

func appendWord(b []byte, name, word string) []byte {
	if word == "" {
		return b
	}
	b = append(b, name...)
	if plain(word) {
		return append(append(append(b, '"'), word...), '"')
	}
	quoted, _ := marshal(word) // of a string it never fails
	return append(b, quoted...)
}

// doubtful reports whether DecodeValue might refuse what the lease holds.
func (l Lease) doubtful() bool {
	for f := range Families {
		for _, a := range []netip.Addr{l.PublicIPs[f], l.Sources[f]} {
			if a.IsValid() && wrongHost(a, Families[f]) {
				return true
			}
		}
	}
	return wrongWord(l.BackendType) || wrongWord(l.Node) || wrongWord(l.MachineID)
}

// marshal is json.Marshal, but leaves <, > and & as they are, so that a value
// which is decoded and encoded again stays the same.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// DecodeValue reads a lease value for the subnets of its key. What it cannot
// use is an error which names the member and what is expected; the returned
// lease then still has what could be read, so that the record can be refused
// by its node's name.
func DecodeValue(subnets PerFamily[netip.Prefix], b []byte) (Lease, error) {
	if l, ok := decodeUsual(subnets, b); ok {
		return l, nil
	}
	return decodeAny(subnets, b)
}

// DecodeRecord reads a record from its key and value, all but what only the
// store knows: when it was made and written, and whether it is reserved. It never
// fails; Invalid says what is wrong, with the key before the value.
func DecodeRecord(key string, value []byte) Record {
	r := Record{Key: key}
	subnets, err := DecodeKey(key)
	if err != nil {
		r.Invalid = err.Error()
	}
	if r.Lease, err = DecodeValue(subnets, value); err != nil && r.Invalid == "" {
		r.Invalid = err.Error()
	}
	return r
}

// decodeAny reads whatever flannel's reader takes, and says what is wrong.
func decodeAny(subnets PerFamily[netip.Prefix], b []byte) (Lease, error) {
	l := Lease{Subnets: subnets}
	list, failed := members(b)
	if failed != nil {
		failed = fmt.Errorf("lease value %s: it must be one JSON object: %w", clip(string(b)), failed)
	}
	extra := map[string]json.RawMessage{}
	given := map[string]string{} // as written, by the name it counts for
	for _, m := range list {
		name := m.name
		for _, ours := range valueMembers {
			if strings.EqualFold(name, ours) { // as encoding/json matches them, flannel's reader
				name = ours
			}
		}
		var err error
		if first, twice := given[name]; twice {
			err = fmt.Errorf("it stands there as %s already", clip(first))
		} else {
			given[name] = m.name
			err = l.setMember(name, m.raw, extra)
		}
		if err != nil && failed == nil {
			failed = fmt.Errorf("lease value, %s: %w", clip(m.name), err)
		}
	}
	if len(extra) > 0 {
		b, err := marshal(extra) // sorted by name: equal objects give equal strings
		if err != nil && failed == nil {
			failed = fmt.Errorf("lease value: %w", err)
		}
		l.Extra = string(b)
	}
	return l, failed
}

func (l *Lease) setMember(name string, raw json.RawMessage, extra map[string]json.RawMessage) error {
	switch name {
	case "PublicIP":
		return setHost(&l.PublicIPs[IPv4], IPv4, raw)
	case "PublicIPv6":
		return setHost(&l.PublicIPs[IPv6], IPv6, raw)
	case "SourceIP":
		return setHost(&l.Sources[IPv4], IPv4, raw)
	case "SourceIPv6":
		return setHost(&l.Sources[IPv6], IPv6, raw)
	case "BackendType":
		return setWord(&l.BackendType, raw)
	case "BackendData":
		return l.setBackendData(IPv4, raw)
	case "BackendV6Data":
		return l.setBackendData(IPv6, raw)
	case "NodeName":
		return setWord(&l.Node, raw)
	case "MachineID":
		return setWord(&l.MachineID, raw)
	}
	extra[name] = raw
	return nil
}

// setHost reads the address of a node.
func setHost(dst *netip.Addr, f Family, raw json.RawMessage) error {
	s, err := stringOrNull(raw)
	if err != nil || s == "" {
		return err
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() || FamilyOf(a) != f {
		return fmt.Errorf("%s is not an %s address", quote(s), f)
	}
	if a.IsUnspecified() { // what flannel writes for none
		return nil
	}
	if wrongHost(a, f) {
		return fmt.Errorf("%s cannot be the address of a node", a)
	}
	*dst = a
	return nil
}

func (l *Lease) setBackendData(f Family, raw json.RawMessage) error {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return err
	}
	if s := b.String(); s != "null" {
		l.BackendData[f] = s
	}
	return nil
}

func wrongHost(a netip.Addr, f Family) bool {
	return a.Zone() != "" || a.Is4In6() || FamilyOf(a) != f || a.IsUnspecified() ||
		a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// setWord reads a name. Those go to logs, metrics and terminals, so that they
// have to be short and plain; 253 is what DNS, and so a Kubernetes node, has.
func setWord(dst *string, raw json.RawMessage) error {
	s, err := stringOrNull(raw)
	if err != nil {
		return err
	}
	if wrongWord(s) {
		return fmt.Errorf("%s is not a name: at most %d bytes, printable and without spaces", quote(s), longestWord)
	}
	*dst = s
	return nil
}

const longestWord = 253

func wrongWord(s string) bool {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' || r == unicode.ReplacementChar }
	return len(s) > longestWord || strings.ContainsFunc(s, odd)
}

func stringOrNull(raw json.RawMessage) (string, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil { // null leaves it empty
		return "", fmt.Errorf("%s is not a string", clip(raw))
	}
	return s, nil
}
