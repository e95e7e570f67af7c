package subnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"math/big"
	"net/netip"
)

// ErrExhausted is wrapped when a network has no free subnet left.
var ErrExhausted = errors.New("no free subnet is left")

// Allocate chooses a free subnet in each enabled family of cfg: the previous
// one when it lies in the range and nobody overlaps it, else the first free
// one after a place which the node's name decides. So nodes that start at once
// rarely want the same, and a node whose lease ran out comes back to its own.
// taken lists the subnets that others hold, of any length.
func Allocate(cfg Config, node string, previous PerFamily[netip.Prefix], taken iter.Seq[netip.Prefix]) (PerFamily[netip.Prefix], error) {
	var got PerFamily[netip.Prefix]
	for _, f := range Families {
		r := cfg.Networks[f]
		if !r.Enabled() {
			continue
		}
		p, err := r.allocate(node, previous[f], taken)
		if err != nil {
			return got, fmt.Errorf("allocating an %s subnet of /%d in %s: %w", f, r.SubnetLen, r.Network, err)
		}
		got[f] = p
	}
	return got, nil
}

// Contains reports whether p is one of the subnets that the range leases.
func (r Range) Contains(p netip.Prefix) bool {
	return r.Enabled() && p.IsValid() && p.Bits() == r.SubnetLen && p == p.Masked() &&
		r.Network.Contains(p.Addr()) && r.Min.Compare(p.Addr()) <= 0 && p.Addr().Compare(r.Max) <= 0
}

func (r Range) allocate(node string, previous netip.Prefix, taken iter.Seq[netip.Prefix]) (netip.Prefix, error) {
	held := map[uint64]bool{} // indices of subnets from Min that somebody overlaps
	count := r.index(r.Max) + 1
	for p := range taken {
		if FamilyOf(p.Addr()) == FamilyOf(r.Min) {
			r.mark(held, p)
		}
	}
	if r.Contains(previous) && !held[r.index(previous.Addr())] {
		return previous, nil
	}
	if uint64(len(held)) >= count {
		return netip.Prefix{}, fmt.Errorf("%w: all %d are held; release some or widen the network", ErrExhausted, count)
	}
	h := fnv.New64a()
	h.Write([]byte(node))
	for i := h.Sum64() % count; ; i = (i + 1) % count {
		if !held[i] {
			return r.at(i), nil
		}
	}
}

// mark records the indices of the subnets of the range that p overlaps. A p
// shorter than SubnetLen may overlap many, but never more than are leased.
func (r Range) mark(held map[uint64]bool, p netip.Prefix) {
	lo, hi := p.Masked().Addr(), lastAddr(p)
	last := lastAddr(netip.PrefixFrom(r.Max, r.SubnetLen))
	if hi.Less(r.Min) || last.Less(lo) {
		return
	}
	if lo.Less(r.Min) {
		lo = r.Min
	}
	if last.Less(hi) {
		hi = last
	}
	// A network of up to 2^64 subnets cannot be marked one by one; such a
	// prefix would be a refused record anyway (see Snapshot), so its first
	// 2^20 subnets are enough to steer away from it.
	const most = 1 << 20
	from, to := r.index(lo), r.index(hi)
	for i := from; i <= to && i-from < most; i++ {
		held[i] = true
	}
}

// index returns which subnet of the range holds a, counted from Min.
func (r Range) index(a netip.Addr) uint64 {
	d := new(big.Int).Sub(toInt(a), toInt(r.Min))
	return d.Rsh(d, uint(a.BitLen()-r.SubnetLen)).Uint64()
}

// at returns the i-th subnet of the range.
func (r Range) at(i uint64) netip.Prefix {
	d := new(big.Int).SetUint64(i)
	d.Lsh(d, uint(r.Min.BitLen()-r.SubnetLen))
	d.Add(d, toInt(r.Min))
	b := d.FillBytes(make([]byte, r.Min.BitLen()/8))
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, r.SubnetLen)
}

func toInt(a netip.Addr) *big.Int { return new(big.Int).SetBytes(a.AsSlice()) }

// lastAddr returns the highest address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		v := binary.BigEndian.Uint32(p.Masked().Addr().AsSlice())
		v |= uint32(1<<(32-p.Bits()) - 1)
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
	}
	b := p.Masked().Addr().As16()
	for i := p.Bits(); i < 128; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom16(b)
}
