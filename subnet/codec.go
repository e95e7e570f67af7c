package subnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// EncodeKey returns flannel's key of a lease, below "<prefix>/subnets/":
// "10.5.52.0-24", with IPv6 "10.5.52.0-24&fd00:12:13::-56". For IPv6 alone the
// IPv4 part is "0.0.0.0-0", since flannel's readers insist on one.
func EncodeKey(subnets PerFamily[netip.Prefix]) string {
	v4, v6 := subnets[IPv4], subnets[IPv6]
	if !v4.IsValid() {
		v4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	key := fmt.Sprintf("%s-%d", v4.Addr(), v4.Bits())
	if v6.IsValid() {
		key += fmt.Sprintf("&%s-%d", v6.Addr(), v6.Bits())
	}
	return key
}

// DecodeKey is the inverse of EncodeKey; it also takes an IPv6 subnet alone.
// Subnets with host bits set are refused.
func DecodeKey(key string) (PerFamily[netip.Prefix], error) {
	var subnets PerFamily[netip.Prefix]
	for part := range strings.SplitSeq(key, "&") {
		addr, bits, ok := cutLast(part, "-")
		if !ok {
			return subnets, keyError(key, fmt.Sprintf("%q lacks the prefix length", part))
		}
		p, err := netip.ParsePrefix(addr + "/" + bits)
		if err != nil {
			return subnets, keyError(key, fmt.Sprintf("%q is not an address and a prefix length", part))
		}
		if p == netip.PrefixFrom(netip.IPv4Unspecified(), 0) {
			continue
		}
		if p != p.Masked() {
			return subnets, keyError(key, fmt.Sprintf("%s has host bits set; its subnet is %s", p, p.Masked()))
		}
		f := FamilyOf(p.Addr())
		if p.Addr().Is4In6() || subnets[f].IsValid() {
			return subnets, keyError(key, fmt.Sprintf("%s is not the one subnet of its family", p))
		}
		subnets[f] = p
	}
	if subnets == (PerFamily[netip.Prefix]{}) {
		return subnets, keyError(key, "it names no subnet")
	}
	return subnets, nil
}

func keyError(key, why string) error {
	return fmt.Errorf("lease key %q: %s (want 10.5.52.0-24 or 10.5.52.0-24&fd00:12:13::-56)", key, why)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// value is flannel's lease value. NodeName and MachineID are Twill's own;
// flannel's readers pass over them.
type value struct {
	PublicIP      *netip.Addr     `json:"PublicIP"`
	PublicIPv6    *netip.Addr     `json:"PublicIPv6"`
	BackendType   string          `json:"BackendType,omitempty"`
	BackendData   json.RawMessage `json:"BackendData,omitempty"`
	BackendV6Data json.RawMessage `json:"BackendV6Data,omitempty"`
	NodeName      string          `json:"NodeName,omitempty"`
	MachineID     string          `json:"MachineID,omitempty"`
}

// ourMembers are the members of value by their lower-case names, as
// encoding/json matches them.
var ourMembers = map[string]bool{
	"publicip": true, "publicipv6": true, "backendtype": true, "backenddata": true,
	"backendv6data": true, "nodename": true, "machineid": true,
}

// EncodeValue returns the lease as flannel and Twill write it under its key.
// Members that we do not know (Extra) are kept.
func EncodeValue(l Lease) ([]byte, error) {
	v := value{
		BackendType: l.BackendType, NodeName: l.Node, MachineID: l.MachineID,
		BackendData: json.RawMessage(l.BackendData[IPv4]), BackendV6Data: json.RawMessage(l.BackendData[IPv6]),
	}
	for f, dst := range map[Family]**netip.Addr{IPv4: &v.PublicIP, IPv6: &v.PublicIPv6} {
		if a := l.PublicIPs[f]; a.IsValid() {
			*dst = &a
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding the lease of %s: %w", l.ID(), err)
	}
	if l.Extra == "" || l.Extra == "{}" {
		return b, nil
	}
	return append(append(b[:len(b)-1], ','), l.Extra[1:]...), nil
}

// DecodeValue reads a lease value for the subnets of its key. What it cannot
// use is an error which names the member and what is expected; the returned
// lease then still has what could be read, so that the record can be refused
// by its node's name.
func DecodeValue(subnets PerFamily[netip.Prefix], b []byte) (Lease, error) {
	l := Lease{Subnets: subnets}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return l, fmt.Errorf("lease value is not a JSON object: %w", err)
	}
	if members == nil {
		return l, errors.New("lease value is null, not a JSON object")
	}
	var errs []error
	extra := map[string]json.RawMessage{}
	for name, raw := range members {
		if err := l.setMember(name, raw, extra); err != nil {
			errs = append(errs, fmt.Errorf("lease value, %s: %w", name, err))
		}
	}
	if len(extra) > 0 {
		b, err := json.Marshal(extra) // sorted by name: equal objects give equal strings
		if err != nil {
			errs = append(errs, fmt.Errorf("lease value: %w", err))
		}
		l.Extra = string(b)
	}
	if len(errs) > 0 {
		return l, firstByText(errs)
	}
	return l, nil
}

// firstByText makes the error of several the same in each run, whatever the
// order of a map.
func firstByText(errs []error) error {
	first := errs[0]
	for _, e := range errs[1:] {
		if e.Error() < first.Error() {
			first = e
		}
	}
	return first
}

func (l *Lease) setMember(name string, raw json.RawMessage, extra map[string]json.RawMessage) error {
	switch strings.ToLower(name) {
	case "publicip":
		return l.setPublicIP(IPv4, raw)
	case "publicipv6":
		return l.setPublicIP(IPv6, raw)
	case "backendtype":
		return setString(&l.BackendType, raw)
	case "backenddata":
		return l.setBackendData(IPv4, raw)
	case "backendv6data":
		return l.setBackendData(IPv6, raw)
	case "nodename":
		return setString(&l.Node, raw)
	case "machineid":
		return setString(&l.MachineID, raw)
	}
	extra[name] = raw
	return nil
}

func (l *Lease) setPublicIP(f Family, raw json.RawMessage) error {
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("%s is not a string", clip(raw))
	}
	if s == nil || *s == "" {
		return nil
	}
	a, err := netip.ParseAddr(*s)
	if err != nil || a.Zone() != "" || a.Is4In6() || FamilyOf(a) != f {
		return fmt.Errorf("%s is not an %s address", strconv.Quote(clip([]byte(*s))), f)
	}
	if a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return fmt.Errorf("%s cannot be the address of a node", a)
	}
	l.PublicIPs[f] = a
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

func setString(dst *string, raw json.RawMessage) error {
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("%s is not a string", clip(raw))
	}
	if s != nil {
		*dst = *s
	}
	return nil
}

// clip keeps hostile values from filling logs.
func clip(b []byte) string {
	const most = 64
	if len(b) > most {
		return string(b[:most]) + "…"
	}
	return string(b)
}
