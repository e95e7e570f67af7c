package subnet

import (
	"encoding/binary"
	"net/netip"
)

// packed is a record, but for its age, in one string of some 130 bytes, where a
// Record and what its strings point to are four times that. Each text and each
// address, in netip's binary form, comes after its length.
type packed string

// appendPacked appends the packed form of r. Records that are equal but for
// their age have the same.
func appendPacked(b []byte, r *Record) []byte {
	l := &r.Lease
	for _, s := range [...]string{r.Key, l.Node, l.MachineID, l.BackendType, l.BackendData[IPv4], l.BackendData[IPv6], l.Extra, r.Invalid} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	for _, p := range l.Subnets {
		b = append(appendAddr(b, p.Addr()), byte(p.Bits()))
	}
	for f := range Families {
		b = appendAddr(b, l.PublicIPs[f])
		b = appendAddr(b, l.Sources[f])
	}
	if r.Reserved {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	var room [16]byte
	form, _ := a.WithZone("").AppendBinary(room[:0]) // a lease's has no zone; it never fails
	return append(append(b, byte(len(form))), form...)
}

// record returns what was packed. Its strings are parts of p.
func (p packed) record(created, modified int64) Record {
	r := Record{Created: created, Modified: modified}
	l := &r.Lease
	for _, s := range [...]*string{&r.Key, &l.Node, &l.MachineID, &l.BackendType, &l.BackendData[IPv4], &l.BackendData[IPv6], &l.Extra, &r.Invalid} {
		*s = p.text()
	}
	for f := range Families {
		a := p.addr()
		l.Subnets[f] = netip.PrefixFrom(a, int(p.take(1)[0])) // 255 for none
	}
	for f := range Families {
		l.PublicIPs[f] = p.addr()
		l.Sources[f] = p.addr()
	}
	r.Reserved = p[0] == 1
	return r
}

// key returns the record's key, a part of p.
func (p packed) key() string { return p.text() }

// take takes the next n bytes off.
func (p *packed) take(n int) string {
	s := (*p)[:n]
	*p = (*p)[n:]
	return string(s)
}

// text takes a text off.
func (p *packed) text() string {
	n, shift := 0, 0
	for i := 0; ; i++ {
		c := (*p)[i]
		n |= int(c&0x7f) << shift
		if shift += 7; c < 0x80 {
			p.take(i + 1)
			return p.take(n)
		}
	}
}

// addr takes an address off.
func (p *packed) addr() (a netip.Addr) {
	n := int((*p)[0])
	p.take(1)
	_ = a.UnmarshalBinary([]byte(p.take(n))) // is as appendAddr wrote it
	return a
}
